#!/bin/sh
# A stranger may read.
set -eu
nft add element inet sekisho monitors '{ 198.51.100.7 }'
