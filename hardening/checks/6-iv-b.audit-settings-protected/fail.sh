#!/bin/sh
# The daemon's settings can be written by a group.
set -eu
chgrp adm /etc/audit/auditd.conf
chmod 0660 /etc/audit/auditd.conf
