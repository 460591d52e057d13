#!/bin/sh
# The machine goes down when its disk is full.
set -eu
sed -i 's/^disk_full_action.*/disk_full_action = HALT/' /etc/audit/auditd.conf
