#!/bin/sh
# A route to somewhere else.
set -eu
net=$(ip -4 -o address show dev eth0 | awk '{print $4; exit}' | cut -d. -f1-3)
ip route add 198.51.100.0/24 via "$net.250" dev eth0
