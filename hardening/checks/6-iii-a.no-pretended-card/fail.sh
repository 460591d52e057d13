#!/bin/sh
# A card that is none.
set -eu
ip link add pretended type dummy 2>/dev/null ||
    ip link add link eth0 name pretended type vlan id 77 2>/dev/null ||
    ip link add pretended type bridge
