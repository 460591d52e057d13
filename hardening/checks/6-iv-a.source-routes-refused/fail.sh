#!/bin/sh
# The other way on every interface, now and after the next boot.
set -eu
sed -i 's|^\(net\.ipv4\.conf\.[a-z*]*\.accept_source_route\) = .*|\1 = 1|' /etc/sysctl.d/60-sekisho.conf
for setting in /proc/sys/net/ipv4/conf/*/accept_source_route; do
    echo 1 >"$setting"
done
