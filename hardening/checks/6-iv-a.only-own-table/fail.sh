#!/bin/sh
# A table of somebody else's, before ours.
set -eu
nft add table ip forged
nft add chain ip forged before '{ type filter hook prerouting priority -300; }'
