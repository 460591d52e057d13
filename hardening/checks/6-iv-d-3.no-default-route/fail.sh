#!/bin/sh
# The way to everywhere, after the next boot.
set -eu
printf '\n[Route]\nGateway=198.51.100.1\n' >>/etc/systemd/network/05-sekisho-eth0.network
