"""One host's ways for a packet, with what connection tracking must have seen before. Pure.

A packet whose connection is `established` needs a first packet of the same connection, state `new`
or `related`, that came through all hooks of this host: `history` says so with a second packet.
Routing is left open: an arriving packet may be for this host or for any interface.
"""

from __future__ import annotations

from dataclasses import dataclass

import z3

from sekisho.flows.prover.constants import CT_STATES
from sekisho.flows.prover.expressions import TRUE, Track
from sekisho.flows.prover.hooks import Fired, Trip, pass_device_hook, pass_hook
from sekisho.flows.prover.packet import Bits, Bool, Packet
from sekisho.flows.prover.rules import Rules

#: Way → hooks in order; those of devices are marked.
WAYS: dict[str, tuple[str, ...]] = {
    "input": ("*ingress", "prerouting", "input"),
    "forward": ("*ingress", "prerouting", "forward", "postrouting", "*egress"),
    "output": ("output", "postrouting", "*egress"),
}
NEW, ESTABLISHED, RELATED = (CT_STATES[one] for one in ("new", "established", "related"))
#: ICMP messages that begin a connection; ICMPv6 ones nothing tracks (nf_conntrack_proto_icmp*.c).
_BEGIN4, _BEGIN6, _UNTRACKED6 = (8, 13, 15, 17), (128, 139), (130, 131, 132, 133, 134, 135, 136,
                                                             137, 143)  # fmt: skip
_ERRORS4, _ERRORS6 = (3, 4, 5, 11, 12), (1, 2, 3, 4)
_PORTS = (6, 17, 132, 136, 33)


@dataclass(frozen=True, slots=True)
class Passage:
    """A packet on one way through one host.

    Attributes:
        host: whose hooks.
        way: input, forward or output.
        packet: the packet as it comes (or is made).
        left: the packet as it leaves or is delivered.
        track: what connection tracking says of it here.
        sane: what holds of every packet (headers checked by the kernel, tracking's own logic).
        passes: whether every hook lets it through.
        fired: the verdicts on the way.

    """

    host: str
    way: str
    packet: Packet
    left: Packet
    track: Track
    sane: Bool
    passes: Bool
    fired: tuple[Fired, ...]


def one_of(bits: Bits, numbers: tuple[int, ...]) -> Bool:
    """Return whether ``bits`` is one of some numbers."""
    return z3.Or(*[bits == one for one in numbers])


def passage(rules: Rules | None, way: str, packet: Packet, name: str, host: str = "") -> Passage:
    """Return the way of ``packet`` through a host; ``rules`` None: a host without any rule.

    ``name`` must be unique for each pass of a host: tracking's variables are called after it.
    """
    track = Track(z3.BitVec(f"{name}.ct", 32), z3.Bool(f"{name}.reply"))
    if rules is None:
        sane = z3.And(packet.well_formed(arriving=way != "output"), _interfaces(packet, way))
        left = packet.aged() if way == "forward" else packet
        return Passage(host, way, packet, left, track, sane, TRUE, ())
    if way != "output":
        packet = packet.with_(mark=z3.BitVecVal(0, 32))
    trip = Trip(rules=rules, packet=packet, track=track)
    for hook in WAYS[way]:
        if hook.startswith("*"):
            pass_device_hook(trip, hook[1:])
            continue
        pass_hook(trip, hook)
        if hook in ("prerouting", "output"):
            trip.track = Track(
                z3.If(trip.untracked, z3.BitVecVal(64, 32), track.state), track.reply
            )
            trip.packet = _translated(rules, trip.packet, track, f"{name}.{hook}")
            if way == "forward":
                trip.packet = trip.packet.aged()
        elif hook in ("postrouting", "input"):
            trip.packet = _translated(rules, trip.packet, track, f"{name}.{hook}")
    sane = z3.And(
        packet.well_formed(arriving=way != "output"),
        _interfaces(packet, way),
        _tracked(rules, packet, track),
    )
    return Passage(
        host or rules.host, way, packet, trip.packet, track, sane, trip.alive, tuple(trip.fired)
    )


def _interfaces(packet: Packet, way: str) -> Bool:
    """Return that a packet made here came in by no interface, one for here leaves by none."""
    into, out = packet.get("iif") != 0, packet.get("oif") != 0
    if way == "input":
        return z3.And(into, z3.Not(out))
    if way == "output":
        return z3.And(z3.Not(into), out)
    return z3.And(into, out)


