"""Which packets belong to a declared line, as terms for the solver. Pure.

What may pass (`may`) and what must pass (`must`) are told apart: the law needs the first, the
operation the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import z3

from sekisho.policy.parts import ESP, ICMP, TCP, DeclaredLine
from sekisho.prover.constants import interface_number
from sekisho.prover.expressions import Track
from sekisho.prover.packet import Bool, Packet, within


def _tuple(line: DeclaredLine, packet: Packet) -> Bool:
    found = [
        z3.Not(packet.six),
        packet.get("iif") == interface_number(line.iif),
        packet.get("oif") == interface_number(line.oif),
        _in(packet, "saddr", line.senders),
        _in(packet, "daddr", line.receivers),
        packet.field("ip", "protocol") == line.protocol,
    ]
    if line.protocol == ESP:  # no ports; a later fragment carries nothing else
        return z3.And(*found)
    side = "sport" if line.back else "dport"
    service = (
        packet.bits("th", 0, 8) == line.port
        if line.protocol == ICMP
        else packet.field("th", side) == line.port
    )
    return z3.And(*found, packet.bits("nh4", 51, 13) == 0, service)


def may(line: DeclaredLine, packet: Packet, track: Track) -> Bool:
    """Return whether the packet belongs to this line and has the shape the law allows."""
    states = [track.state == 2] if line.back else [track.state == 2, track.state == 8]
    if line.mode_untracked:
        states = []
    found = [_tuple(line, packet)]
    if states:
        found.append(z3.Or(*states))
    if line.back and line.protocol != ICMP:
        found.append(track.reply)
    if line.bare:
        found.append(packet.is_bare())
    if line.ipsec != "outer":
        found += [packet.flag(f"ipsec-{way}") for way in line.ipsec.split()]
    if line.syn and line.protocol == TCP:
        found.append(z3.Implies(track.state == 8, _opens(packet)))
    return z3.And(*found)


def must(line: DeclaredLine, packet: Packet, track: Track) -> Bool:
    """Return whether the packet is a regular one of this line, which has to pass."""
    length = packet.transport_length
    found = [_tuple(line, packet), packet.bits("nh4", 50, 14) == 0]
    if line.protocol == TCP:
        head = z3.ZeroExt(10, z3.Concat(packet.field("tcp", "doff"), z3.BitVecVal(0, 2)))
        found += [z3.UGE(packet.field("tcp", "doff"), 5), z3.UGE(length, head),
                  z3.UGE(packet.field("ip", "hdrlength"), 5)]  # fmt: skip
    else:
        found += [z3.UGE(length, 8), z3.UGE(packet.field("ip", "hdrlength"), 5)]
    total = packet.field("ip", "length")
    head4 = z3.ZeroExt(10, z3.Concat(packet.field("ip", "hdrlength"), z3.BitVecVal(0, 2)))
    found.append(z3.UGE(total, head4))
    opening = _opens(packet) if line.protocol == TCP else z3.BoolVal(True)
    if line.back:
        found += [track.state == 2, track.reply]
    else:
        begun = z3.And(track.state == 2, z3.Not(track.reply))
        found.append(z3.Or(begun, z3.And(track.state == 8, opening)))
    if line.bare:
        found.append(packet.is_bare())
    return z3.And(*found)


def _opens(packet: Packet) -> Bool:
    return (packet.field("tcp", "flags") & 0x17) == 2


def _in(packet: Packet, side: str, networks: tuple[IPv4Network, ...]) -> Bool:
    listed = [(int(one.network_address), int(one.broadcast_address)) for one in networks]
    return within(packet.field("ip", side), listed)


def alike(lines: Iterable[DeclaredLine]) -> list[tuple[DeclaredLine, list[DeclaredLine]]]:
    """Return lines that differ in nothing but who sends, or who receives, as one, with which.

    What the one may hold is what one of them may, exactly: one question for many like peers.
    """
    found = [(line, [line]) for line in lines]
    for side in ("senders", "receivers"):
        groups: dict[DeclaredLine, list[tuple[DeclaredLine, list[DeclaredLine]]]] = {}
        for one in found:
            nobody: dict[str, Any] = {side: ()}
            groups.setdefault(replace(one[0], name="", **nobody), []).append(one)
        found = [_together(side, group) for group in groups.values()]
    return found


def _together(
    side: str, group: list[tuple[DeclaredLine, list[DeclaredLine]]]
) -> tuple[DeclaredLine, list[DeclaredLine]]:
    (first, _), *more = group
    if not more:
        return group[0]
    everybody: dict[str, Any] = {
        side: tuple(dict.fromkeys(one for line, _ in group for one in getattr(line, side)))
    }
    return replace(first, **everybody), [one for _, lines in group for one in lines]
