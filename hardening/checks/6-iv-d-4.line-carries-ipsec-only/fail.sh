#!/bin/sh
# ESP to whoever asks.
set -eu
nft insert rule inet sekisho output ip protocol esp accept
