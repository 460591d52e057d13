#!/bin/sh
# No longer refused, and loaded.
set -eu
sed -E -i '/^(blacklist|install) (cdrom|sr_mod)( |$)/d' /etc/modprobe.d/60-sekisho-devices.conf
modprobe sr_mod
