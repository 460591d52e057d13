#!/bin/sh
# The other way on every interface, now and after the next boot.
set -eu
sed -i 's|^\(net\.ipv4\.conf\.[a-z*]*\.proxy_arp\) = .*|\1 = 1|' /etc/sysctl.d/60-sekisho.conf
for setting in /proc/sys/net/ipv4/conf/*/proxy_arp; do
    echo 1 >"$setting"
done
