#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}net\.ipv4\.tcp_syncookies = .*|net.ipv4.tcp_syncookies = 0|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw net.ipv4.tcp_syncookies=0
