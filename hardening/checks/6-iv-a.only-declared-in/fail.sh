#!/bin/sh
# Whatever is UDP comes in.
set -eu
nft insert rule inet sekisho input meta l4proto udp accept
