#!/bin/sh
# Disabled, and the network does not wait for it.
set -eu
systemctl --quiet disable sekisho-nftables.service
rm -f /etc/systemd/system/systemd-networkd.service.d/10-sekisho-rules-first.conf
