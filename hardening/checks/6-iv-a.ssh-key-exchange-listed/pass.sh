#!/bin/sh
# P-521 is a listed curve too.
set -eu
sed -i 's/^KexAlgorithms .*/KexAlgorithms ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521/' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
