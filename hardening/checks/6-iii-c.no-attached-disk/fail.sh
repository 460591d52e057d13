#!/bin/sh
# A removable disk appears (pretended in software).
set -eu
insmod "$(find "/lib/modules/$(uname -r)" -name "scsi_debug.ko*" -print -quit)" removable=1 dev_size_mb=8
sleep 2
