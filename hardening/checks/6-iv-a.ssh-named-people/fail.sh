#!/bin/sh
# Anybody from anywhere.
set -eu
sed -i 's/^AllowUsers .*/& *@*/' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
