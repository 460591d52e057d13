"""One host's ways for a packet, with what connection tracking must have seen before. Pure.

A packet whose connection is `established` needs a first packet of the same connection, state `new`
or `related`, that came through all hooks of this host: `history` says so with a second packet.
Routing is left open: an arriving packet may be for this host or for any interface, and one made
here may be routed anew where a rule changed what routing looks at.
"""

from __future__ import annotations

from dataclasses import dataclass

import z3

from sekisho.prover.constants import CT_STATES, interface_number
from sekisho.prover.expressions import Track
from sekisho.prover.hooks import Fired, Trip, pass_device_hook, pass_hook
from sekisho.prover.packet import FALSE, TRUE, Bits, Bool, Packet
from sekisho.prover.tables import Rules

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
_LO = interface_number("lo")
_PORTS = (6, 17, 132, 136, 33)


@dataclass(frozen=True, slots=True)
class Passage:
    """A packet on one way through one host.

    Attributes:
        host: whose hooks.
        way: input, forward or output.
        packet: the packet as it comes (or is made).
        left: the packet as it leaves or is delivered.
        tracked: the packet as connection tracking saw it.
        track: what connection tracking found of it here.
        sane: what holds of every packet (headers checked by the kernel, tracking's own logic).
        passes: whether every hook lets it through.
        fired: the verdicts on the way.

    """

    host: str
    way: str
    packet: Packet
    left: Packet
    tracked: Packet
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
        left = packet.aged().entering() if way == "forward" else packet
        return Passage(host, way, packet, left, packet, track, sane, TRUE, ())
    if way != "output":
        packet = packet.with_(mark=mark_on_arrival(packet, rules))
    trip = Trip(rules, packet, before_tracking(packet, track, way), track, packet)
    out = packet.get("oif")
    for hook in WAYS[way]:
        if hook == "*ingress":  # where it goes is not known before it is routed
            trip.packet = trip.packet.with_(oif=z3.BitVecVal(0, 128))
        if hook.startswith("*"):
            pass_device_hook(trip, hook[1:])
            continue
        pass_hook(trip, hook)
        if hook == "prerouting":
            trip.packet = trip.packet.with_(oif=out)
            if way == "forward":
                trip.packet = trip.packet.aged().entering()
        elif hook == "output" and rules.reroutes:
            trip.packet = routed_anew(trip.packet)
    sane = z3.And(
        packet.well_formed(arriving=way != "output"),
        _interfaces(packet, way),
        _tracked(rules, trip.tracked, track),
    )
    left = trip.packet.entering()
    return Passage(
        host or rules.host, way, packet, left, trip.tracked, track, sane, trip.alive,
        tuple(trip.fired),
    )  # fmt: skip


def mark_on_arrival(packet: Packet, rules: Rules) -> Bits:
    """Return the mark a packet comes with: none, but what it had before.

    What IPsec decrypted keeps the mark of what it came in (``xfrm_input``), and the loopback gives
    back what was sent with it.
    """
    kept = packet.get("iif") == _LO
    if rules.marks:
        kept = z3.Or(kept, packet.flag("ipsec-in"))
    return z3.If(kept, packet.get("mark"), z3.BitVecVal(0, 32))


def before_tracking(packet: Packet, track: Track, way: str) -> Track:
    """Return what rules read of tracking before it looked: invalid, but of the loopback.

    A packet that comes by the loopback still has the connection it was sent in.
    """
    if way == "output":
        return Track(z3.BitVecVal(CT_STATES["invalid"], 32), FALSE)
    kept = packet.get("iif") == _LO
    return Track(z3.If(kept, track.state, z3.BitVecVal(CT_STATES["invalid"], 32)), track.reply)


def routed_anew(packet: Packet) -> Packet:
    """Return a packet that may leave by another interface, and by another policy of IPsec."""
    return packet.with_(**{
        "oif": z3.BitVec(f"{packet.prefix}?oif when routed anew", 128),
        "ipsec-out": z3.Bool(f"{packet.prefix}?IPsec when routed anew"),
    })  # fmt: skip


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
    looked_at = z3.And(
        z3.Implies(track.known, whole),
        z3.Implies(z3.And(state == NEW, icmp), one_of(kind, _BEGIN4)),
        z3.Implies(z3.And(state == NEW, icmp6), one_of(kind, _BEGIN6)),
        z3.Implies(state == 64, z3.And(icmp6, one_of(kind, _UNTRACKED6))),
        z3.Implies(state == RELATED, TRUE if rules.expects else error),
    )
    return z3.And(
        one_of(state, tuple(CT_STATES.values())),
        z3.Implies(state == NEW, z3.Not(track.reply)),
        # What comes by the loopback is not looked at again: it keeps what it was before a rule
        # after tracking (postrouting) rewrote it (nf_conntrack_in).
        z3.Or(packet.get("iif") == _LO, looked_at),
    )


def same_connection(first: Packet, later: Packet, reply: Bool) -> Bool:
    """Return whether ``later`` is of the connection ``first`` opens, in direction ``reply``.

    Both as connection tracking saw them: what rules rewrite before it is what it knows.
    """

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
        same = same_connection(first.tracked, of.tracked, of.track.reply)
        found.append((first, z3.And(first.sane, first.passes, opens, same)))
    return z3.Implies(of.track.state == ESTABLISHED, z3.Or(*(is_it for _, is_it in found))), found
