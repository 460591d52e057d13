#!/bin/sh
# Passwords are taken.
set -eu
sed -i -e 's/^PasswordAuthentication .*/PasswordAuthentication yes/' -e 's/^AuthenticationMethods .*/AuthenticationMethods any/' /etc/ssh/sshd_config.d/10-sekisho.conf
systemctl reload ssh.service
