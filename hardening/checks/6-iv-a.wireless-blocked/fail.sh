#!/bin/sh
# No longer refused, and loaded.
set -eu
sed -E -i '/^(blacklist|install) (cfg80211)( |$)/d' /etc/modprobe.d/60-sekisho-kernel.conf
modprobe cfg80211
