#!/bin/sh
# Another name after the next boot.
set -eu
echo forged >/etc/hostname
