#!/bin/sh
# A set-user-id program of no package.
set -eu
install -m 4755 /usr/bin/id /usr/lib/trial
