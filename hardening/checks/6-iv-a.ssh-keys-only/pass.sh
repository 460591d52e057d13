#!/bin/sh
# A file dropped beside the one configuration is not read.
set -eu
printf 'PasswordAuthentication yes\n' >/etc/ssh/sshd_config.d/05-dropped.conf
systemctl reload ssh.service
