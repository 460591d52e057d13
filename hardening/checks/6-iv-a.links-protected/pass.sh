#!/bin/sh
# Protection in sticky directories of everybody only: enough.
set -eu
sed -i 's|^fs\.protected_fifos = .*|fs.protected_fifos = 1|' /etc/sysctl.d/60-sekisho.conf
sysctl -qw fs.protected_fifos=1
