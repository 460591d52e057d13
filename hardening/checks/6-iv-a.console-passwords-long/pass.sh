#!/bin/sh
# A site may ask for more.
set -eu
sed -i 's/^minlen.*/minlen = 20/' /etc/security/pwquality.conf
