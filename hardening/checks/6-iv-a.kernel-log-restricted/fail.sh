#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}kernel\.dmesg_restrict = .*|kernel.dmesg_restrict = 0|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw kernel.dmesg_restrict=0
