"""Answers of every declared connection: opened in earnest, then every shape of segment comes back.

Which connections there are is asked of the site model: a SYN to a declared port that is declared
all the way. Each shape has a connection of its own, so that no RST closes another's.
"""

# ruff: noqa: E501
# a catalogue reads best as a table

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from matrixcolumns import DELIVERED, Declared, Journey, walk
from matrixprobes import ACK, FIN, PSH, RST, SYN, TCP, URG, Probe, four, tcp
from matrixworld import Map

#: Clients' ports here: none that a probe without a connection uses.
FIRST, ROOM = 2000, 18000
Conversation = tuple[Journey, Journey, int]
_NOP = b"\1\1"
#: Labels of options' bytes: what a kernel sends, and what it never would.
OPTIONS = {
    "none": b"",
    "timestamps": _NOP + b"\x08\x0a" + bytes(8),
    "SACK, one block": _NOP + b"\x05\x0a" + bytes(8),
    "SACK, two blocks": _NOP + b"\x05\x12" + bytes(16),
    "SACK, three blocks": _NOP + b"\x05\x1a" + bytes(24),
    "SACK, four blocks": _NOP + b"\x05\x22" + bytes(32),
    "SACK, two blocks in room for one": _NOP + b"\x05\x12" + bytes(8),
    "MSS, SACK permitted, window scale": b"\2\4\5\xb4" + _NOP + b"\4\2" + b"\1\3\3\7",
    "unknown": b"\xfd\x0cpatient 10",
}


def conversations(world: Map, declared: Declared, ports: Sequence[int]) -> Iterator[Conversation]:
    """Yield there, back and port of every connection the site declares from end to end."""
    every = [one for held in world.links.values() for one in held]
    for sender in every:
        for target in every:
            step = None if sender.node == target.node else world.next_hop(
                sender.node, target.address)  # fmt: skip
            if step is None or step[0] is not sender:
                continue
            # Only data wires and the administration network as their rules mean them: the answer
            # has to leave by the wire the question came by.
            back = world.next_hop(target.node, sender.address)
            if back is None or back[0] is not target:
                continue
            there = Journey(sender, step[1], target.address, world.nodes[sender.node].ruled)
            answer = Journey(target, back[1], sender.address, world.nodes[target.node].ruled)
            for number in ports:
                syn = opening(number, SYN, seq=999)
                packet = syn.seen(sender.address, target.address, 1)
                if (target.node, DELIVERED) in walk(world, there, syn, packet, declared):
                    yield there, answer, number


def client(number: int) -> int:
    """Return the client's port of a connection."""
    if not 0 <= number < ROOM:
        raise ValueError(f"connection {number} has no port of its own: cannot tell")
    return FIRST + number


def opening(number: int, flags: int, *, seq: int, ack: int = 0) -> Probe:
    """Return a client's segment to a service."""
    return Probe("opening", lambda s, t, n: [
        four(s, t, 0, TCP, tcp(s, t, (client(n), number), flags, seq=seq, ack=ack))])  # fmt: skip


def answer(number: int, label: str, flags: int = ACK, *, seq: int = 5001, ip: Any = None,
           cut: int | None = None, **more: Any) -> Probe:  # fmt: skip
    """Return a service's segment to its client."""

    def make(s: Any, t: Any, n: int) -> list[bytes]:
        body = tcp(s, t, (number, client(n)), flags, seq=seq, ack=1000, **more)
        return [four(s, t, 7, TCP, body[:cut], **(ip or {}))]

    return Probe(f"answer from {number}: {label}", make)


def shapes(number: int) -> list[list[Probe]]:
    """Return every shape of answer, family by family."""

    def one(label: str, *words: Any, **more: Any) -> Probe:
        return answer(number, label, *words, **more)

    flags = [one(f"flags {value:#04x}", value) for value in range(256)]
    lengths = [
        one(f"{words} words of header{what}", options=b"\1" * 4 * (words - 5), payload=payload)
        for words in range(5, 16)
        for what, payload in (("", b""), (" and one byte", b"x"), (" and forty", b"x" * 40))
    ]
    options = [
        one(f"options {label}{what}", kind, options=held)
        for label, held in OPTIONS.items()
        for what, kind in (("", ACK), (", SYN", SYN | ACK), (", FIN", FIN | ACK), (", RST", RST))
    ]
    odd = [
        one("IP option", ip={"options": b"\1\1\1\1"}), one("do not fragment", ip={"offset": 0x4000}),
        one("evil bit", ip={"offset": 0x8000}), one("TTL 5", ip={"ttl": 5}),
        one("TOS 0xff", ip={"tos": 255}), one("reserved bits", reserved=15),
        one("urgent", ACK | URG, urgent=0x1234), one("urgent pointer without URG", urgent=0x1234),
        one("window 0", window=0), one("another sequence", seq=123456), one("payload", PSH | ACK,
        payload=b"secret"), one("cut to 10 bytes", cut=10), one("data offset 4", words=4),
        replace(one("first fragment alone", ip={"offset": 0x2000}), lone=True),
    ]  # fmt: skip
    for label, words in (("bare, in two fragments", b""), ("payload, in two fragments", b"x" * 16)):
        first = one(label, options=b"\1" * 8 if not words else b"", payload=words or b"")

        def halves(s: Any, t: Any, n: int, first: Probe = first) -> list[bytes]:
            body = first.make(s, t, n)[0][20:]
            return [four(s, t, n, TCP, body[:24], offset=0x2000),
                    four(s, t, n, TCP, body[24:], offset=3)]  # fmt: skip

        odd.append(replace(first, make=halves,
                           whole=lambda s, t, n, first=first: first.make(s, t, n)[0]))  # fmt: skip
    return [flags, lengths, options, odd]


def preface(conversation: Conversation, index: int) -> list[tuple[Journey, Probe, int]]:
    """Return the three packets that open a connection, each as its sender's kernel would send."""
    there, back, number = conversation
    return [
        (there, opening(number, SYN, seq=999), index),
        (back, answer(number, "SYN-ACK", SYN | ACK, seq=5000), index),
        (there, opening(number, ACK, seq=1000, ack=5001), index),
    ]
