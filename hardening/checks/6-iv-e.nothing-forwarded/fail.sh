#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}net\.ipv4\.ip_forward = .*|net.ipv4.ip_forward = 1|' /etc/sysctl.d/61-sekisho-forwarding.conf
sysctl -qw net.ipv4.ip_forward=1
