#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}fs\.protected_hardlinks = .*|fs.protected_hardlinks = 0|' /etc/sysctl.d/60-sekisho.conf
sed -i 's|^-\{0,1\}fs\.protected_symlinks = .*|fs.protected_symlinks = 0|' /etc/sysctl.d/60-sekisho.conf
sed -i 's|^-\{0,1\}fs\.protected_fifos = .*|fs.protected_fifos = 0|' /etc/sysctl.d/60-sekisho.conf
sed -i 's|^-\{0,1\}fs\.protected_regular = .*|fs.protected_regular = 0|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw fs.protected_hardlinks=0
sysctl -qw fs.protected_symlinks=0
sysctl -qw fs.protected_fifos=0
sysctl -qw fs.protected_regular=0
