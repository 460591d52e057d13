#!/bin/sh
# A home that everybody can look into.
set -eu
chmod 0755 /home/aoki
