#!/bin/sh
# No longer refused, and loaded.
set -eu
sed -E -i '/^(blacklist|install) (firewire_core|firewire_sbp2)( |$)/d' /etc/modprobe.d/60-sekisho-devices.conf
modprobe firewire_sbp2
