#!/bin/sh
# A service of somebody's own.
set -eu
printf '[Service]\nExecStart=/usr/bin/sleep infinity\n' >/etc/systemd/system/trial.service
systemctl daemon-reload
systemctl start trial.service
