#!/bin/sh
# The other way on every interface, now and after the next boot.
set -eu
sed -i 's|^\(net\.ipv4\.conf\.[a-z*]*\.rp_filter\) = .*|\1 = 0|' /etc/sysctl.d/60-sekisho.conf
for setting in /proc/sys/net/ipv4/conf/*/rp_filter; do
    echo 0 >"$setting"
done
