#!/bin/sh
# No warning is given.
set -eu
sed -i 's/^Banner .*/Banner none/' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
