#!/bin/sh
# A flow that asks for no IPsec in a chain of its own.
set -eu
nft add chain inet sekisho line-forged
nft add rule inet sekisho line-forged accept
nft add rule inet sekisho line-forged drop
if ! nft list map inet sekisho line_forward >/dev/null 2>&1; then
    nft add map inet sekisho line_forward '{ type ifname . ifname . ipv4_addr . ipv4_addr . inet_service : verdict; }'
    nft add rule inet sekisho forward iifname . oifname . ip saddr . ip daddr . tcp dport vmap @line_forward
fi
nft add element inet sekisho line_forward '{ "eth1" . "eth2" . 198.51.100.1 . 198.51.100.2 . 7601 : jump line-forged }'
