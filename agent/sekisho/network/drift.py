"""What of the kernel's network the site declares, what is off, and how it is put right. Pure.

Declared is what the host's signed policy says: its interfaces with their addresses, the routes of
its flows, forwarding on gateways, IPsec of its lines, its tunnels' interfaces. What the kernel
makes of that by itself (connected and local routes, the three standard rules) belongs to it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from sekisho.network.netlink import (
    AF_INET,
    DELADDR,
    DELROUTE,
    DELRULE,
    MAIN,
    NEWADDR,
    NEWROUTE,
    SETLINK,
    UNICAST,
    Fact,
    attribute,
)
from sekisho.policy.host_policy import HostPolicy
from sekisho.policy.parts import Route

_DELETIONS = {"address": DELADDR, "route": DELROUTE, "rule": DELRULE}
_RULES = ("ipv4 0: lookup 255", "ipv4 32766: lookup 254", "ipv4 32767: lookup 253",
          "ipv6 0: lookup 255", "ipv6 32766: lookup 254")  # fmt: skip
_LOOPBACK = ("lo 127.0.0.1/8", "lo ::1/128")
_STATIC = 4  # RTPROT_STATIC
_LINK = 253  # RT_SCOPE_LINK: the other end is on it


@dataclass(frozen=True, slots=True)
class Declared:
    """A host's network as its policy declares it.

    Attributes:
        must: facts that have to be so.
        may: tells of any other fact whether it may be so.
        management: the interface administrators come by; nothing there is ever taken away.

    """

    must: frozenset[Fact]
    may: Callable[[Fact], bool]
    management: str


def declared(policy: HostPolicy) -> Declared:
    """Return what a policy declares of its host's network."""
    cards = {name: IPv4Interface(one.address) for name, one in policy.interfaces.items()}
    must = {Fact("address", f"{name} {one}", name) for name, one in cards.items()}
    named = {*cards, *(one.interface for one in policy.tunnels)}
    must |= {Fact("link", f"{name} up", name) for name in named}
    must |= {Fact("route", _words(one), one.interface) for one in policy.routes}
    forwards = policy.role == "gateway"
    if forwards:
        must |= {Fact("forwarding", f"ipv4 {name}", name) for name in ("all", *named)}
    made = _made([*cards.items(), ("lo", IPv4Interface("127.0.0.1/8"))])
    policies = set(policy.line_policies)
    # strongSwan keeps a line's policies in the kernel with and without an association; without one
    # nothing passes, and who took it away is to be told.
    must |= {Fact("xfrm", text) for text in policies}
    associations = {
        f"association {ends} esp tunnel {child.reqid}"
        for line in policy.lines
        for child in line.children
        for ends in (
            f"{line.local_address} {line.peer_address}",
            f"{line.peer_address} {line.local_address}",
        )
    }

    def may(fact: Fact) -> bool:
        text = fact.text
        if fact.kind == "address":
            # The kernel's own link-local address says nothing: no IPv6 packet passes.
            return text in _LOOPBACK or text.partition(" ")[2].startswith("fe80:")
        if fact.kind == "route":
            return text in made or (":" in text.split(" via ")[0] and "proto kernel" in text)
        if fact.kind == "rule":
            return text in _RULES
        if fact.kind == "forwarding":
            return forwards and text in ("ipv4 default", "ipv4 lo")
        if fact.kind == "xfrm":
            return text in policies or text in associations
        # Of what kind a card of the site's is says its identity, which is 6-iii-a's business.
        return text == "lo up" or (fact.device in named and not text.endswith(" listens in"))

    return Declared(frozenset(must), may, policy.management.interface)


def _words(route: Route) -> str:
    """Return a declared route as the kernel tells it; one into a tunnel goes via nobody."""
    via = f" via {route.via}" if route.via else ""
    return f"{route.to}{via} dev {route.interface}"


