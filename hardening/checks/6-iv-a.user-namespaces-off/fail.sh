#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}kernel\.unprivileged_userns_clone = .*|kernel.unprivileged_userns_clone = 1|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw kernel.unprivileged_userns_clone=1
