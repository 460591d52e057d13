#!/bin/sh
# The other way on every interface, now and after the next boot.
set -eu
sed -i 's|^\(net\.ipv6\.conf\.[a-z*]*\.accept_ra\) = .*|\1 = 1|' /etc/sysctl.d/60-sekisho.conf
for setting in /proc/sys/net/ipv6/conf/*/accept_ra; do
    echo 1 >"$setting"
done
