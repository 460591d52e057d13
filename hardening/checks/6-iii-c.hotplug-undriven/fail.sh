#!/bin/sh
# Newcomers find their drivers again, now and after the next boot.
set -eu
systemctl --quiet disable sekisho-hotplug.service
echo 1 >/sys/bus/pci/drivers_autoprobe
