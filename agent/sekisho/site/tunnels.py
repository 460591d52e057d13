"""WireGuard lines of a site: which tunnel a gateway has to which peer, and for which flows. Pure.

A tunnel is one link and one peer on it, with an interface and a port of its own: by the interface
a packet came through, the packet filter knows whose it is (6-iv-d-1). Source: wg(8).
"""

from __future__ import annotations

import hashlib

from sekisho.policy.parts import Tunnel
from sekisho.site.model import Encryption, Machine, Site

#: What every place that shows such a line says of it.
CIPHERS = "ChaCha20-Poly1305, BLAKE2s and Curve25519: outside the default cipher list"


def tunnel_name(link: str, peer: str) -> str:
    """Return the name of the interface to ``peer`` on ``link``: eleven of the kernel's 15 bytes."""
    return f"wg-{hashlib.sha256(f'{link}/{peer}'.encode()).hexdigest()[:8]}"


def tunnel(site: Site, name: str, neighbour: str) -> str | None:
    """Return the interface by which a gateway's flows meet a peer, when that is a tunnel."""
    link = site.joins.get((name, neighbour))
    if link is None or neighbour not in site.peers or name not in site.machines:
        return None
    wireguard = site.links[link].encryption is Encryption.WIREGUARD
    return tunnel_name(link, neighbour) if wireguard else None


def cards(site: Site, machine: Machine) -> dict[str, str]:
    """Return interface → link of a machine: its cards, and its tunnels, which are on one too."""
    found = {name: one.link for name, one in machine.interfaces.items()}
    return found | {one.interface: one.link for one in tunnels_of(site, machine)}


def tunnels_of(site: Site, machine: Machine) -> tuple[Tunnel, ...]:
    """Return the tunnels of a machine, sorted by name."""
    found = []
    for card in machine.interfaces.values():
        link = site.links.get(card.link)
        if link is None or link.encryption is not Encryption.WIREGUARD:
            continue
        for name in link.between:
            peer = site.peers.get(name)
            if peer is None or peer.wireguard is None:
                continue
            found.append(
                Tunnel(
                    name=f"{link.name}-{name}",
                    link=link.name,
                    peer=name,
                    interface=tunnel_name(link.name, name),
                    outside=card.name,
                    local_address=str(card.address),
                    peer_address=str(peer.vpn),
                    port=peer.wireguard.port,
                    peer_key=peer.wireguard.key,
                    allowed=f"{peer.address}/32",
                    ciphers=CIPHERS,
                )
            )
    return tuple(sorted(found, key=lambda one: one.name))


def flat_tunnels(tunnels: tuple[Tunnel, ...]) -> dict[str, tuple[str, ...]]:
    """Return a policy's tunnels as flat lists of text: the form checks compare with probes."""
    return {
        "tunnel_cards": tuple(one.interface for one in tunnels),
        "tunnel_peers": tuple(
            f"{one.interface} {one.port} {one.peer_key} {one.peer_address}:{one.port} {one.allowed}"
            for one in tunnels
        ),
        "tunnel_ends": tuple(
            f"{one.outside} {one.peer_address} {one.local_address} {one.port}" for one in tunnels
        ),
        # The kernel's own sockets: held by no program, on every address, of both families.
        "tunnel_sockets": tuple(
            f"udp {address}:{one.port}"
            for one in tunnels
            for address in ("0.0.0.0", "[::]")  # noqa: S104 - looked for, not bound
        ),
    }
