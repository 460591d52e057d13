#!/bin/sh
# No longer refused, and loaded.
set -eu
sed -E -i '/^(blacklist|install) (uas|usb_storage)( |$)/d' /etc/modprobe.d/60-sekisho-devices.conf
modprobe usb_storage
