#!/bin/sh
# Anybody can read and empty the log.
set -eu
install -d -m 0755 /var/log/audit
touch /var/log/audit/audit.log
chmod 0666 /var/log/audit/audit.log
