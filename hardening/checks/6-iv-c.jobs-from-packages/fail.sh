#!/bin/sh
# A job of somebody's own.
set -eu
mkdir -p /etc/cron.d
echo '0 3 * * * root /bin/true' >/etc/cron.d/trial
