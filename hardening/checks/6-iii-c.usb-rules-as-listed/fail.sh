#!/bin/sh
# One more line: every device of one maker is let in.
set -eu
printf '%s\n' 'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{idVendor}=="0781", ATTR{authorized}="1"' \
    >>/etc/udev/rules.d/60-sekisho-usb.rules
udevadm control --reload
