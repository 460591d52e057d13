#!/bin/sh
# A terminal nobody declared.
set -eu
set_=$(nft list sets table inet sekisho | sed -n 's/.*set \(session_[a-z]*\) .*/\1/p' | head -n1)
nft add element inet sekisho "$set_" '{ "eth3" . 198.51.100.9 . 198.51.100.10 . 22 }'
