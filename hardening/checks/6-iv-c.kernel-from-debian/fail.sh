#!/bin/sh
# Another image lies where the package put its own, and the kernel is marked. A restart clears both.
set -eu
image="/boot/vmlinuz-$(uname -r)"
cp "$image" /run/trial-image
printf 'x' >>/run/trial-image
mount --bind /run/trial-image "$image"
echo 8192 >/proc/sys/kernel/tainted
