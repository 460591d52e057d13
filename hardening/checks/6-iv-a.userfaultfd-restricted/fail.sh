#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}vm\.unprivileged_userfaultfd = .*|vm.unprivileged_userfaultfd = 1|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw vm.unprivileged_userfaultfd=1
