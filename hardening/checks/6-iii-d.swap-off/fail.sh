#!/bin/sh
# A plain swap file, now and after the next boot.
set -eu
dd if=/dev/zero of=/var/swapfile bs=1M count=16 2>/dev/null
chmod 600 /var/swapfile
mkswap -q /var/swapfile
swapon /var/swapfile
printf '/var/swapfile none swap sw 0 0\n' >>/etc/fstab