def _tracked(rules: Rules, packet: Packet, track: Track) -> Bool:
    """Return what connection tracking can say at all of such a packet."""
    kind = packet.bits("th", 0, 8)
    icmp = z3.And(z3.Not(packet.six), packet.protocol == 1)
    icmp6 = z3.And(packet.six, packet.protocol == 58)
    state = track.state
    words = z3.ZeroExt(10, z3.Concat(packet.field("tcp", "doff"), z3.BitVecVal(0, 2)))
    # A segment or message that is cut short is invalid to tracking (tcp_error, udp_error, …).
    whole = z3.And(
        z3.Implies(
            packet.protocol == 6,
            z3.And(
                packet.readable(160),
                z3.UGE(packet.field("tcp", "doff"), 5),
                z3.UGE(packet.transport_length, words),
            ),
        ),
        z3.Implies(one_of(packet.protocol, (17, 136)), packet.readable(64)),
        z3.Implies(z3.Or(icmp, icmp6), packet.readable(64)),
    )
    error = z3.Or(z3.And(icmp, one_of(kind, _ERRORS4)), z3.And(icmp6, one_of(kind, _ERRORS6)))
    return z3.And(
        one_of(state, tuple(CT_STATES.values())),
        z3.Implies(track.known, whole),
        z3.Implies(state == NEW, z3.Not(track.reply)),
        z3.Implies(z3.And(state == NEW, icmp), one_of(kind, _BEGIN4)),
        z3.Implies(z3.And(state == NEW, icmp6), one_of(kind, _BEGIN6)),
        z3.Implies(state == 64, z3.And(icmp6, one_of(kind, _UNTRACKED6))),
        z3.Implies(state == RELATED, TRUE if rules.expects else error),
    )


def _translated(rules: Rules, packet: Packet, track: Track, name: str) -> Packet:
    """Leave the addresses of a known connection open where rules translate addresses."""
    if not rules.translates:
        return packet
    known = z3.Or(track.state == ESTABLISHED, track.state == RELATED)
    four, six, th = (z3.BitVec(f"{name}.{one}", size)
                     for one, size in (("nh4", 64), ("nh6", 256), ("th", 32)))  # fmt: skip
    whole4, whole6, whole = packet.get("nh4"), packet.get("nh6"), packet.get("th")
    return packet.with_(
        nh4=z3.If(known, z3.Concat(z3.Extract(159, 64, whole4), four), whole4),
        nh6=z3.If(known, z3.Concat(z3.Extract(319, 256, whole6), six), whole6),
        th=z3.If(known, z3.Concat(th, z3.Extract(127, 0, whole)), whole),
    )


def same_connection(first: Packet, later: Packet, reply: Bool) -> Bool:
    """Return whether ``later`` is of the connection ``first`` opens, in direction ``reply``."""

    def ends(protocol: str) -> Bool:
        one, other = first.field(protocol, "saddr"), first.field(protocol, "daddr")
        source, target = later.field(protocol, "saddr"), later.field(protocol, "daddr")
        return z3.If(
            reply,
            z3.And(one == target, other == source),
            z3.And(one == source, other == target),
        )

    there, back = (first.bits("th", 0, 16), first.bits("th", 16, 16)), (
        later.bits("th", 0, 16), later.bits("th", 16, 16))  # fmt: skip
    ports = z3.If(
        reply,
        z3.And(there[0] == back[1], there[1] == back[0]),
        z3.And(there[0] == back[0], there[1] == back[1]),
    )
    kind, was = later.bits("th", 0, 8), first.bits("th", 0, 8)
    pairs = z3.Or(
        *[z3.And(was == asks, kind == answers)
          for asks, answers in ((8, 0), (13, 14), (15, 16), (17, 18), (128, 129), (139, 140))]
    )  # fmt: skip
    echo = z3.And(
        first.bits("th", 32, 16) == later.bits("th", 32, 16), z3.If(reply, pairs, kind == was)
    )
    return z3.And(
        first.six == later.six,
        first.protocol == later.protocol,
        z3.If(later.six, ends("ip6"), ends("ip")),
        z3.Implies(one_of(later.protocol, _PORTS), ports),
        z3.Implies(one_of(later.protocol, (1, 58)), echo),
    )


def history(rules: Rules | None, of: Passage, name: str) -> tuple[Bool, list[tuple[Passage, Bool]]]:
    """Return what an established packet takes for granted: a first packet, let through here.

    With it come the first packets it may be, each with the term that it is the one.

    Where rules translate addresses nothing is taken for granted (an established packet may then
    belong to any connection), and neither on a host without rules.
    """
    if rules is None or rules.translates:
        return TRUE, []
    found: list[tuple[Passage, Bool]] = []
    for way in WAYS:
        first = passage(rules, way, Packet(f"{name}.{way}"), f"{name}.{way}", of.host)
        opens = z3.Or(first.track.state == NEW, first.track.state == RELATED)
        same = same_connection(first.packet, of.packet, of.track.reply)
        found.append((first, z3.And(first.sane, first.passes, opens, same)))
    return z3.Implies(of.track.state == ESTABLISHED, z3.Or(*(is_it for _, is_it in found))), found
