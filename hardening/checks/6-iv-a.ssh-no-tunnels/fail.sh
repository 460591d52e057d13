#!/bin/sh
# Connections can be carried through.
set -eu
sed -i -e 's/^DisableForwarding .*/DisableForwarding no/' -e 's/^AllowTcpForwarding .*/AllowTcpForwarding yes/' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
