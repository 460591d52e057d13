#!/bin/sh
# The other way on every interface, now and after the next boot.
set -eu
sed -i 's|^\(net\.ipv4\.conf\.[a-z*]*\.arp_announce\) = .*|\1 = 0|' /etc/sysctl.d/60-sekisho.conf
for setting in /proc/sys/net/ipv4/conf/*/arp_announce; do
    echo 0 >"$setting"
done