def _made(cards: Iterable[tuple[str, IPv4Interface]]) -> frozenset[str]:
    """Return the routes the kernel makes of addresses (``fib_add_ifaddr``)."""
    found = set()
    for name, one in cards:
        network: IPv4Network = one.network
        end = f"dev {name} table 255 proto kernel"
        found |= {f"local {one.ip}/32 {end}", f"local {network} {end}",
                  f"broadcast {network.broadcast_address}/32 {end}",
                  f"broadcast {network.network_address}/32 {end}"}  # fmt: skip
        found.add(f"{network} dev {name} proto kernel")
    return frozenset(found)


def off(wanted: Declared, facts: Iterable[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Return what is not declared, and what is declared and missing."""
    there = set(facts)
    # The routes of an undeclared address are told with the address, and go with it.
    made = _made(
        (one.device, IPv4Interface(one.text.split()[1]))
        for one in there
        if one.kind == "address" and ":" not in one.text
    )
    strange = [
        one
        for one in there - wanted.must
        if not wanted.may(one) and not (one.kind == "route" and one.text in made)
    ]
    missing = wanted.must - there
    return sorted(strange, key=_order), sorted(missing, key=_order)


def _order(fact: Fact) -> tuple[str, str]:
    return fact.kind, fact.text


def removal(wanted: Declared, fact: Fact) -> tuple[int, bytes] | None:
    """Return the message that takes an undeclared fact away; None: it is only told.

    Nothing at the management interface goes, however strange: it may be what the administrator
    comes by. Links and IPsec are told: a card may be a person's work, IPsec is strongSwan's to
    hold, and the packet filter passes neither.
    """
    if fact.device == wanted.management:
        return None
    if fact.kind == "forwarding":
        return None  # by interface: `forwarding`
    kind = _DELETIONS.get(fact.kind)
    return None if kind is None or not fact.body else (kind, fact.body)


def addition(
    fact: Fact, indexes: Mapping[str, int], there: Collection[Fact]
) -> tuple[int, bytes] | None:
    """Return the message that puts a declared, missing fact up; None: it is only told.

    ``indexes``: interface → its index; ``there``: what is so now. An interface that was set down is
    left down (somebody may have taken the machine off the wire), and no route goes over it then.
    Forwarding is `forwarding`'s.
    """
    index = indexes.get(fact.device)
    if index is None:
        return None
    words = fact.text.split()
    if fact.kind == "address":
        one = IPv4Interface(words[1])
        body = struct.pack("=BBBBI", AF_INET, one.network.prefixlen, 0, 0, index)
        held = ((2, one.ip), (1, one.ip), (4, one.network.broadcast_address))
        return NEWADDR, body + b"".join(attribute(kind, ip.packed) for kind, ip in held)
    if fact.kind == "route" and Fact("link", f"{fact.device} up") in there:
        network, scope = IPv4Network(words[0]), 0 if words[1] == "via" else _LINK
        body = struct.pack("=BBBBBBBBI", AF_INET, network.prefixlen, 0, 0, MAIN, _STATIC, scope,
                           UNICAST, 0)  # fmt: skip
        held_by = [(1, network.network_address.packed)]
        held_by += [(5, IPv4Address(words[2]).packed)] if words[1] == "via" else []
        body += b"".join(attribute(kind, value) for kind, value in held_by)
        return NEWROUTE, body + attribute(4, struct.pack("=I", index))
    return None


def forwarding(fact: Fact, indexes: Mapping[str, int], *, on: bool) -> tuple[int, bytes] | None:
    """Return the message that sets an interface's IPv4 forwarding; None: it has no such message.

    The kernel asks the interface a packet came by (``IN_DEV_FORWARD``); ``all`` and ``default``
    only set others. They, and IPv6's, are sysctls, which the agent may not write: they stay told.
    """
    family, _, name = fact.text.partition(" ")
    index = indexes.get(name)
    if index is None or family != "ipv4":
        return None
    value = attribute(1, struct.pack("=I", int(on)))  # IPV4_DEVCONF_FORWARDING
    nested = attribute(26, attribute(AF_INET, attribute(1, value)))  # IFLA_AF_SPEC, IFLA_INET_CONF
    return SETLINK, struct.pack("=BBHiII", 0, 0, 0, index, 0, 0) + nested
