#!/bin/sh
# One small log.
set -eu
sed -i -e 's/^max_log_file =.*/max_log_file = 1/' -e 's/^num_logs.*/num_logs = 2/' /etc/audit/auditd.conf
