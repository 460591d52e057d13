#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}net\.ipv4\.icmp_echo_ignore_broadcasts = .*|net.ipv4.icmp_echo_ignore_broadcasts = 0|' /etc/sysctl.d/60-sekisho.conf
sed -i 's|^-\{0,1\}net\.ipv4\.icmp_ignore_bogus_error_responses = .*|net.ipv4.icmp_ignore_bogus_error_responses = 0|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw net.ipv4.icmp_echo_ignore_broadcasts=0
sysctl -qw net.ipv4.icmp_ignore_bogus_error_responses=0
