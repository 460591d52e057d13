#!/bin/sh
# A stranger may wait for ever.
set -eu
sed -i 's/^LoginGraceTime .*/LoginGraceTime 0/' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
