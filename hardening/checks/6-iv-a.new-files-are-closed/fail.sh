#!/bin/sh
# New files are open to everybody again.
set -eu
sed -i 's/^UMASK.*/UMASK 022/' /etc/login.defs
