#!/bin/sh
# Set back on disk, and in the running kernel.
set -eu
sed -i 's|^-\{0,1\}dev\.tty\.ldisc_autoload = .*|dev.tty.ldisc_autoload = 1|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw dev.tty.ldisc_autoload=1
