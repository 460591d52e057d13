"""A solver's answer into a packet a person reads and a machine can send. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import z3

from sekisho.prover.constants import (
    CT_STATES,
    PROTOCOLS,
    TCP_FLAGS,
    interface_name,
    interface_number,
)
from sekisho.prover.packet import Packet
from sekisho.prover.passage import Passage

_STATES = {number: name for name, number in CT_STATES.items()}
_NAMES = {number: name for name, number in reversed(PROTOCOLS.items())}


@dataclass(frozen=True, slots=True)
class Step:
    """One host on the packet's way: the packet there, and the rule that let it through."""

    host: str
    way: str
    packet: dict[str, Any]
    rules: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the step as plain JSON."""
        return {"host": self.host, "way": self.way, "packet": self.packet,
                "rules": list(self.rules)}  # fmt: skip


class Reading:
    """Reads a model of the solver; what it left open is zero."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def number(self, term: Any) -> int:
        """Return the number a term has."""
        return int(self.model.eval(term, model_completion=True).as_long())

    def holds(self, term: Any) -> bool:
        """Return whether a condition holds."""
        return bool(z3.is_true(self.model.eval(term, model_completion=True)))

    def packet(self, packet: Packet, passage: Passage) -> dict[str, Any]:
        """Return a packet's fields by name."""
        six = self.holds(packet.six)
        protocol = self.number(packet.protocol)
        family = "ip6" if six else "ip"
        show = IPv6Address if six else IPv4Address
        found: dict[str, Any] = {
            "iif": interface_name(self.number(packet.get("iif"))),
            "oif": interface_name(self.number(packet.get("oif"))),
            "family": family,
            "saddr": str(show(self.number(packet.field(family, "saddr")))),
            "daddr": str(show(self.number(packet.field(family, "daddr")))),
            "protocol": _NAMES.get(protocol, str(protocol)),
            "ct": _STATES.get(self.number(passage.track.state), "invalid"),
            "direction": "reply" if self.holds(passage.track.reply) else "original",
            "length": self.number(packet.field(family, "length")),
        }
        if not six:
            found["hdrlength"] = self.number(packet.field("ip", "hdrlength"))
            found["frag-off"] = self.number(packet.field("ip", "frag-off"))
        found |= self._transport(packet, protocol)
        if (mark := self.number(packet.get("mark"))) != 0:
            found["mark"] = mark
        for way in ("in", "out"):
            if self.holds(packet.flag(f"ipsec-{way}")):
                found[f"ipsec-{way}"] = True
        found["bytes"] = self._bytes(packet, six)
        return found

    def _transport(self, packet: Packet, protocol: int) -> dict[str, Any]:
        if not self.holds(packet.readable(8 * 4)):
            return {}
        if protocol in (1, 58):
            return {"type": self.number(packet.bits("th", 0, 8)),
                    "code": self.number(packet.bits("th", 8, 8))}  # fmt: skip
        if protocol not in (6, 17, 132, 136):
            return {}
        found: dict[str, Any] = {
            "sport": self.number(packet.field("th", "sport")),
            "dport": self.number(packet.field("th", "dport")),
        }
        if protocol == 6:
            flags = self.number(packet.field("tcp", "flags"))
            found["flags"] = "|".join(n for n, bit in TCP_FLAGS.items() if flags & bit) or "none"
            found["doff"] = self.number(packet.field("tcp", "doff"))
            if not self.holds(packet.six):
                found["payload"] = (
                    self.number(packet.field("ip", "length"))
                    - 4 * self.number(packet.field("ip", "hdrlength"))
                    - 4 * found["doff"]
                )
        return found

    def _bytes(self, packet: Packet, six: bool) -> str:
        """Return the packet's bytes from the network header on, as hexadecimal."""
        transport = self.number(packet.get("th")).to_bytes(20, "big")
        if six:
            head = self.number(packet.get("nh6")).to_bytes(40, "big")
            size = min(self.number(packet.field("ip6", "length")), 9000)
            body = b""
        else:
            head = self.number(packet.get("nh4")).to_bytes(20, "big")
            options = max(0, self.number(packet.field("ip", "hdrlength")) * 4 - 20)
            body = b"\x01" * options
            size = min(self.number(packet.field("ip", "length")), 9000) - 20 - options
        whole = transport[: max(0, size)] + b"\0" * max(0, size - 20)
        return (head + body + whole).hex()

    def step(self, passage: Passage) -> Step:
        """Return one host on the way and the verdicts that took effect there."""
        seen = tuple(
            " ".join(
                part
                for part in (one.where, one.verdict, f"({one.comment})" if one.comment else "")
                if part
            )
            for one in passage.fired
            if self.holds(one.when)
        )
        return Step(passage.host, passage.way, self.packet(passage.packet, passage), seen)

    def chances(self) -> tuple[str, ...]:
        """Return what was left to chance and had to fall this way: limits, quotas, time-outs."""
        found = [
            declared.name().partition("?")[2]
            for declared in self.model.decls()
            if "?" in declared.name() and z3.is_true(self.model[declared])
        ]
        return tuple(sorted(set(found)))


def tidy(
    solver: Any,
    passages: list[Passage],
    names: dict[str, tuple[str, ...]],
    first_of_all: Iterable[Any] = (),
) -> Any:
    """Return a model that shows the same with a packet as plain as possible.

    Wishes are tried one after the other and kept when the solver still agrees.
    """
    model = solver.model()
    wishes: list[Any] = [*first_of_all]
    for passage in passages:
        packet = passage.packet
        known = names.get(passage.host, ())
        for side in ("iif", "oif"):
            if known:
                for names_wished in ([one for one in known if one != "lo"], ["lo"], [""]):
                    options = [packet.get(side) == interface_number(one) for one in names_wished]
                    wishes.append(z3.Or(*options))
        wishes += [
            z3.Not(packet.six),
            packet.field("ip", "hdrlength") == 5,
            # Addresses a kernel routes: no martian, so that the packet can be replayed.
            packet.bits("nh4", 96, 8) == 10,
            packet.bits("nh4", 128, 8) == 10,
            packet.field("ip", "saddr") != packet.field("ip", "daddr"),
            packet.bits("nh4", 152, 8) != 0,
            packet.bits("nh4", 120, 8) != 0,
            z3.Extract(45, 32, z3.Extract(111, 64, packet.get("nh4"))) == 0,
            packet.field("ip", "protocol") == 6,
            passage.track.state == 8,
            packet.field("tcp", "flags") == 2,
            packet.field("tcp", "flags") == 16,
            packet.field("tcp", "doff") == 5,
            z3.ULE(packet.field("ip", "length"), 1400),
            packet.field("ip", "length") == 140,
            packet.field("ip", "length") == 40,
            packet.field("ip", "ttl") == 64,
            packet.bits("nh4", 8, 8) == 0,
            packet.field("ip", "id") == 1,
            packet.get("mark") == 0,
            packet.bits("th", 128, 32) == 0,
            packet.bits("th", 32, 64) == 0,
            packet.bits("th", 100, 4) == 0,
            z3.UGE(packet.field("th", "sport"), 1024),
        ]
    for wish in wishes:
        solver.push()
        solver.add(wish)
        if solver.check() == z3.sat:
            model = solver.model()
        else:
            solver.pop()
    return model
