#!/bin/sh
# A network more on the line to inbound.
set -eu
ip address add 198.51.100.77/28 dev eth1
