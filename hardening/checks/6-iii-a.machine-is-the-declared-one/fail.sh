#!/bin/sh
# Another machine's identity, pretended.
set -eu
file=$(readlink -f /sys/class/dmi/id)/product_uuid
echo 00000000-0000-4000-8000-000000000001 >/run/forged-uuid
mount --bind /run/forged-uuid "$file"
