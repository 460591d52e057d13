"""Who has to reach whom: each declared flow, session, service and line with its stages. Pure.

Read from the site model alone, like `sekisho.site.declared`, but from end to end: a leg is
one direction, a stage one of our hosts on it. What stands outside (peers, administrators) is no
stage: it is taken to do its part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from itertools import pairwise

from sekisho.nft.ipsec import IKE_PORTS
from sekisho.nft.management import METRICS, SSH, TIME
from sekisho.policy.parts import ESP, ICMP, TCP, UDP
from sekisho.site.lines import encrypted, end, reqid
from sekisho.site.model import (
    MANAGEMENT,
    Encryption,
    Flow,
    Interface,
    Machine,
    Mode,
    Purpose,
    Role,
    Site,
)
from sekisho.site.tunnels import tunnel

FLOWS, SERVICES = "6-iv-d-1.declared-flows-arrive", "6-iv-b.declared-services-arrive"
OPENS, CARRIES, ANSWERS = "first packet", "data", "reply"


@dataclass(frozen=True, slots=True)
class Seal:
    """The IPsec of one hop: whose association (0: any), and its two ends, sender first."""

    reqid: int
    ends: tuple[IPv4Address, IPv4Address]


@dataclass(frozen=True, slots=True)
class Stage:
    """One of our hosts on a leg.

    Attributes:
        host: its name.
        way: input, forward or output.
        iif: the interface in ("" on output); oif: the interface out ("" on input).
        via: the next hop's address; None: the target itself is a neighbour.
        asked: the address ARP asks for, and whose it is ("" when it stands outside).
        faces: at the first stage of what comes from outside, the address ARP asks us for there,
            and who asks.
        came: the IPsec it came by, goes: the one it leaves by; None: in clear.

    """

    host: str
    way: str
    iif: str
    oif: str
    via: IPv4Address | None = None
    asked: tuple[IPv4Address, str] | None = None
    faces: tuple[IPv4Address, IPv4Address] | None = None
    came: Seal | None = None
    goes: Seal | None = None


@dataclass(frozen=True, slots=True)
class Leg:
    """One direction of a relation; ``kind`` says which of its packets.

    ``outer``: these are IPsec's own packets.
    """

    kind: str
    source: IPv4Address
    target: IPv4Address
    protocol: int
    sport: int
    dport: int
    stages: tuple[Stage, ...]
    outer: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """Something declared that has to get through, in the order its packets go.

    ``tunnel``: the WireGuard interface on its way, of which nothing can be told yet; "" for none.
    """

    law: str
    name: str
    legs: tuple[Leg, ...]
    tunnel: str = ""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Return our hosts on it, each once."""
        return tuple(dict.fromkeys(one.host for leg in self.legs for one in leg.stages))


def relations(site: Site) -> Iterator[Relation]:
    """Yield everything the site declares that has to get through."""
    for flow in site.flows.values():
        yield _flow(site, flow)
    yield from _lines(site)
    yield from _desk(site)
    for machine in site.machines.values():
        yield from _services(site, machine)


def _flow(site: Site, flow: Flow) -> Relation:
    names = [flow.sender, *([flow.via] if flow.via else []), flow.receiver]
    forth = stages_of(site, names, flow.name)
    source, target = _end(site, names[0], names[1]), _end(site, names[-1], names[-2])
    hops = [*pairwise(names), *pairwise(names[::-1])]
    through = next(filter(None, (tunnel(site, *hop) for hop in hops)), "")
    if flow.mode is Mode.DIODE:
        leg = Leg(OPENS, source, target, UDP, 0, flow.port, forth)
        return Relation(FLOWS, flow.name, (leg,), through)
    back = stages_of(site, names[::-1], flow.name)
    talk = _talk(source, target, (TCP, flow.port), (forth, back))
    return Relation(FLOWS, flow.name, talk, through)


def _talk(
    source: IPv4Address,
    target: IPv4Address,
    service: tuple[int, int],
    stages: tuple[tuple[Stage, ...], tuple[Stage, ...]],
) -> tuple[Leg, ...]:
    """Return the legs of something that is asked and answered."""
    protocol, port = service
    forth = Leg(OPENS, source, target, protocol, 0, port, stages[0])
    back = Leg(ANSWERS, target, source, protocol, port, 0, stages[1])
    if protocol != TCP:
        return (forth, back)
    return (forth, back, replace(forth, kind=CARRIES))


def _end(site: Site, name: str, neighbour: str) -> IPv4Address:
    peer = site.peers.get(name)
    return peer.address if peer else site.wires[site.joins[name, neighbour]][name].address


def stages_of(site: Site, names: list[str], flow: str = "") -> tuple[Stage, ...]:
    """Return our hosts on the way over ``names``, neighbours in order, with what each has to do.

    ``flow``: whose associations encrypted hops have; "": any.
    """
    found = []
    for place, name in enumerate(names):
        if name not in site.machines:
            continue
        before = names[place - 1] if place else ""
        after = names[place + 1] if place + 1 < len(names) else ""
        left = site.wires[site.joins[name, before]][name].name if before else ""
        right = site.wires[site.joins[name, after]][name].name if after else ""
        way = "forward" if before and after else "input" if before else "output"
        via, asked = (
            _next(site, name, after, last=place + 2 == len(names)) if after else (None, None)
        )
        asker = site.peers.get(before)
        faces = None
        if asker is not None:
            faces = (site.machines[name].interfaces[left].address, asker.router or asker.address)
        found.append(Stage(
            name, way, left, right, via, asked, faces,
            came=seal(site, before, name, flow) if before else None,
            goes=seal(site, name, after, flow) if after else None,
        ))  # fmt: skip
    return tuple(found)


