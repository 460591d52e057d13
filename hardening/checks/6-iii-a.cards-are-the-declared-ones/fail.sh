#!/bin/sh
# Bound to a card that is not there.
set -eu
sed -i 's/^MACAddress=.*/MACAddress=02:00:00:00:00:01/' /etc/systemd/network/05-sekisho-eth0.network
