"""Which links may be encrypted by what, and whether their ends can be told apart. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sekisho.core.errors import Problem
from sekisho.nft.ipsec import IKE_PORTS
from sekisho.site.lines import hops, reqid
from sekisho.site.model import Encryption, Kind, Link, Mode, Peer, Purpose, Site
from sekisho.site.tunnels import tunnels_of

#: What we encrypt ourselves; the carrier's word and nobody's are not.
_OURS = (Encryption.IPSEC, Encryption.WIREGUARD)


def line_problems(site: Site) -> Iterator[Problem]:
    """Yield every encryption that does not fit its link, and ends that cannot be told apart."""
    for link in site.links.values():
        yield from _fits(link)
        yield from _ends(site, link)
    yield from _flows(site)
    yield from _tunnels(site)


def _fits(link: Link) -> Iterator[Problem]:
    def wrong(expected: str, hint: str, item: str = "6-iv-d-4") -> Problem:
        key = f"links.{link.name}.encryption"
        return Problem(link.at, key, link.encryption.value, expected, item, hint)

    outside = link.kind is Kind.IP_VPN
    match link.encryption:
        case Encryption.WIREGUARD if not outside:
            yield wrong("ipsec or none", "WireGuard is for a peer's line; ipsec is on the list")
        case Encryption.CARRIER if not outside:
            yield wrong("ipsec or none", "a carrier attests its own service, kind: ip-vpn")
        case Encryption.NONE if outside:
            yield wrong("ipsec, or carrier with its attestation", "nobody would encrypt it")
        case Encryption.IPSEC if link.purpose is Purpose.TERMINAL:
            yield wrong("none", "SSH encrypts a terminal's link", "6-iv-e")


def _ends(site: Site, link: Link) -> Iterator[Problem]:
    ours = {one.address: name for name, one in site.wires.get(link.name, {}).items()}
    taken: dict[object, str] = {}
    for name in link.between:
        peer = site.peers.get(name)
        if peer is None:
            continue
        key = f"peers.{name}.vpn"
        yield from _wireguard(link, peer)
        if link.encryption not in _OURS:
            if peer.vpn != peer.address:
                yield Problem(
                    peer.at, key, str(peer.vpn), f"nothing: {link.name} is not encrypted by us"
                )
            continue
        if peer.router is None and peer.vpn not in link.network:
            yield Problem(
                peer.at, key, f"{peer.vpn}, outside {link.network} ({link.name})",
                "an address of the link, or a router: on it",
            )  # fmt: skip
        if peer.vpn in ours or peer.vpn in taken:
            holder = ours.get(peer.vpn) or taken[peer.vpn]
            yield Problem(
                peer.at, key, f"{peer.vpn}, which is {holder}'s", "its own end", "6-iv-d-1"
            )
        taken.setdefault(peer.vpn, name)


def _flows(site: Site) -> Iterator[Problem]:
    numbers: dict[int, tuple[str, str]] = {}
    for flow in site.flows.values():
        for left, right in hops(flow):
            name = site.joins.get((left, right))
            if name is None or site.links[name].encryption not in _OURS:
                continue
            if flow.mode is Mode.DIODE:
                by = site.links[name].encryption.value
                yield Problem(
                    flow.at, f"flows.{flow.name}.mode", f"diode over {name}, encrypted by {by}",
                    f"one-way-tcp, or a link without encryption: {by}", "6-iv-d-2",
                    "keys are agreed by packets both ways; seal the payload instead",
                )  # fmt: skip
            number = reqid(name, flow.name)
            first = numbers.setdefault(number, (name, flow.name))
            if first != (name, flow.name):
                yield Problem(
                    flow.at, f"flows.{flow.name}", f"the number of {first[1]} on {first[0]}",
                    "a number of its own", "6-iv-d-1", "give the flow another name",
                )  # fmt: skip


def _wireguard(link: Link, peer: Peer) -> Iterator[Problem]:
    """Ask of a peer what its tunnel needs, and nothing where there is none."""
    key = f"peers.{peer.name}.wireguard"
    if link.encryption is not Encryption.WIREGUARD:
        if peer.wireguard is not None:
            yield Problem(
                peer.at, key, f"a key and a port, and {link.name} is {link.encryption.value}",
                f"nothing, or encryption: wireguard on {link.name}", "6-iv-d-1",
            )  # fmt: skip
        return
    if peer.wireguard is None:
        yield Problem(
            peer.at, key, "nothing", "the key and the port of the peer's end", "6-iv-d-1",
            f"{link.name} is encrypted by WireGuard: wireguard: {{key: …, port: 51820}}",
        )  # fmt: skip
    elif peer.wireguard.port in IKE_PORTS:
        yield Problem(peer.at, f"{key}.port", f"{peer.wireguard.port}, IKE's", "another port")
    if peer.vpn == peer.address:
        # The way to the one address would lead into the tunnel, and so would the tunnel's own.
        yield Problem(
            peer.at, f"peers.{peer.name}.address", f"{peer.address}, its end of {link.name} too",
            "an address of its own behind that end", "6-iv-d-1", "vpn: names the end on the line",
        )  # fmt: skip


def _tunnels(site: Site) -> Iterator[Problem]:
    """Keep tunnels apart: on one machine by interface and port, on the whole site by key."""
    keys: dict[str, str] = {}
    for machine in site.machines.values():
        taken: dict[object, str] = dict.fromkeys(machine.interfaces, "a card")
        for one in tunnels_of(site, machine):
            peer = site.peers[one.peer]
            key = f"peers.{peer.name}"
            for what, value, where in (
                ("interface", one.interface, key),
                ("port", one.port, f"{key}.wireguard.port"),
            ):
                if value in taken:
                    expected = f"{'a port' if what == 'port' else 'a name'} of its own"
                    yield Problem(
                        peer.at, where, f"{value} on {machine.name}, {taken[value]}'s", expected,
                        "6-iv-d-1",
                    )  # fmt: skip
                taken.setdefault(value, peer.name)
            holder = keys.setdefault(one.peer_key, peer.name)
            if holder != peer.name:
                yield Problem(
                    peer.at, f"{key}.wireguard.key", f"{holder}'s key", "its own", "6-iv-d-1"
                )
