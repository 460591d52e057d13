#!/bin/sh
# Files that others can change are trusted.
set -eu
sed -i 's/^StrictModes .*/StrictModes no/' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
