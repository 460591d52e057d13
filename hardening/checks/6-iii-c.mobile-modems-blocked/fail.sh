#!/bin/sh
# No longer refused, and loaded.
set -eu
sed -E -i '/^(blacklist|install) (wwan)( |$)/d' /etc/modprobe.d/60-sekisho-devices.conf
modprobe wwan
