#!/bin/sh
# A user's own environment is taken.
set -eu
sed -i 's/^PermitUserEnvironment .*/PermitUserEnvironment yes/' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
