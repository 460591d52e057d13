#!/bin/sh
# Short packets are let through, the chain of empty replies is as it was.
set -eu
nft insert rule inet sekisho forward ip length 20-80 accept
