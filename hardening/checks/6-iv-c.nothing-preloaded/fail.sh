#!/bin/sh
# A library in every program.
set -eu
find /usr/lib -name libdl.so.2 -print -quit >/etc/ld.so.preload
