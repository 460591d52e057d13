#!/bin/sh
# A mount in memory of the site's own.
set -eu
printf 'tmpfs /var/spool/site tmpfs nosuid,nodev,noexec 0 0\n' >>/etc/fstab
mkdir -p /var/spool/site
