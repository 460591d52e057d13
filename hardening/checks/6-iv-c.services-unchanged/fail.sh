#!/bin/sh
# sshd's service runs one thing more.
set -eu
printf '[Service]\nExecStartPre=/bin/true\n' >/etc/systemd/system/ssh.service.d/trial.conf
systemctl daemon-reload
