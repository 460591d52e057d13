#!/bin/sh
# One rule more.
set -eu
nft insert rule inet sekisho input tcp dport 9 accept
