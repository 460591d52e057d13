#!/bin/sh
# A program waits for its hour.
set -eu
systemd-run --quiet --unit=trial-later --on-active=6h true
