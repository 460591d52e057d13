#!/bin/sh
# Unmasked.
set -eu
rm -f /etc/systemd/system/ctrl-alt-del.target
