#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}kernel\.modprobe = .*|kernel.modprobe = /var/tmp/helper|' /etc/sysctl.d/60-sekisho.conf
sed -i 's|^-\{0,1\}kernel\.poweroff_cmd = .*|kernel.poweroff_cmd = /var/tmp/helper|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw kernel.modprobe=/var/tmp/helper
sysctl -qw kernel.poweroff_cmd=/var/tmp/helper
