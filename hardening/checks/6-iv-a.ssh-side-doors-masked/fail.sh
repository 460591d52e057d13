#!/bin/sh
# A socket of the generator's kind, unmasked and listening.
set -eu
rm -f /etc/systemd/system/sshd-unix-local.socket
printf '[Socket]\nListenStream=/run/trial-ssh\nAccept=yes\n' >/run/systemd/system/sshd-unix-local.socket
printf '[Service]\nExecStart=-/usr/sbin/sshd -i\nStandardInput=socket\n' \
    >/run/systemd/system/sshd-unix-local@.service
systemctl daemon-reload
systemctl start sshd-unix-local.socket
