#!/bin/sh
# IPv6 passed on as well, now and after the next boot.
set -eu
sed -i 's|^net\.ipv6\.conf\.all\.forwarding = .*|net.ipv6.conf.all.forwarding = 1|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw net.ipv6.conf.all.forwarding=1
