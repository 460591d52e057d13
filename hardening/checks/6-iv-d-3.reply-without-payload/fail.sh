#!/bin/sh
# Forty bytes of payload accepted behind a short header.
set -eu
nft insert rule inet sekisho bare tcp doff 5 ip length 80 accept
