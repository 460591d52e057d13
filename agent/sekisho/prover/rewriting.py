"""What a rewriting changes besides what it names: checksums, places of headers, everything. Pure.

A packet's parts hang together: a field written over changes the checksums that cover it, and a
length of a header moves what stands behind it. What changes so is left open.
Source: ``nft_payload_set_eval``, ``nf_nat_proto.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import z3

from sekisho.prover.chance import Chance
from sekisho.prover.packet import TRUE, WIDTHS, Bool, Packet, Write

#: Offset and width of a checksum in bits → transport protocols that have it there.
_CHECKSUMS = {(128, 16): (6,), (48, 16): (17, 136, 33), (16, 16): (1, 2, 58), (64, 32): (132,)}
#: Fields (header, offset) that say where the transport header stands, and what it is.
_PLACING = {("nh4", 4), ("nh6", 48)}
#: Fields of the network header that the transport's checksum covers (``pseudohdr`` in nft).
_COVERED = ("saddr", "daddr", "protocol", "nexthdr", "length")


def covers(base: str, name: str) -> bool:
    """Return whether the transport's checksum changes with a field."""
    return base == "th" or name in _COVERED


def rewritten(
    chance: Chance,
    packet: Packet,
    done: Bool,
    writes: Iterable[tuple[str, Write]],
    *,
    beyond: bool = True,
) -> Packet:
    """Return the packet with ``writes`` made, and with what they change besides.

    ``beyond``: whether the transport's checksum covers what is written; the header's is its own.
    """
    before = packet
    moved = False
    for base, one in writes:
        packet = packet.write(base, one)
        moved = moved or (base, one.offset) in _PLACING
    if moved:
        packet = _moved(chance, packet, done)
    packet = packet.write("nh4", Write(80, 16, done, chance.anything("checksum", 16)))
    if not beyond:
        return packet
    return packet.write("th", *checksums(chance, (before, packet.entering()), done))


def checksums(chance: Chance, packets: Sequence[Packet], done: Bool) -> list[Write]:
    """Return that the transport's checksum may be any, by each protocol it may be taken for."""

    def of(protocols: tuple[int, ...]) -> Callable[[], Bool]:
        return lambda: z3.Or(*[one.protocol == number for one in packets for number in protocols])

    return [Write(offset, width, done, chance.anything("transport checksum", width), of(protocols))
            for (offset, width), protocols in _CHECKSUMS.items()]  # fmt: skip


def summed(packet: Packet, otherwise: Bool, protocol: int | None) -> Bool:
    """Return whether a write that changes the transport's checksum is made: it has to be there.

    A packet cut short before its checksum keeps the field, and the rule ends (``NFT_BREAK``).
    ``protocol``: the one the write is for; None: whichever the packet has.
    """
    there = [
        z3.Implies(z3.Or(*[packet.protocol == one for one in protocols]),
                   packet.readable(offset + width))
        for (offset, width), protocols in _CHECKSUMS.items()
        if protocol is None or protocol in protocols
    ]  # fmt: skip
    return z3.Or(otherwise, z3.And(*there))


def _moved(chance: Chance, packet: Packet, done: Bool) -> Packet:
    """Leave open what now stands where the transport header is looked for.

    The rest of the chain still looks where it stood: `settled` once more, behind the chain.
    """
    free = {
        name: chance.anything(name, width) for name, width in (("protocol6", 8), ("length6", 16))
    } | {name: chance.maybe(name) for name in ("transport6", "fragment6")}
    parts = {
        name: z3.If(done, one, packet.flag(name) if z3.is_bool(one) else packet.get(name, 16))
        for name, one in free.items()
        if name != "protocol6"
    }
    parts["protocol6"] = z3.If(done, free["protocol6"], packet.get("protocol6", 8))
    whole = Write(0, WIDTHS["th"], done, chance.anything("th", WIDTHS["th"]))
    before = packet.parts.get("moved")
    parts["moved"] = done if before is None else z3.Or(before, done)
    return packet.with_(**parts).write("th", whole)


def settled(chance: Chance, packet: Packet) -> Packet:
    """Return the packet behind a base chain: its transport header is looked for anew."""
    moved = packet.parts.get("moved")
    if moved is None:
        return packet
    packet = _moved(chance, packet, moved)
    parts = {name: one for name, one in packet.parts.items() if name != "moved"}
    return replace(packet, parts=parts, made={})


def anew(chance: Chance, packet: Packet, done: Bool) -> Packet:
    """Return a packet of which, when ``done``, nothing is known but its family and interfaces."""
    for base in ("nh4", "nh6"):
        packet = packet.write(base, Write(0, WIDTHS[base], done, chance.anything(base,
                              WIDTHS[base])))  # fmt: skip
    packet = _moved(chance, packet, done)
    return packet.with_(
        size=z3.If(done, chance.anything("size", 16), packet.size),
        size6=z3.If(done, chance.anything("size6", 16), packet.size6),
    )


def unsure(chance: Chance, before: Packet, after: Packet) -> Packet:
    """Return ``after`` with whatever differs from ``before`` left open.

    For chains that may see the packet more than once, or not at all.
    """
    for base, writes in after.written.items():
        for one in writes[len(before.written.get(base, ())) :]:
            free = Write(one.offset, one.width, TRUE, chance.anything(base, one.width))
            after = after.write(base, free)
    if after.parts.get("mark") is not before.parts.get("mark"):
        after = after.with_(mark=chance.anything("mark", 32))
    return after