def _next(
    site: Site, name: str, after: str, *, last: bool
) -> tuple[IPv4Address | None, tuple[IPv4Address, str]]:
    """Return the next hop and whom ARP asks; a peer behind its router is reached by that."""
    peer = site.peers.get(after)
    if peer is not None:
        return peer.router, (peer.router or peer.address, "")
    address = site.wires[site.joins[name, after]][after].address
    return None if last else address, (address, after)


def seal(site: Site, sender: str, receiver: str, flow: str = "") -> Seal | None:
    """Return the IPsec of a hop between neighbours; None: it is in clear."""
    link = encrypted(site, sender, receiver)
    if link is None:
        return None
    chosen = reqid(link, flow) if flow else 0
    return Seal(chosen, (end(site, link, sender), end(site, link, receiver)))


def _lines(site: Site) -> Iterator[Relation]:
    """Yield what carries each encrypted hop: ESP and IKE between the two ends, both ways."""
    for link in site.links.values():
        if link.encryption is not Encryption.IPSEC:
            continue
        pairs = {
            frozenset((one, other)) for (one, other), name in site.joins.items()
            if name == link.name
        }  # fmt: skip
        for one, other in sorted(tuple(sorted(pair)) for pair in pairs):
            legs = []
            for near, far in ((one, other), (other, one)):
                stages = _outer(site, link.name, near, far)
                ends = end(site, link.name, near), end(site, link.name, far)
                legs.append(Leg(OPENS, *ends, ESP, 0, 0, stages, outer=True))
                legs += [Leg(OPENS, *ends, UDP, port, port, stages, outer=True)
                         for port in IKE_PORTS]  # fmt: skip
            yield Relation(FLOWS, f"{link.name}, IPsec {one} and {other}", tuple(legs))


def _outer(site: Site, link: str, near: str, far: str) -> tuple[Stage, ...]:
    found = []
    for stage in stages_of(site, [near, far]):
        peer = site.peers.get(far)
        changed = replace(stage, came=None, goes=None)
        asker = site.peers.get(near)
        if asker is not None and stage.faces is not None:
            direct = asker.vpn in site.links[link].network
            faces = (stage.faces[0], asker.vpn if direct or not asker.router else asker.router)
            changed = replace(changed, faces=faces)
        if peer is not None and stage.way == "output":
            direct = peer.vpn in site.links[link].network
            via = None if direct else peer.router
            changed = replace(changed, via=via, asked=(via or peer.vpn, ""))
        found.append(changed)
    return tuple(found)


def _desk(site: Site) -> Iterator[Relation]:
    for link in site.links.values():
        if link.purpose is not Purpose.TERMINAL:
            continue
        wires = site.wires[link.name]
        cores = [name for name in wires if site.machines[name].role is Role.CORE]
        for name in wires:
            if site.machines[name].role is not Role.TERMINAL:
                continue
            for core in cores:
                yield Relation(SERVICES, f"desk {name} to {core}", _talk(
                    wires[name].address, wires[core].address, (TCP, SSH),
                    (stages_of(site, [name, core]), stages_of(site, [core, name])),
                ))  # fmt: skip


def _services(site: Site, machine: Machine) -> Iterator[Relation]:
    ours = machine.on(MANAGEMENT)
    if ours is None:
        return
    admins = sorted({*site.management.controllers, *site.management.auditors})
    for admin in admins:
        faces = (ours.address, admin)
        inward = (Stage(machine.name, "input", ours.name, "", faces=faces),)
        outward = (Stage(machine.name, "output", "", ours.name, None, (admin, "")),)
        for what, service in (("administration", (TCP, SSH)), ("echo", (ICMP, 8))):
            legs = _talk(admin, ours.address, service, (inward, outward))
            yield Relation(SERVICES, f"{what} {admin} to {machine.name}", legs)
    for watching in site.of(Role.MONITOR):
        other = watching.on(MANAGEMENT)
        if other is None or watching is machine:
            continue
        pair = ((watching.name, other), (machine.name, ours))
        there, back = _across(*pair), _across(*pair[::-1])
        yield Relation(SERVICES, f"metrics {watching.name} to {machine.name}", _talk(
            other.address, ours.address, (TCP, METRICS), (there, back),
        ))  # fmt: skip
        if machine.role is not Role.MONITOR:
            yield Relation(SERVICES, f"time {machine.name} to {watching.name}", _talk(
                ours.address, other.address, (UDP, TIME), (back, there),
            ))  # fmt: skip


def _across(sender: tuple[str, Interface], receiver: tuple[str, Interface]) -> tuple[Stage, ...]:
    (one, near), (other, far) = sender, receiver
    return (Stage(one, "output", "", near.name, None, (far.address, other)),
            Stage(other, "input", far.name, ""))  # fmt: skip
