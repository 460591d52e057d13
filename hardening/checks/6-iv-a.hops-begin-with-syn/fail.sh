#!/bin/sh
# The rule deleted.
set -eu
handle=$(nft -a list chain inet sekisho input | sed -n 's/.*hops-begin-with-syn.*# handle //p' | head -n1)
nft delete rule inet sekisho input handle "$handle"
