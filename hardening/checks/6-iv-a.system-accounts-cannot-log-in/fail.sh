#!/bin/sh
# A system account gets a shell.
set -eu
usermod --shell /bin/sh daemon
