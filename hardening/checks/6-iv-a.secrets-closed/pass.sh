#!/bin/sh
# Tighter is no breach.
set -eu
chmod 0600 /etc/shadow
