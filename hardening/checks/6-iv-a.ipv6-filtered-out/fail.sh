#!/bin/sh
# IPv6 let out.
set -eu
nft insert rule inet sekisho output meta nfproto ipv6 accept
