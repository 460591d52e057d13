#!/bin/sh
# The flow from inbound taken out.
set -eu
nft delete element inet sekisho flow_in "$(nft list map inet sekisho flow_in | sed -n 's/.*elements = { \(.*\) : .*/{ \1 }/p')"
