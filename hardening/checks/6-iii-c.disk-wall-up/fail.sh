#!/bin/sh
# The wall is lowered, now and for the next boot.
set -eu
systemctl disable --quiet sekisho-disks.service sekisho-disks-seal.service
echo 1 >/sys/bus/virtio/drivers_autoprobe
