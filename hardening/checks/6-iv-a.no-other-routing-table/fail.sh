#!/bin/sh
# A second table.
set -eu
ip rule add from 198.51.100.8 lookup 77 priority 77
ip route add 198.51.100.128/25 dev eth0 table 77
