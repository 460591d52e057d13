#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}vm\.mmap_min_addr = .*|vm.mmap_min_addr = 4096|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw vm.mmap_min_addr=4096
