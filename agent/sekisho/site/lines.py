"""Encrypted lines of a site: which machine speaks IPsec with whom, and for which flows. Pure.

A line is one link and one neighbour on it. Each flow that crosses it is one child security
association with exact selectors: the sender's address, the receiver's, TCP and the flow's port.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from sekisho.nft.ipsec import selector
from sekisho.policy.parts import Association, Child, Line
from sekisho.policy.parts import Flow as Declared
from sekisho.site.model import Encryption, Flow, Machine, Site

#: The last labels of a line's identities; ``internal`` is nobody's name in the world.
DOMAIN = "sekisho.internal"


def identity(site: str, link: str, name: str) -> str:
    """Return the name of one end of a line: it stands in its certificate and in IKE (RFC 4945)."""
    return f"{name}.{link}.{site}.{DOMAIN}"


def reqid(link: str, flow: str) -> int:
    """Return the number that ties a flow on a link to its own security associations.

    1 to 2³¹-1, from both names: it stays the same when other flows come and go.
    """
    digest = hashlib.sha256(f"{link}/{flow}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 - 1) + 1


def hops(flow: Flow) -> tuple[tuple[str, str], ...]:
    """Return a flow's hops, from left to right."""
    if flow.via is None:
        return ((flow.sender, flow.receiver),)
    return ((flow.sender, flow.via), (flow.via, flow.receiver))


def encrypted(site: Site, one: str, other: str) -> str | None:
    """Return the link between two neighbours when it is to be encrypted by us."""
    link = site.joins.get((one, other))
    if link is None or site.links[link].encryption is not Encryption.IPSEC:
        return None
    return link


def end(site: Site, link: str, name: str) -> IPv4Address:
    """Return where ``name``, machine or peer, speaks IKE and ESP on ``link``."""
    peer = site.peers.get(name)
    return peer.vpn if peer else site.wires[link][name].address


def selectors(site: Site, flow: Flow) -> tuple[str, str]:
    """Return the sender's and the receiver's traffic selector, as swanctl.conf writes them."""
    next_hop = flow.via or flow.receiver
    sender = _address(site, flow.sender, next_hop)
    receiver = _address(site, flow.receiver, flow.via or flow.sender)
    return f"{sender}/32[tcp]", f"{receiver}/32[tcp/{flow.port}]"


def _address(site: Site, name: str, neighbour: str) -> IPv4Address:
    peer = site.peers.get(name)
    return peer.address if peer else site.wires[site.joins[name, neighbour]][name].address


def lines_of(site: Site, name: str) -> tuple[Line, ...]:
    """Return the lines of machine or peer ``name``, each with its children, sorted by name."""
    found: dict[str, Line] = {}
    children: dict[str, list[Child]] = {}
    for flow in site.flows.values():
        sent, received = selectors(site, flow) if _meets(site, flow, name) else ("", "")
        for left, right in hops(flow):
            link = encrypted(site, left, right) if name in (left, right) else None
            if link is None:
                continue
            other = right if name == left else left
            key = f"{link}-{other}"
            if key not in found:
                # One end tries by itself, so that two do not race: ours towards the outside, the
                # sender's inside.
                starts = name in site.machines and (other in site.peers or name == left)
                found[key] = _line(site, link, name, other, starts=starts)
                children[key] = []
            ours, theirs = (sent, received) if name == left else (received, sent)
            children[key].append(Child(flow.name, reqid(link, flow.name), ours, theirs))
    return tuple(replace(found[key], children=tuple(children[key])) for key in sorted(found))


def _meets(site: Site, flow: Flow, name: str) -> bool:
    return any(name in hop and encrypted(site, *hop) for hop in hops(flow))


def _line(site: Site, link: str, name: str, other: str, *, starts: bool) -> Line:
    wire = site.wires[link].get(name)
    return Line(
        name=f"{link}-{other}",
        link=link,
        peer=other,
        interface=wire.name if wire else "",
        local_address=str(end(site, link, name)),
        peer_address=str(end(site, link, other)),
        local_id=identity(site.name, link, name),
        peer_id=identity(site.name, link, other),
        children=(),
        starts=starts,
    )


def across(
    site: Site, machine: Machine, flow: Flow
) -> tuple[Association | None, Association | None]:
    """Return what a flow comes and goes by on a machine, where that is encrypted."""
    found: dict[str, Association] = {}
    for left, right in hops(flow):
        link = encrypted(site, left, right) if machine.name in (left, right) else None
        if link is None:
            continue
        other = right if machine.name == left else left
        found["to" if machine.name == left else "from"] = Association(
            reqid=reqid(link, flow.name),
            local_address=str(end(site, link, machine.name)),
            peer_address=str(end(site, link, other)),
        )
    return found.get("from"), found.get("to")


def members(site: Site) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (link, name) → what a certificate may say of that end of an encrypted link."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for link in site.links.values():
        if link.encryption is not Encryption.IPSEC:
            continue
        for name in link.between:
            peer = site.peers.get(name)
            role = peer.side.value if peer else site.machines[name].role.value
            found[link.name, name] = {
                "identity": identity(site.name, link.name, name),
                "address": str(end(site, link.name, name)),
                "role": role,
                "ours": peer is None,
            }
    return found


def flat_lines(lines: tuple[Line, ...], flows: tuple[Declared, ...]) -> dict[str, tuple[str, ...]]:
    """Return a policy's lines as flat lists of text: the form checks compare with probes."""
    children = [(line, child) for line in lines for child in line.children]
    return {
        "line_ends": tuple(
            f"{one.interface} {one.peer_address} {one.local_address}" for one in lines
        ),
        "line_flows": tuple(
            f"{line.name} {child.flow} {child.reqid} {child.local_ts} {child.remote_ts}"
            for line, child in children
        ),
        "line_policies": tuple(words for _, child in children for words in _policies(child)),
        "line_hops": tuple(
            f"{flow.name} {way} {line.reqid} {line.peer_address} {line.local_address}"
            for flow in flows
            for way, line in (("from", flow.line_from), ("to", flow.line_to))
            if line is not None
        ),
    }


def _policies(child: Child) -> list[str]:
    """Return what the kernel holds for a child: out, and in and through the other way round."""
    (near, near_port), (far, far_port) = map(selector, (child.local_ts, child.remote_ts))
    end = f"esp tunnel {child.reqid}"
    back = f"{far}/32 {near}/32 tcp {far_port} {near_port} {end}"
    return [f"out {near}/32 {far}/32 tcp {near_port} {far_port} {end}", f"in {back}", f"fwd {back}"]
