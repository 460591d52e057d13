#!/bin/sh
# The auditor gets a terminal.
set -eu
sed -i '/^    PermitTTY no/d' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
