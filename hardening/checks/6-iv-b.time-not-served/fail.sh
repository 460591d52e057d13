#!/bin/sh
# It answers everybody, now and after the next boot.
set -eu
sed -i '/^port 0$/d; /^cmdport 0$/d' /etc/chrony/chrony.conf
printf 'allow\n' >>/etc/chrony/chrony.conf
systemctl restart chrony.service
