#!/bin/sh
# A list that is none.
set -eu
mkdir -p /etc/swanctl/x509crl
echo nothing >/etc/swanctl/x509crl/site.crl.pem
