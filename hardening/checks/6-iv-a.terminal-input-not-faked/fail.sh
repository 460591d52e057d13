#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}dev\.tty\.legacy_tiocsti = .*|dev.tty.legacy_tiocsti = 1|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw dev.tty.legacy_tiocsti=1
