#!/bin/sh
# A folder like /tmp, in which each keeps their own.
set -eu
mkdir -p /srv/shared
chmod 1777 /srv/shared
