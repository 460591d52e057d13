#!/bin/sh
# Twenty connections in two seconds, and the socket is gone for good.
set -eu
mkdir -p /etc/systemd/system/sekisho-probe.socket.d
printf '[Socket]\nTriggerLimitIntervalSec=2\nTriggerLimitBurst=20\n' \
    >/etc/systemd/system/sekisho-probe.socket.d/90-limit.conf
systemctl daemon-reload
