#!/bin/sh
# More than asked for.
set -eu
sed -i -e 's/^max_log_file =.*/max_log_file = 64/' /etc/audit/auditd.conf
