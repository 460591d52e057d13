"""What must come of a probe: by the site model, and by the proof of the rules.

`Declared` reads the lines the site model declares (not the rules, not their compiler) and judges
concrete bytes with a few lines of arithmetic. `Proven` asks the prover's translation of the rules
the kernel listed. `walk` takes a probe from machine to machine as either says.
"""

# ruff: noqa: PLR0911, PLR0917
# a place in a machine has these parts, and a line these conditions

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import z3
from matrixprobes import ACK, CWR, ECE, FIN, ICMP, PSH, RST, SYN, TCP, UDP, URG, Probe
from matrixworld import MARK, Map, Port
from z3.z3util import get_vars

from sekisho.policy.parts import DeclaredLine
from sekisho.prover.constants import CT_STATES, interface_number
from sekisho.prover.packet import Packet
from sekisho.prover.passage import Passage, passage
from sekisho.prover.rules import read_rules
from sekisho.site.declared import lines
from sekisho.site.model import Site

#: (host, way, interface in, interface out, packet, its place in the journey) → does it pass?
Judge = Callable[[str, str, str, str, bytes], bool]
#: A place a packet was: delivered to a node's programs, or sent out on one of its wires.
Place = tuple[str, str]
_VALID = {SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG}
DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class Journey:
    """How a probe begins: put on a wire towards ``to``, or sent by ``sender``'s own kernel."""

    sender: Port
    to: Port
    target: IPv4Address
    stack: bool

    @property
    def label(self) -> str:
        """Name the pair for a reader."""
        how = "through its own rules" if self.stack else "on the wire"
        return (f"{self.sender.node} {self.sender.name} → {self.target} "
                f"by {self.to.node} {self.to.name}, {how}")  # fmt: skip


def walk(world: Map, journey: Journey, probe: Probe, packet: bytes, judge: Judge, *,
         tracked: bool = True) -> frozenset[Place]:  # fmt: skip
    """Return where a packet comes by a judge's word; what kernels refuse by themselves stops."""
    places: set[Place] = set()
    node, came, ttl = journey.to.node, journey.to.name, probe.ttl
    if journey.stack:
        node = journey.sender.node
        if (probe.lone and tracked) or not judge(node, "output", "", journey.sender.name, packet):
            return frozenset()
        places.add((node, journey.sender.name))
        node = journey.to.node
    while not probe.never:
        held = probe.lone and tracked  # the watch behind the rules tracks on every node
        if world.nodes[node].owns(journey.target):
            # IPv4 joins fragments before it delivers; IPv6 asks the rules of delivery first.
            joined = probe.lone and not probe.v6
            if not (held or joined) and judge(node, "input", came, "", packet):
                places.add((node, DELIVERED))
            break
        step = world.next_hop(node, journey.target)
        if step is None or held or ttl <= 1:
            break
        out, to = step
        if not judge(node, "forward", came, out.name, packet):
            break
        places.add((node, out.name))
        node, came, ttl = to.node, to.name, ttl - 1
        if len(places) > 32:
            raise RuntimeError(f"{journey.label}: the routes are a ring")
    return frozenset(places)


@dataclass(frozen=True, slots=True)
class Seen:
    """The header fields a declaration speaks of."""

    source: IPv4Address
    target: IPv4Address
    protocol: int
    body: bytes
    bare: bool  # TCP without payload, no SYN alone

    @property
    def ports(self) -> tuple[int, int]:
        """Return source and destination port; -1 where there is none to read."""
        if len(self.body) < 4:
            return (-1, -1)
        return (int.from_bytes(self.body[:2], "big"), int.from_bytes(self.body[2:4], "big"))

    @property
    def flags(self) -> int:
        """Return TCP's flags."""
        return self.body[13]


def seen(packet: bytes) -> Seen | None:
    """Return an IPv4 packet's fields; None for IPv6: nothing of it is declared anywhere."""
    if packet[0] >> 4 != 4:
        return None
    head, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
    body = packet[head:total]
    bare = False
    if packet[9] == TCP and len(body) >= 20:
        bare = head == 20 and not (packet[6] & 0x3F or packet[7]) and len(body) == (
            (body[12] >> 4) * 4) and (body[13] & (SYN | ACK)) != SYN  # fmt: skip
    return Seen(IPv4Address(packet[12:16]), IPv4Address(packet[16:20]), packet[9], body, bare)


