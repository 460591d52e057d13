#!/bin/sh
# Six characters are enough.
set -eu
sed -i 's/^minlen.*/minlen = 6/' /etc/security/pwquality.conf
