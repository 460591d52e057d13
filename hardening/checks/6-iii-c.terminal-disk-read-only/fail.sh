#!/bin/sh
# Root opens the disk for writing again. (It takes a boot to shut it: everything else is in memory.)
set -eu
for disk in /sys/block/[hsv]d?; do
    blockdev --setrw "/dev/${disk##*/}"
done
