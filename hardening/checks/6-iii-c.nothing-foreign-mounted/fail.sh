#!/bin/sh
# A FAT image mounted, and a drive in fstab that any user may mount.
set -eu
sed -E -i '/^(blacklist|install) (loop)( |$)/d' /etc/modprobe.d/60-sekisho-devices.conf
modprobe loop
printf '/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n' >>/etc/fstab
mkdir -p /var/tmp/foreign
dd if=/dev/zero of=/var/tmp/foreign.img bs=1M count=8 2>/dev/null
mkfs.vfat /var/tmp/foreign.img >/dev/null
mount -o loop /var/tmp/foreign.img /var/tmp/foreign
