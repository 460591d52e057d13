#!/bin/sh
# A certificate that ends tomorrow.
set -eu
mkdir -p /etc/swanctl/x509
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 1 -subj /CN=short \
    -keyout /dev/null -out /etc/swanctl/x509/line.crt.pem 2>/dev/null
