#!/bin/sh
# A removable disk appears (pretended in software), past a disk wall that was taken down by hand.
set -eu
rm -f /etc/udev/rules.d/61-sekisho-disks.rules
udevadm control --reload
[ -e /sys/module/scsi_mod ] || modprobe scsi_mod
echo sync >/sys/module/scsi_mod/parameters/scan
insmod "$(find "/lib/modules/$(uname -r)" -name "scsi_debug.ko*" -print -quit)" removable=1 dev_size_mb=8
sleep 2
