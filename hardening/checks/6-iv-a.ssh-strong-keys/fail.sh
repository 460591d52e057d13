#!/bin/sh
# Short RSA keys are taken.
set -eu
sed -i 's/^RequiredRSASize .*/RequiredRSASize 1024/' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
