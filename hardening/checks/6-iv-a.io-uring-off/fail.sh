#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}kernel\.io_uring_disabled = .*|kernel.io_uring_disabled = 0|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw kernel.io_uring_disabled=0
