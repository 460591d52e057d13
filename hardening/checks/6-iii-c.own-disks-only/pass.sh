#!/bin/sh
# A disk mapped in memory is no storage: gone with the power, and nothing of it is on a disk.
set -eu
modprobe zram num_devices=1
test -e /sys/block/zram0