def whole(one: Seen, *, summed: bool) -> bool:
    """Return whether a message is one that connection tracking takes for sound.

    ``summed``: whether it looks at the checksum: of what arrives, not of what is sent here.
    """
    body = one.body
    if one.protocol == TCP:
        if len(body) < 20 or not 20 <= (body[12] >> 4) * 4 <= len(body):
            return False
        return (one.flags & ~(PSH | ECE | CWR)) in _VALID and (not summed or _sums(one))
    if one.protocol == UDP:
        return len(body) >= 8 and 8 <= int.from_bytes(body[4:6], "big") <= len(body)
    if one.protocol == ICMP:
        return len(body) >= 8 and body[0] <= 18 and (not summed or _sums(one))
    return True


def _sums(one: Seen) -> bool:
    data = one.body
    if one.protocol != ICMP:
        data = one.source.packed + one.target.packed + struct.pack(
            "!II", len(data), one.protocol) + data  # fmt: skip
    return int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 0xFFFF == 0


def begins(one: Seen, *, summed: bool) -> bool:
    """Return whether a sound message may begin a connection: tracking takes up streams half-way."""
    if not whole(one, summed=summed):
        return False
    if one.protocol == TCP:
        return not one.flags & (FIN | RST) and (one.flags & (SYN | ACK)) != SYN | ACK
    return one.protocol != ICMP or one.body[0] in (8, 13, 15, 17)


class Declared:
    """Judges by the lines the site declares. ``opened``: the probe answers an open connection."""

    def __init__(self, site: Site) -> None:
        self.lines: dict[tuple[str, str], list[DeclaredLine]] = {}
        for name, machine in site.machines.items():
            for line in lines(site, machine):
                self.lines.setdefault((name, line.way), []).append(line)
        self.ruled = frozenset(site.machines)
        self.opened = False

    def __call__(self, host: str, way: str, iif: str, oif: str, packet: bytes) -> bool:
        """Return whether a line of this host holds the packet."""
        if host not in self.ruled:
            return True
        one = seen(packet)
        if one is None:
            return False
        return any(self._holds(line, one, iif, oif) for line in self.lines.get((host, way), ()))

    def _holds(self, line: DeclaredLine, one: Seen, iif: str, oif: str) -> bool:
        place = (line.iif, line.oif, line.protocol) == (iif, oif, one.protocol)
        if not place or not any(one.source in net for net in line.senders):
            return False
        if not any(one.target in net for net in line.receivers):
            return False
        if line.protocol == ICMP:
            if not one.body or one.body[0] != line.port:
                return False
        elif line.port != one.ports[0 if line.back else 1]:
            return False
        if line.back:
            known = self.opened and whole(one, summed=line.way != "output")
            if line.protocol == TCP and (not known or (one.flags & (SYN | ACK)) == SYN):
                return False
            return known and (one.bare or not line.bare)
        if self.opened or not begins(one, summed=line.way != "output"):
            return False
        return not line.syn or line.protocol != TCP or (one.flags & 0x17) == SYN


