#!/bin/sh
# One recipient more than the site has.
set -eu
nft add counter inet sekisho forged
nft add element inet sekisho flow_out '{ "eth2" . 198.51.100.1 . 198.51.100.2 . 7601 : "forged" }'
