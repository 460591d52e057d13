#!/bin/sh
# The kernel is marked as having had an unsigned module. A restart alone clears the mark.
set -eu
echo 8192 >/proc/sys/kernel/tainted
