"""What the kernel lets through is never proven not to pass, whatever changes along its way."""

# ruff: noqa: E501
# rules of nft are shown whole

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest

from sekisho.control.replay.namespaces import replay
from sekisho.core.errors import SekishoError
from sekisho.prover.constants import interface_number
from sekisho.prover.network import Network
from sekisho.prover.rules import read_rules

pytestmark = pytest.mark.kernel

NEAR, FAR, OTHER, OWN = "10.0.1.1", "172.16.3.4", "172.16.3.5", "10.0.0.1"
UDP, TCP = 17, 6


def udp(size: int = 4) -> bytes:
    return struct.pack("!HHHH", 5000, 53, 8 + size, 0) + b"u" * size


def tcp(*, words: int = 5, options: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", 5000, 22, 1, 1, words << 4, 2, 1000, 0, 0) + options


def packet(
    body: bytes, protocol: int = UDP, *, tos: int = 0, target: str = FAR, number: int = 7
) -> bytes:
    return struct.pack(
        "!BBHHHBBH4s4s", 0x45, tos, 20 + len(body), number, 0x4000, 64, protocol, 0,
        socket.inet_aton(NEAR), socket.inet_aton(target)) + body  # fmt: skip


def forwarded(data: bytes) -> dict[str, Any]:
    return {"way": "forward", "iif": "eth0", "oif": "eth1", "bytes": data.hex(), "mark": 0}


def sent(data: bytes) -> dict[str, Any]:
    own = data[:12] + socket.inet_aton(OWN) + data[16:]
    return {"way": "output", "iif": "", "oif": "eth1", "bytes": own.hex(), "mark": 0}


@dataclass(frozen=True)
class Case:
    """Rules, and packets of which the last is asked about; ``passes``: what the kernel does."""

    rules: str
    packets: tuple[dict[str, Any], ...] = (forwarded(packet(udp())),)
    family: str = "inet"
    passes: bool = True
    routes: dict[str, str] = field(default_factory=dict)
    ip: tuple[tuple[str, ...], ...] = ()


def base(name: str, hook: str, priority: int, *rules: str, kind: str = "filter",
         policy: str = "accept") -> str:  # fmt: skip
    inner = "\n".join(rules)
    return f"chain {name} {{ type {kind} hook {hook} priority {priority}; policy {policy};\n{inner}\n}}\n"


def last(*rules: str, priority: int = 0) -> str:
    """Return the forward chain that drops what no rule accepts."""
    return base("f", "forward", priority, *rules, policy="drop")


ELSEWHERE = {OTHER: "eth1"}
DNAT = base("n", "prerouting", -100, f"ip daddr {FAR} dnat ip to {OTHER}", kind="nat")
MSS = b"\x02\x04\x05\xb4"

CASES = {
    # One rule, evaluated twice: what nobody can foresee falls one way, then the other.
    "a limit in a chain jumped to twice": Case(
        "chain s { limit rate over 1/hour burst 1 packets goto g\n}\n"
        "chain g { meta mark 0 drop\nmeta mark 1 accept\n}\n" + last("jump s", "meta mark set 1", "jump s")),
    "a quota in a chain jumped to twice": Case(
        "chain s { quota over 40 bytes meta mark set meta mark or 2 return\nmeta mark set meta mark or 1\n}\n"
        + last("jump s", "jump s", "meta mark 3 accept")),
    "a set filled between two lookups": Case(
        "set d { type ipv4_addr; flags dynamic; size 64; }\n"
        "chain s { ip saddr @d meta mark set meta mark or 2 return\nmeta mark set meta mark or 1\n}\n"
        + last("jump s", "add @d { ip saddr }", "jump s", "meta mark 3 accept")),
    "two readings in one rule": Case(
        last("meta mark set numgen inc mod 1", "meta mark 0 meta mark set numgen inc mod 1 offset 100 meta mark 100 accept")),
    # Connection tracking's state along the way.
    "notrack is seen in its own chain": Case(base("r", "prerouting", -300, "notrack", "ct state untracked accept", policy="drop")),
    "notrack leaves nothing invalid behind it": Case(base("r", "prerouting", -300, "notrack", "ct state invalid drop")),
    "notrack and a state in one rule": Case(base("r", "prerouting", -300, "notrack ct state untracked accept", policy="drop")),
    "notrack behind tracking does nothing": Case(
        base("p", "prerouting", -150, "notrack") + last("ct state new accept")),
    "notrack of what is invalid makes it untracked": Case(
        base("a", "forward", -10, "notrack") + last("ct state untracked accept"),
        (forwarded(packet(tcp(words=3), TCP)),)),
    "a zone makes a template that reads as new": Case(base("r", "prerouting", -300, "ct zone set 5", "ct state new accept", policy="drop")),
    "a zone makes a later notrack do nothing": Case(
        base("r", "prerouting", -300, "ct zone set 5", "notrack") + last("ct state new accept")),
    "a zone takes an earlier notrack back": Case(
        base("r", "prerouting", -300, "notrack", "ct zone set 5") + last("ct state new accept")),
    "a zone of what is invalid behind tracking": Case(
        last("ct zone set 5", "ct state new accept"), (forwarded(packet(tcp(words=3), TCP)),)),
    # What a connection carries.
    "a connection's mark set between two readings": Case(
        last("ct mark 0 meta mark set 9", "ct mark set 2", "ct mark 2 meta mark 9 accept")),
    "a connection's status before and behind translation": Case(
        base("p", "prerouting", -150, "ct status ! dnat meta mark set 1") + DNAT
        + last("ct status dnat meta mark 1 accept"), routes=ELSEWHERE),
    "a connection's address of the reply before and behind translation": Case(
        base("p", "prerouting", -150, f"ct reply saddr {FAR} meta mark set 1") + DNAT
        + last(f"ct reply saddr {OTHER} meta mark 1 accept"), family="ip", routes=ELSEWHERE),
    "a connection known by what was rewritten before": Case(
        base("r", "prerouting", -300, f"ip daddr {FAR} meta mark set 1", f"ip daddr {FAR} ip daddr set {OTHER}")
        + last("ct state new meta mark 0 accept", "ct state established accept"),
        (forwarded(packet(udp(), target=OTHER)),
         {"way": "forward", "iif": "eth1", "oif": "eth0", "mark": 0, "bytes": (
             struct.pack("!BBHHHBBH4s4s", 0x45, 0, 32, 8, 0x4000, 64, 17, 0, socket.inet_aton(OTHER),
                         socket.inet_aton(NEAR)) + struct.pack("!HHHH", 53, 5000, 12, 0) + b"rrrr").hex()},
         forwarded(packet(udp(), number=9))), routes=ELSEWHERE),
    # Equal priorities, and chains of type nat.
    "two tables of one priority": Case(
        base("f", "forward", 0, "ip dscp set cs1") + "}\ntable inet u {\n"
        + base("f", "forward", 0, "ip dscp cs0 accept", policy="drop")),
    "two chains of one table and priority": Case(
        base("f1", "forward", 0, "meta mark set 1") + base("f2", "forward", 0, "meta mark 0 accept", policy="drop")),
    "tables of families ip and inet of one priority": Case(
        base("f", "forward", 0, "ip ttl set 9") + "}\ntable ip u {\n"
        + base("f", "forward", 0, "ip ttl 63 accept", policy="drop")),
    "a nat chain runs where translation is, not where it says": Case(
        base("n", "prerouting", 10, "meta mark set 1", kind="nat")
        + base("p", "prerouting", 0, "meta mark 1 accept", policy="drop")),
    "a nat chain is not asked of a second new packet": Case(
        base("n", "prerouting", -100, "ip length 32 accept", kind="nat", policy="drop"),
        (forwarded(packet(udp(4))), forwarded(packet(udp(100), number=8)))),
    "a second new packet keeps its translation": Case(
        base("n", "prerouting", -100, f"ip length 32 dnat ip to {OTHER}", kind="nat")
        + last(f"ip daddr {OTHER} accept"),
        (forwarded(packet(udp(4))), forwarded(packet(udp(100), number=8))), routes=ELSEWHERE),
    "no nat chain is asked behind the one that translates": Case(
        DNAT + base("m", "prerouting", -90, kind="nat", policy="drop"), routes=ELSEWHERE),
    "a drop in the second of two nat chains when the first does not translate": Case(
        base("n", "prerouting", -100, "ip daddr 9.9.9.9 dnat ip to 8.8.8.8", kind="nat")
        + base("m", "prerouting", -90, kind="nat", policy="drop"), passes=False),
    # Rewriting, and what changes with it.
    "the checksum of a header rewritten": Case(
        last("ip checksum > 0 ip dscp cs0 meta mark set 1", "ip dscp set cs7", "ip dscp cs7 meta mark 1 accept")),
    "the checksum of UDP behind translation": Case(
        base("p", "prerouting", -150, "udp checksum 0x1234 meta mark set 1") + DNAT
        + last("meta mark 1 udp checksum != 0x1234 accept"),
        (forwarded(packet(struct.pack("!HHHHI", 5000, 53, 12, 0x1234, 0))),), routes=ELSEWHERE),
    "a TCP option rewritten": Case(
        last("tcp option maxseg size 1460 meta mark set 7", "tcp option maxseg size set 1360",
             "tcp option maxseg size 1360 meta mark 7 accept"), (forwarded(packet(tcp(words=6, options=MSS), TCP)),)),
    "the protocol rewritten is seen by the next chain only": Case(
        last("ip protocol set 17", "meta l4proto 6 accept"), (forwarded(packet(tcp(), TCP)),), family="ip"),
    "the length rewritten cuts nothing": Case(last("ip length set 24", "udp dport 53 accept"), family="ip"),
    "the length rewritten is not the packet's": Case(last("ip length set 24", "meta length 32 accept"), family="ip"),
    "the header's length rewritten moves what follows": Case(
        base("p", "forward", -10, "ip hdrlength set 6") + last("udp sport 16 accept"),
        (forwarded(packet(udp(8))),), family="ip"),
    # Interfaces.
    "no interface out is known before routing": Case(
        base("p", "prerouting", 0, 'oifname != "eth1" accept', policy="drop")),
    "a packet of one's own is routed anew by its mark": Case(
        base("r", "output", -150, "meta mark set 1", kind="route")
        + base("o", "output", 0, 'oifname "eth1" accept', policy="drop")
        + base("p", "postrouting", 0, 'oifname "wan0" accept', policy="drop"),
        (sent(packet(udp())),),
        ip=(("addr", "add", f"{OWN}/24", "dev", "eth1"), ("route", "add", "table", "7", FAR, "dev", "wan0"),
            ("neigh", "add", FAR, "lladdr", "02:00:00:00:00:fe", "dev", "wan0"),
            ("rule", "add", "fwmark", "1", "lookup", "7"))),
    # Options that are not there, in packets that cannot have any.
    "a TCP option is missing of UDP": Case(last("tcp option maxseg missing accept")),
    "a TCP option is missing of a header cut short": Case(
        last("tcp option maxseg missing accept"), (forwarded(packet(tcp(words=3), TCP)),)),
    "a TCP option exists of TCP only": Case(last("tcp option maxseg exists accept"), passes=False),
    "a chunk of SCTP is missing of UDP": Case(last("sctp chunk data missing accept")),
    # Sets whose catch-all catches.
    "a catch-all element": Case(
        "set s { type ipv4_addr; elements = { 9.9.9.9, * }; }\n" + last("ip saddr @s accept")),
    "a catch-all of a map is taken where no other element hits": Case(
        last("meta mark set ip saddr map { 9.9.9.9 : 1, * : 2 }", "meta mark 2 accept")),
    "behind a verdict map goes on what it says to continue": Case(
        last("udp dport vmap { 53 : continue, 54 : accept } meta mark set 1", "meta mark 1 accept")),
}  # fmt: skip


def may_pass(listed: Any, asked: dict[str, Any]) -> bool:
    """Return whether the model knows a way for a packet of these very bytes, as if not by IPsec."""
    one = Network({"h": read_rules(listed, "h")}).way("h", asked["way"])
    seen, data = one.packet, bytes.fromhex(asked["bytes"])
    body = data[20:40].ljust(20, b"\0")
    terms = [seen.six == False, seen.flag("ipsec-in") == False]  # noqa: E712 - terms of the solver
    terms += [seen.get(side) == interface_number(asked[side]) for side in ("iif", "oif")]
    for name, shift in (("version", 4), ("hdrlength", 0)):
        terms.append(seen.field("ip", name) == (data[0] >> shift & 15))
    for name, low, high in (("length", 2, 4), ("id", 4, 6), ("frag-off", 6, 8), ("ttl", 8, 9),
                            ("protocol", 9, 10), ("saddr", 12, 16), ("daddr", 16, 20)):  # fmt: skip
        terms.append(seen.field("ip", name) == int.from_bytes(data[low:high], "big"))
    terms += [
        seen.field("ip", "dscp") == data[1] >> 2,
        seen.get("th") == int.from_bytes(body, "big"),
    ]
    network = Network({"h": read_rules(listed, "h")})
    return network.openings(one, terms) is not None


@pytest.mark.parametrize("name", CASES)
def test_what_passes_is_not_proven_away(name: str) -> None:
    case = CASES[name]
    job = {"text": f"table {case.family} t {{\n{case.rules}}}\n", "packets": list(case.packets),
           "interfaces": ["eth0", "eth1", "wan0"], "routes": case.routes, "ip": case.ip}  # fmt: skip
    try:
        answers = replay(job)
    except SekishoError as bad:
        if os.environ.get("CI") or "namespaces" not in bad.diagnostics():
            raise
        pytest.skip(bad.diagnostics())
    assert answers[-1]["entered"]
    assert answers[-1]["passed"] is case.passes, "the kernel does otherwise: the case shows nothing"
    if case.passes:
        assert may_pass(answers[0]["listed"], case.packets[-1])
