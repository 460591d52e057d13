#!/bin/sh
# What no rule names is passed on.
set -eu
nft chain inet sekisho forward '{ policy accept; }'
