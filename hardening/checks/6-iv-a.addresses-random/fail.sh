#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}kernel\.randomize_va_space = .*|kernel.randomize_va_space = 0|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw kernel.randomize_va_space=0
