#!/bin/sh
# A stranger's address let in.
set -eu
nft add element inet sekisho ssh_from '{ 198.51.100.7 }'
