#!/bin/sh
# The other way on every interface, now and after the next boot.
set -eu
sed -i 's|^\(net\.ipv6\.conf\.[a-z*]*\.disable_ipv6\) = .*|\1 = 0|' /etc/sysctl.d/60-sekisho.conf
for setting in /proc/sys/net/ipv6/conf/*/disable_ipv6; do
    echo 0 >"$setting"
done
