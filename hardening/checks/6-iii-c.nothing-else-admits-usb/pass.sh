#!/bin/sh
# A rule that only looks at the authorisation changes nothing.
set -eu
printf '%s\n' 'SUBSYSTEM=="usb", ATTR{authorized}=="1", ENV{SITE_NOTE}="listed"' >/etc/udev/rules.d/70-site.rules
udevadm control --reload
