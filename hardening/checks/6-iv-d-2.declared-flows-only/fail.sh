#!/bin/sh
# One flow more than the site has.
set -eu
nft add counter inet sekisho forged
if nft list map inet sekisho flow_forward >/dev/null 2>&1; then
    nft add element inet sekisho flow_forward '{ "eth1" . "eth2" . 198.51.100.1 . 198.51.100.2 . 7601 : "forged" }'
else
    nft add element inet sekisho flow_in '{ "eth1" . 198.51.100.1 . 198.51.100.2 . 7601 : "forged" }'
fi