class Proven:
    """Judges by the solver's translation of the rules as each kernel listed them.

    ``track``: (host, way, packet) → the state and direction connection tracking gave it there.
    """

    def __init__(self, listed: Mapping[str, Any]) -> None:
        self.rules = {host: read_rules(document, host) for host, document in listed.items()}
        self.ways: dict[tuple[str, str], Passage] = {}
        self.residues: dict[tuple[Any, ...], Any] = {}
        self.answers: dict[tuple[Any, ...], bool] = {}
        self.state: Callable[[str], tuple[str, bool] | None] = lambda _: None
        self.untold: list[str] = []
        self.asked: list[tuple[str, str, str, str]] = []

    def __call__(self, host: str, way: str, iif: str, oif: str, packet: bytes) -> bool:
        """Return whether the model lets the packet pass; what it cannot tell is noted."""
        if host not in self.rules:
            return True
        self.asked.append((host, way, iif, oif))
        track = self.state(host)
        if track is None:
            self.untold.append(f"{host} {way}: the packet never came to the rules")
            return False
        v6 = packet[0] >> 4 == 6
        key = (host, way, iif, oif, v6, packet[12:20] if not v6 else b"", *track)
        body = packet[40 if v6 else (packet[0] & 15) * 4 :][:24]
        head = packet[:40] if v6 else packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:20]
        full = (key, head, body)
        if full not in self.answers:
            if key not in self.residues:
                self.residues[key] = self._residue(*key)
            self.answers[full] = self._answer(self.residues[key], v6, head, body, full)
        return self.answers[full]

    def rule(self, host: str, way: str, iif: str, oif: str, packet: bytes) -> str:
        """Return the rule that decides about a packet here, for a reader."""
        track = self.state(host)
        if track is None:
            return f"{host} {way}: never came to the rules"
        known = self._known(host, way, iif, oif, packet, *track)
        fired = [one for one in self.ways[host, way].fired
                 if z3.is_true(z3.simplify(z3.substitute(one.when, *known)))]  # fmt: skip
        return f"{host} {fired[-1].where} {fired[-1].verdict}" if fired else f"{host} {way}: open"

    def _known(self, host: str, way: str, iif: str, oif: str, packet: bytes, state: str,
               reply: bool) -> list[tuple[Any, Any]]:  # fmt: skip
        if (host, way) not in self.ways:
            self.ways[host, way] = passage(self.rules[host], way, Packet("p"), "p", host)
        p, v6 = Packet("p"), packet[0] >> 4 == 6
        body = packet[40 if v6 else (packet[0] & 15) * 4 :][:20].ljust(20, b"\0")
        name, size = ("nh6", 40) if v6 else ("nh4", 20)
        head = z3.BitVecVal(int.from_bytes(packet[:size], "big"), 8 * size)
        return [
            *self._place(self.ways[host, way], iif, oif, v6, state, reply),
            (p.get(name), head),
            (p.get("th"), z3.BitVecVal(int.from_bytes(body, "big"), 160)),
        ]

    def _place(self, one: Passage, iif: str, oif: str, v6: bool, state: str,
               reply: bool) -> list[tuple[Any, Any]]:  # fmt: skip
        p = Packet("p")
        return [
            (p.flag("six"), z3.BoolVal(v6)),
            (p.get("iif"), z3.BitVecVal(interface_number(iif), 128)),
            (p.get("oif"), z3.BitVecVal(interface_number(oif), 128)),
            (p.get("mark"), z3.BitVecVal(MARK if one.way == "output" else 0, 32)),
            (one.track.state, z3.BitVecVal(CT_STATES[state], 32)),
            (one.track.reply, z3.BoolVal(reply)),
        ]

    def _residue(self, host: str, way: str, iif: str, oif: str, v6: bool, ends: bytes,
                 state: str, reply: bool) -> Any:  # fmt: skip
        """Return what is left of a way's condition for one wire, pair of ends and state."""
        if (host, way) not in self.ways:
            self.ways[host, way] = passage(self.rules[host], way, Packet("p"), "p", host)
        one, p = self.ways[host, way], Packet("p")
        known = self._place(one, iif, oif, v6, state, reply)
        if not v6:
            number = z3.BitVecVal(int.from_bytes(ends, "big"), 64)
            known.append((p.get("nh4"), z3.Concat(z3.BitVec("head", 96), number)))
        return z3.simplify(z3.substitute(one.passes, *known))

    def _answer(self, residue: Any, v6: bool, head: bytes, body: bytes, full: Any) -> bool:
        if z3.is_true(residue) or z3.is_false(residue):
            return bool(z3.is_true(residue))
        p = Packet("p")
        th = z3.BitVecVal(int.from_bytes(body[:20].ljust(20, b"\0"), "big"), 160)
        known = [(p.get("th"), th)]
        if v6:
            known.append((p.get("nh6"), z3.BitVecVal(int.from_bytes(head, "big"), 320)))
        else:
            known.append(
                (z3.BitVec("head", 96), z3.BitVecVal(int.from_bytes(head[:12], "big"), 96))
            )
        left = z3.simplify(z3.substitute(residue, *known))
        if not (z3.is_true(left) or z3.is_false(left)):
            # Bytes behind the modelled header: these very ones, where the packet has them.
            option = z3.BitVecVal(int.from_bytes(body[20:24].ljust(4, b"\0"), "big"), 32)
            there = z3.BoolVal(len(body) == 24)
            raw = [
                (one, option if one.decl().name() == "p.th@160" else there)
                for one in get_vars(left)
                if one.decl().name() == "p.th@160" or "?raw bytes in" in one.decl().name()
            ]
            left = z3.simplify(z3.substitute(left, *raw))
        if z3.is_true(left) or z3.is_false(left):
            return bool(z3.is_true(left))
        answers = []
        for wanted in (left, z3.Not(left)):
            solver = z3.Solver()
            solver.set("timeout", 10_000)
            solver.add(wanted)
            answers.append(solver.check())
        if answers == [z3.sat, z3.unsat]:
            return True
        if answers == [z3.unsat, z3.sat]:
            return False
        self.untold.append(f"{full[0][:4]}: the model leaves it open: {str(left)[:120]}")
        return True
