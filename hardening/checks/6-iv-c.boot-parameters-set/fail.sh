#!/bin/sh
# The file is gone.
set -eu
rm -f /etc/default/grub.d/sekisho.cfg
