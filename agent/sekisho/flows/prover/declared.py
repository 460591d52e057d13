"""What the site model declares of one machine's wires, written down without its compiler. Pure.

`lines` reads the site itself (not the host's policy, not its rules): each declared line is who
speaks with whom over which interfaces, and what either direction may hold. What may pass
(`Line.may`) and what must pass (`Line.must`) are told apart: the law needs the first, the
operation the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

import z3

from sekisho.flows.management import METRICS, SSH, TIME
from sekisho.flows.prover.constants import interface_number
from sekisho.flows.prover.expressions import Track
from sekisho.flows.prover.packet import Bool, Packet
from sekisho.site.model import MANAGEMENT, Flow, Machine, Mode, Purpose, Role, Site

TCP, UDP, ICMP = 6, 17, 1
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


@dataclass(frozen=True, slots=True)
class Line:
    """One direction of one declared line at one machine.

    Attributes:
        name: what the site calls it.
        way: input, forward or output.
        iif: the interface in ("" on output); oif: the interface out ("" on input).
        senders: networks the source may be in; receivers: the same of the destination.
        protocol: TCP, UDP or ICMP.
        port: the service's port (ICMP: the type of message).
        back: the answering direction (the port is then the source's).
        bare: only segments without payload.
        syn: a connection must begin with a SYN here.

    """

    name: str
    way: str
    iif: str
    oif: str
    senders: tuple[IPv4Network, ...]
    receivers: tuple[IPv4Network, ...]
    protocol: int
    port: int
    back: bool
    bare: bool
    syn: bool

    def _tuple(self, packet: Packet) -> Bool:
        side = "sport" if self.back else "dport"
        service = (
            packet.bits("th", 0, 8) == self.port
            if self.protocol == ICMP
            else packet.field("th", side) == self.port
        )
        return z3.And(
            z3.Not(packet.six),
            packet.get("iif") == interface_number(self.iif),
            packet.get("oif") == interface_number(self.oif),
            _in(packet, "saddr", self.senders),
            _in(packet, "daddr", self.receivers),
            packet.field("ip", "protocol") == self.protocol,
            packet.bits("nh4", 51, 13) == 0,
            service,
        )

    def may(self, packet: Packet, track: Track) -> Bool:
        """Return whether the packet belongs to this line and has the shape the law allows."""
        states = [track.state == 2] if self.back else [track.state == 2, track.state == 8]
        if self.mode_untracked:
            states = []
        found = [self._tuple(packet)]
        if states:
            found.append(z3.Or(*states))
        if self.back and self.protocol != ICMP:
            found.append(track.reply)
        if self.bare:
            found.append(packet.is_bare())
        if self.syn and self.protocol == TCP:
            found.append(z3.Implies(track.state == 8, _opens(packet)))
        return z3.And(*found)

    @property
    def mode_untracked(self) -> bool:
        """Whether the line is a diode's: no state is asked of its packets."""
        return self.protocol == UDP and self.syn

    def must(self, packet: Packet, track: Track) -> Bool:
        """Return whether the packet is a regular one of this line, which has to pass."""
        length = packet.transport_length
        found = [self._tuple(packet), packet.bits("nh4", 50, 14) == 0]
        if self.protocol == TCP:
            head = z3.ZeroExt(10, z3.Concat(packet.field("tcp", "doff"), z3.BitVecVal(0, 2)))
            found += [z3.UGE(packet.field("tcp", "doff"), 5), z3.UGE(length, head),
                      z3.UGE(packet.field("ip", "hdrlength"), 5)]  # fmt: skip
        else:
            found += [z3.UGE(length, 8), z3.UGE(packet.field("ip", "hdrlength"), 5)]
        total = packet.field("ip", "length")
        head4 = z3.ZeroExt(10, z3.Concat(packet.field("ip", "hdrlength"), z3.BitVecVal(0, 2)))
        found.append(z3.UGE(total, head4))
        opening = _opens(packet) if self.protocol == TCP else z3.BoolVal(True)
        if self.back:
            found += [track.state == 2, track.reply]
        else:
            begun = z3.And(track.state == 2, z3.Not(track.reply))
            found.append(z3.Or(begun, z3.And(track.state == 8, opening)))
        if self.bare:
            found.append(packet.is_bare())
        return z3.And(*found)


def _opens(packet: Packet) -> Bool:
    return (packet.field("tcp", "flags") & 0x17) == 2


def _in(packet: Packet, side: str, networks: tuple[IPv4Network, ...]) -> Bool:
    address = packet.field("ip", side)
    hits = []
    for network in networks:
        cut = 32 - network.prefixlen
        number = int(network.network_address)
        if cut == 0:
            hits.append(address == number)
        elif cut == 32:
            return z3.BoolVal(True)
        else:
            hits.append(z3.Extract(31, cut, address) == number >> cut)
    return z3.Or(*hits)


def _one(address: object) -> tuple[IPv4Network, ...]:
    return (IPv4Network(str(address)),)


def lines(site: Site, machine: Machine) -> list[Line]:
    """Return every direction of every line the site declares at ``machine``."""
    found = [line for flow in site.flows.values() for line in _flow(site, machine, flow)]
    found += _desk(site, machine)
    found += _services(site, machine)
    return found


def _address(site: Site, name: str, neighbour: str) -> tuple[IPv4Network, ...]:
    peer = site.peers.get(name)
    if peer is not None:
        return _one(peer.address)
    return _one(site.wires[site.joins[name, neighbour]][name].address)


def _flow(site: Site, machine: Machine, flow: Flow) -> Iterator[Line]:
    stops = [flow.sender, *([flow.via] if flow.via else []), flow.receiver]
    if machine.name not in stops:
        return
    place = stops.index(machine.name)
    before = stops[place - 1] if place else ""
    after = stops[place + 1] if place + 1 < len(stops) else ""
    left = site.wires[site.joins[machine.name, before]][machine.name].name if before else ""
    right = site.wires[site.joins[machine.name, after]][machine.name].name if after else ""
    senders, receivers = _address(site, stops[0], stops[1]), _address(site, stops[-1], stops[-2])
    way = "forward" if before and after else "input" if before else "output"
    diode = flow.mode is Mode.DIODE
    protocol = UDP if diode else TCP
    yield Line(flow.name, way, left, right, senders, receivers, protocol, flow.port,
               back=False, bare=False, syn=True)  # fmt: skip
    if diode:
        return
    way = {"input": "output", "output": "input"}.get(way, way)
    yield Line(f"{flow.name}, replies", way, right, left, receivers, senders, protocol, flow.port,
               back=True, bare=True, syn=False)  # fmt: skip


def _both(line: Line) -> Iterator[Line]:
    yield line
    way = {"input": "output", "output": "input"}[line.way]
    yield Line(f"{line.name}, replies", way, line.oif, line.iif, line.receivers, line.senders,
               line.protocol, line.port, back=True, bare=False, syn=False)  # fmt: skip


def _desk(site: Site, machine: Machine) -> Iterator[Line]:
    for own in machine.interfaces.values():
        link = site.links.get(own.link)
        if link is None or link.purpose is not Purpose.TERMINAL:
            continue
        core = machine.role is Role.CORE
        others = [
            wire.address
            for name, wire in site.wires[link.name].items()
            if site.machines[name].role is (Role.TERMINAL if core else Role.CORE)
        ]
        if not others:
            continue
        far, near = tuple(IPv4Network(str(one)) for one in others), _one(own.address)
        if core:
            yield from _both(Line("desk", "input", own.name, "", far, near, TCP, SSH,
                                  back=False, bare=False, syn=True))  # fmt: skip
        else:
            yield from _both(Line("desk", "output", "", own.name, near, far, TCP, SSH,
                                  back=False, bare=False, syn=True))  # fmt: skip


def _services(site: Site, machine: Machine) -> Iterator[Line]:
    ours = machine.on(MANAGEMENT)
    if ours is None:
        return
    name, own, everyone = ours.name, _one(ours.address), (site.management.network,)
    admins = tuple(
        IPv4Network(str(one))
        for one in sorted({*site.management.controllers, *site.management.auditors})
    )
    watching = [other.on(MANAGEMENT) for other in site.of(Role.MONITOR)]
    monitors = tuple(IPv4Network(str(one.address)) for one in watching if one is not None)

    def asked(what: str, who: tuple[IPv4Network, ...], protocol: int, port: int) -> Iterator[Line]:
        yield from _both(Line(what, "input", name, "", who, own, protocol, port,
                              back=False, bare=False, syn=False))  # fmt: skip

    def asks(what: str, whom: tuple[IPv4Network, ...], protocol: int, port: int) -> Iterator[Line]:
        yield from _both(Line(what, "output", "", name, own, whom, protocol, port,
                              back=False, bare=False, syn=False))  # fmt: skip

    yield from asked("administration", admins, TCP, SSH)
    yield from asked("metrics", monitors, TCP, METRICS)
    anywhere = (IPv4Network("0.0.0.0/0"),)
    yield Line("echo", "input", name, "", admins, anywhere, ICMP, _ECHO_REQUEST,
               back=False, bare=False, syn=False)  # fmt: skip
    yield Line("echo, replies", "output", "", name, anywhere, admins, ICMP, _ECHO_REPLY,
               back=True, bare=False, syn=False)  # fmt: skip
    if machine.role is Role.MONITOR:
        yield from asks("scraping", everyone, TCP, METRICS)
        yield from asked("time", everyone, UDP, TIME)
    else:
        yield from asks("time", monitors, UDP, TIME)
