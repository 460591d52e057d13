#!/bin/sh
# Everybody can read the hashes.
set -eu
chmod 0644 /etc/shadow
