#!/bin/sh
# A server that nobody listed.
set -eu
printf 'server 192.0.2.123 iburst\n' >>/etc/chrony/chrony.conf
systemctl restart chrony.service
