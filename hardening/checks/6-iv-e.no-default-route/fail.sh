#!/bin/sh
# The way to everywhere, through a stranger.
set -eu
net=$(ip -4 -o address show dev eth0 | awk '{print $4; exit}' | cut -d. -f1-3)
ip route add default via "$net.250" dev eth0
