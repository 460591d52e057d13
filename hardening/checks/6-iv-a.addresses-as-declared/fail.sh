#!/bin/sh
# An address more.
set -eu
ip address add 198.51.100.77/32 dev lo
