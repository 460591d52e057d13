#!/bin/sh
# Written when the kernel finds time.
set -eu
sed -i 's/^flush.*/flush = NONE/' /etc/audit/auditd.conf
