"""What one host's kernel routes by: addresses, rules, routes, switches, IPsec policies. Pure.

Values only; `sekisho.prover.hostfacts` reads them from an evidence bundle's raw facts,
`compiled` makes them of a host's policy, for a host that is not there. Needs no solver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from sekisho.nft.ipsec import selector
from sekisho.policy.host_policy import HostPolicy
from sekisho.policy.parts import Child, Line

ANYWHERE = IPv4Network("0.0.0.0/0")
#: Tables by the numbers the kernel has for them.
TABLES = {"local": 255, "main": 254, "default": 253}
_SWITCHES = {
    "rp_filter": "1", "arp_ignore": "1", "arp_filter": "0", "arp_announce": "2",
    "accept_local": "0", "disable_xfrm": "0", "disable_policy": "0", "route_localnet": "0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """One interface: whether it is up, whether its wire is there, its MAC address."""

    name: str
    up: bool
    carrier: bool
    mac: str = ""
    addresses: tuple[IPv4Interface, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One IPv4 route; ``kind`` as ip-route(8) names it, ``gone``: its way is dead."""

    table: int
    kind: str
    network: IPv4Network
    device: str = ""
    via: IPv4Address | None = None
    source: IPv4Address | None = None
    metric: int = 0
    linkdown: bool = False
    gone: bool = False

    def __str__(self) -> str:
        """Return the route as ip-route(8) writes it."""
        kind = "" if self.kind == "unicast" else f"{self.kind} "
        via = f" via {self.via}" if self.via else ""
        device = f" dev {self.device}" if self.device else ""
        named = {number: name for name, number in TABLES.items()}
        return f"{kind}{self.network}{via}{device} table {named.get(self.table, self.table)}"


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """One IPv4 routing rule; an empty ``action`` asks ``table``."""

    priority: int
    table: int
    action: str = ""
    sources: IPv4Network = ANYWHERE
    targets: IPv4Network = ANYWHERE
    iif: str = ""
    detached: bool = False
    protocol: int = 0
    sports: tuple[int, int] | None = None
    dports: tuple[int, int] | None = None
    inverted: bool = False
    suppress: int = -1

    def __str__(self) -> str:
        """Return what names the rule to a reader."""
        asked = self.action or f"lookup {self.table}"
        return f"routing rule {self.priority} ({asked})"


@dataclass(frozen=True, slots=True)
class XfrmPolicy:
    """One IPv4 policy of IPsec; without ``ends`` it passes in clear, or blocks."""

    direction: str
    sources: IPv4Network
    targets: IPv4Network
    protocol: int
    sport: int
    dport: int
    priority: int
    block: bool = False
    ends: tuple[str, str] | None = None
    reqid: int = 0
    device: str = ""

    def __str__(self) -> str:
        """Return the policy's direction and selector."""
        return f"xfrm policy {self.direction} {self.sources} {self.targets}"


@dataclass(frozen=True, slots=True)
class HostNet:
    """Everything a host routes by.

    Attributes:
        host: its name.
        live: whether this is what the host had, not what its policy compiles to.
        cards: interfaces by name.
        rules: routing rules in the order the kernel asks them.
        routes: every IPv4 route.
        switches: sysctls by name with dots; one that is asked for and missing is an error.
        policies: IPsec policies.
        associations: (source, target, reqid) of every ESP association in tunnel mode.
        neighbours: (interface, address) → (state, MAC address); None: nobody looked.

    """

    host: str
    live: bool
    cards: Mapping[str, Card]
    rules: tuple[RoutingRule, ...]
    routes: tuple[Route, ...]
    switches: Mapping[str, str]
    policies: tuple[XfrmPolicy, ...] = ()
    associations: frozenset[tuple[str, str, int]] = frozenset()
    neighbours: Mapping[tuple[str, str], tuple[str, str]] | None = field(default=None)

    @property
    def own(self) -> frozenset[IPv4Address]:
        """Return every address some interface has."""
        return frozenset(one.ip for card in self.cards.values() for one in card.addresses)


def compiled(policy: HostPolicy) -> HostNet:
    """Return what a host's policy makes of a kernel, its lines up and every wire there."""
    held = {name: IPv4Interface(one.address) for name, one in policy.interfaces.items()}
    held["lo"] = IPv4Interface("127.0.0.1/8")
    macs = {name: one.mac for name, one in policy.interfaces.items()}
    cards = {name: Card(name, up=True, carrier=True, mac=macs.get(name, ""), addresses=(one,))
             for name, one in held.items()}  # fmt: skip
    routes = [route for name, one in held.items() for route in _made(name, one)]
    routes += [
        Route(TABLES["main"], "unicast", IPv4Network(one.to), one.interface,
              IPv4Address(one.via) if one.via else None)
        for one in policy.routes
    ]  # fmt: skip
    forwards = "1" if policy.role == "gateway" else "0"
    switches = {"net.ipv4.conf.all.forwarding": forwards}
    for name in ("all", *held):
        base = f"net.ipv4.conf.{name}"
        switches |= {f"{base}.{key}": value for key, value in _SWITCHES.items()}
        switches[f"{base}.forwarding"] = forwards
        switches[f"{base}.ignore_routes_with_linkdown"] = "0"
    children = [(line, child) for line in policy.lines for child in line.children]
    return HostNet(
        host=policy.host,
        live=False,
        cards=cards,
        rules=tuple(RoutingRule(priority, table) for priority, table in
                    ((0, 255), (32766, 254), (32767, 253))),
        routes=tuple(routes),
        switches=switches,
        policies=tuple(one for line, child in children for one in _policies(line, child)),
        associations=frozenset(
            (*ends, child.reqid)
            for line, child in children
            for ends in ((line.local_address, line.peer_address),
                         (line.peer_address, line.local_address))
        ),
    )  # fmt: skip


def _made(name: str, one: IPv4Interface) -> list[Route]:
    """Return the routes the kernel makes of an address (``fib_add_ifaddr``)."""
    local, main, network = TABLES["local"], TABLES["main"], one.network
    found = [Route(local, "local", IPv4Network(one.ip), name, source=one.ip)]
    if one.is_loopback:
        return [*found, Route(local, "local", network, name, source=one.ip)]
    end = IPv4Network(network.broadcast_address)
    return [*found, Route(local, "broadcast", end, name, source=one.ip),
            Route(main, "unicast", network, name, source=one.ip)]  # fmt: skip


def _policies(line: Line, child: Child) -> list[XfrmPolicy]:
    """Return the three policies strongSwan installs for a child."""
    (near, near_port), (far, far_port) = map(selector, (child.local_ts, child.remote_ts))
    ours, theirs = IPv4Network(near), IPv4Network(far)
    ends = (line.local_address, line.peer_address)
    reqid = child.reqid
    out = XfrmPolicy("out", ours, theirs, 6, near_port, far_port, 0, ends=ends, reqid=reqid)
    return [out, *(
        XfrmPolicy(way, theirs, ours, 6, far_port, near_port, 0, ends=ends[::-1], reqid=reqid)
        for way in ("in", "fwd")
    )]  # fmt: skip
