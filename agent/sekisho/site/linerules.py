"""Which links may be encrypted by what, and whether their ends can be told apart. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sekisho.errors import Problem
from sekisho.site.lines import hops, reqid
from sekisho.site.model import Encryption, Kind, Link, Mode, Purpose, Site


def line_problems(site: Site) -> Iterator[Problem]:
    """Yield every encryption that does not fit its link, and ends that cannot be told apart."""
    for link in site.links.values():
        yield from _fits(link)
        yield from _ends(site, link)
    yield from _flows(site)


def _fits(link: Link) -> Iterator[Problem]:
    def wrong(expected: str, hint: str, item: str = "6-iv-d-4") -> Problem:
        key = f"links.{link.name}.encryption"
        return Problem(link.at, key, link.encryption.value, expected, item, hint)

    outside = link.kind is Kind.IP_VPN
    match link.encryption:
        case Encryption.WIREGUARD:
            yield wrong(
                "ipsec" if outside else "ipsec or none",
                "WireGuard is not built; its ciphers are outside the default list",
            )
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
        if link.encryption is not Encryption.IPSEC:
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
            if name is None or site.links[name].encryption is not Encryption.IPSEC:
                continue
            if flow.mode is Mode.DIODE:
                yield Problem(
                    flow.at, f"flows.{flow.name}.mode", f"diode over {name}, encrypted by IPsec",
                    "one-way-tcp, or a link without encryption: ipsec", "6-iv-d-2",
                    "IKE needs packets both ways; seal the payload instead",
                )  # fmt: skip
            number = reqid(name, flow.name)
            first = numbers.setdefault(number, (name, flow.name))
            if first != (name, flow.name):
                yield Problem(
                    flow.at, f"flows.{flow.name}", f"the number of {first[1]} on {first[0]}",
                    "a number of its own", "6-iv-d-1", "give the flow another name",
                )  # fmt: skip
