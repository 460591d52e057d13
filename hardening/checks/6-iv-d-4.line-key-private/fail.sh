#!/bin/sh
# A key that everybody may read.
set -eu
mkdir -p /etc/swanctl/private
(umask 022; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out /etc/swanctl/private/line.key.pem 2>/dev/null)
chmod 0644 /etc/swanctl/private/line.key.pem
