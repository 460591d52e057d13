#!/bin/sh
# A device that nobody listed is authorised by hand. It is pretended in software, as nobody can
# plug one in from here, so the check of pretended devices turns red with it.
set -eu
set_of() { find "/lib/modules/$(uname -r)" -name "$1.ko*" -print -quit; }
for module in udc-core libcomposite u_serial usb_f_acm dummy_hcd; do
    path=$(set_of "$module")
    grep -q "^$(echo "$module" | tr - _) " /proc/modules || insmod "$path"
done
insmod "$(set_of g_serial)"
sleep 2
for device in /sys/bus/usb/devices/[0-9]*-*; do
    [ ! -e "$device/authorized" ] || [ "$(cat "$device/idVendor" 2>/dev/null)" != 0525 ] ||
        echo 1 >"$device/authorized"
done
