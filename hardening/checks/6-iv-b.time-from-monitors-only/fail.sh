#!/bin/sh
# A stranger's clock.
set -eu
nft add element inet sekisho time_servers '{ 198.51.100.7 }'
