#!/bin/sh
# Buses open again, now and after the next boot.
set -eu
rm -f /etc/modprobe.d/60-sekisho-usb.conf
for switch in /sys/module/usbcore/parameters/authorized_default /sys/bus/usb/devices/usb*/authorized_default; do
    [ ! -w "$switch" ] || echo 1 >"$switch"
done
