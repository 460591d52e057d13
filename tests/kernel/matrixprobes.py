"""The catalogue: every protocol, port class, flag set, fragment, option, extension header.

A probe makes the network-layer packets of one question from source, destination and a number that
tells it apart (IP identification, IPv6 flow label, source port). What the kernel itself refuses
before any rule is said by the probe (`never`, `lone`); the control without rules checks that.
Sources: RFC 791, 792, 768, 8200, 9293; IANA protocol numbers.
"""

# ruff: noqa: E501
# a catalogue reads best as a table

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

Address = IPv4Address | IPv6Address
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
_LOW = 20000  # source ports are this and the number


@dataclass(frozen=True, slots=True)
class Probe:
    """One kind of packet.

    Attributes:
        label: what it is, for a reader.
        make: source, destination, number → packets from the network header on.
        whole: the packet the rules see when the kernel joins fragments first; None: the only one.
        v6: whether this is IPv6.
        never: the kernel drops it on arrival, with or without rules.
        lone: a fragment whose rest never comes: held back where anything tracks connections or
            delivers, sent on where nothing does.
        raw: whether a raw socket sends it as it is.

    """

    label: str
    make: Callable[[Any, Any, int], list[bytes]]
    whole: Callable[[Any, Any, int], bytes] | None = None
    v6: bool = False
    never: bool = False
    lone: bool = False
    raw: bool = True
    ttl: int = 64

    def seen(self, source: Any, target: Any, number: int) -> bytes:
        """Return the packet as the rules see it."""
        if self.whole is not None:
            return self.whole(source, target, number)
        return self.make(source, target, number)[0]


def checksum(data: bytes) -> int:
    """Return the Internet checksum."""
    if len(data) % 2:
        data += b"\0"
    left = int.from_bytes(data, "big") % 0xFFFF
    return 0xFFFF - left if left or not any(data) else 0


def port(number: int) -> int:
    """Return the source port of a probe."""
    return _LOW + number % 40000


def four(
    source: Address, target: Address, number: int, protocol: int, body: bytes, *,
    options: bytes = b"", offset: int = 0, ttl: int = 64, tos: int = 0,
    length: int | None = None, version: int = 4, words: int | None = None, wrong: int = 0,
) -> bytes:  # fmt: skip
    """Return an IPv4 packet, headers as asked for."""
    words = 5 + len(options) // 4 if words is None else words
    head = struct.pack(
        "!BBHHHBBH", version << 4 | words, tos,
        20 + len(options) + len(body) if length is None else length,
        number, offset, ttl, protocol, 0,
    ) + source.packed + target.packed + options  # fmt: skip
    total = (checksum(head) + wrong) & 0xFFFF
    return head[:10] + total.to_bytes(2, "big") + head[12:] + body


def six(source: Address, target: Address, number: int, following: int, body: bytes, *,
        hops: int = 64) -> bytes:  # fmt: skip
    """Return an IPv6 packet; ``body`` begins with what ``following`` names."""
    head = struct.pack("!IHBB", 6 << 28 | number, len(body), following, hops)
    return head + source.packed + target.packed + body


def _summed(source: Address, target: Address, protocol: int, data: bytes, at: int) -> bytes:
    pseudo = source.packed + target.packed + struct.pack("!II", len(data), protocol)
    total = checksum(pseudo + data)
    if protocol == UDP and total == 0:
        total = 0xFFFF
    return data[:at] + total.to_bytes(2, "big") + data[at + 2 :]


def tcp(
    source: Address, target: Address, ports: tuple[int, int], flags: int, *,
    seq: int = 1000, ack: int = 0, options: bytes = b"", payload: bytes = b"",
    words: int | None = None, reserved: int = 0, urgent: int = 0, window: int = 65535,
) -> bytes:  # fmt: skip
    """Return a TCP segment with a right checksum."""
    words = 5 + len(options) // 4 if words is None else words
    head = struct.pack("!HHIIBBHHH", *ports, seq, ack, words << 4 | reserved, flags, window, 0,
                       urgent)  # fmt: skip
    return _summed(source, target, TCP, head + options + payload, 16)


def udp(source: Address, target: Address, ports: tuple[int, int], payload: bytes = b"probe",
        length: int | None = None) -> bytes:  # fmt: skip
    """Return a UDP datagram with a right checksum."""
    size = 8 + len(payload) if length is None else length
    head = struct.pack("!HHHH", *ports, size, 0)
    return _summed(source, target, UDP, head + payload, 6)


def icmp(kind: int, code: int, number: int, body: bytes = b"probe...") -> bytes:
    """Return an ICMP message with a right checksum."""
    data = struct.pack("!BBHHH", kind, code, 0, number, 1) + body
    return data[:2] + checksum(data).to_bytes(2, "big") + data[4:]


def icmp6(source: Address, target: Address, kind: int, number: int) -> bytes:
    """Return an ICMPv6 message with a right checksum."""
    data = struct.pack("!BBHHH", kind, 0, 0, number, 1) + bytes(24)
    return _summed(source, target, ICMP6, data, 2)


def catalogue(ports: Sequence[int]) -> list[list[Probe]]:
    """Return the probes, family by family; ``ports``: those the site declares."""
    return [list(family) for family in (
        _protocols(), _port_classes(ports), _flags(ports), _answers(ports), _shapes(ports),
        _options(ports), _fragments(ports), _messages(), _next_headers(), _extensions(ports),
        _messages6(),
    )]  # fmt: skip


def key(ports: Sequence[int]) -> list[Probe]:
    """Return the few probes that go to every address by every wire."""
    families = catalogue(ports)
    wanted = ("protocol 47", "ICMP type 8", "IPv6 TCP SYN")
    found = [one for family in families for one in family if one.label in wanted]
    return found + [
        one for one in families[1]
        if any(one.label in (f"TCP SYN to {n}", f"UDP to {n}") for n in (*ports, 123, 80))
    ]  # fmt: skip


def _protocols() -> Iterator[Probe]:
    for number in range(256):
        if number in (ICMP, TCP, UDP):  # families of their own
            continue
        yield Probe(f"protocol {number}",
                    lambda s, t, n, number=number: [four(s, t, n, number, b"\0\1\2\3" * 6)])  # fmt: skip


def _port_classes(declared: Sequence[int]) -> Iterator[Probe]:
    near = {one + step for one in declared for step in (-1, 0, 1)}
    for number in sorted({*near, 0, 1, 53, 80, 111, 123, 443, 500, 1023, 1024, 2049, 4500, 8080,
                          32768, 60999, 65535}):  # fmt: skip
        yield Probe(f"TCP SYN to {number}", lambda s, t, n, number=number: [
            four(s, t, n, TCP, tcp(s, t, (port(n), number), SYN))])  # fmt: skip
        yield Probe(f"UDP to {number}", lambda s, t, n, number=number: [
            four(s, t, n, UDP, udp(s, t, (port(n), number)))])  # fmt: skip


def _flags(declared: Sequence[int]) -> Iterator[Probe]:
    for number in declared:
        for flags in range(256):
            yield Probe(f"TCP flags {flags:#04x} to {number}",
                        lambda s, t, n, number=number, flags=flags: [
                            four(s, t, n, TCP, tcp(s, t, (port(n), number), flags, ack=1))])  # fmt: skip


def _answers(declared: Sequence[int]) -> Iterator[Probe]:
    """Yield what looks like an answer of a declared service, though nobody asked."""
    for number in declared:
        for flags in (ACK, SYN | ACK, RST, RST | ACK, FIN | ACK, PSH | ACK):
            yield Probe(f"TCP flags {flags:#04x} from {number}",
                        lambda s, t, n, number=number, flags=flags: [
                            four(s, t, n, TCP, tcp(s, t, (number, port(n)), flags, ack=1))])  # fmt: skip
        yield Probe(f"UDP from {number}", lambda s, t, n, number=number: [
            four(s, t, n, UDP, udp(s, t, (number, port(n))))])  # fmt: skip


def _shapes(declared: Sequence[int]) -> Iterator[Probe]:
    """Yield odd headers around the SYN to a declared port, and what the kernel refuses itself."""
    for number in declared:

        def syn(s: Any, t: Any, n: int, number: int = number, **more: Any) -> bytes:
            return tcp(s, t, (port(n), number), SYN, **more)

        to = f"SYN to {number}"
        for label, more in (
            ("with payload", {"payload": b"x" * 40}), ("reserved bits", {"reserved": 15}),
            ("urgent pointer", {"urgent": 99}), ("data offset 4", {"words": 4}),
            ("data offset past the end", {"words": 15}), ("MSS option", {"options": b"\2\4\5\xb4"}),
            ("unknown option", {"options": b"\xfd\4xx"}), ("forty bytes of options",
             {"options": b"\1" * 40}), ("window 0", {"window": 0}),
        ):  # fmt: skip
            yield Probe(f"{to}, {label}", lambda s, t, n, syn=syn, more=more: [
                four(s, t, n, TCP, syn(s, t, n, **more))])  # fmt: skip
        for cut in (0, 4, 8, 14, 19):
            yield Probe(f"{to}, {cut} bytes of it", lambda s, t, n, syn=syn, cut=cut: [
                four(s, t, n, TCP, syn(s, t, n)[:cut])])  # fmt: skip
        yield Probe(f"{to}, wrong TCP checksum", lambda s, t, n, syn=syn: [
            four(s, t, n, TCP, syn(s, t, n)[:16] + b"\x12\x34\0\0")])  # fmt: skip
        for tos in (1, 3, 0x28, 0xB8, 0xFF):
            yield Probe(f"{to}, TOS {tos:#04x}", lambda s, t, n, syn=syn, tos=tos: [
                four(s, t, n, TCP, syn(s, t, n), tos=tos)])  # fmt: skip
        yield Probe(f"{to}, TTL 1", lambda s, t, n, syn=syn: [
            four(s, t, n, TCP, syn(s, t, n), ttl=1)], ttl=1)  # fmt: skip
        for label, more in (
            ("version 5", {"version": 5}), ("header of 4 words", {"words": 4}),
            ("header longer than the packet", {"words": 15}),
            ("length past the frame", {"length": 1500}), ("length below the header",
             {"length": 19}), ("wrong header checksum", {"wrong": 1}),
        ):  # fmt: skip
            yield Probe(f"{to}, {label}", lambda s, t, n, syn=syn, more=more: [
                four(s, t, n, TCP, syn(s, t, n), **more)], never=True, raw=False)  # fmt: skip
        yield Probe(f"{to}, bytes behind the end", lambda s, t, n, syn=syn: [
            four(s, t, n, TCP, syn(s, t, n)) + b"hidden"], raw=False)  # fmt: skip


def _options(declared: Sequence[int]) -> Iterator[Probe]:
    for label, options, never in (
        ("no-operation", b"\1\1\1\1", False), ("record route", b"\7\x07\4\0\0\0\0\0", False),
        ("timestamp", b"\x44\x08\5\0\0\0\0\0", False), ("router alert", b"\x94\4\0\0", False),
        ("loose source route", b"\x83\x07\4\x0a\x4d\1\1\0", True),
        ("strict source route", b"\x89\x07\4\x0a\x4d\1\1\0", True),
        ("security", b"\x82\x0b" + bytes(10), False), ("unknown", b"\x9e\4xx", False),
        ("longer than the header", b"\x9e\x20xx", True),
    ):  # fmt: skip
        for number in declared:
            yield Probe(f"SYN to {number}, IP option {label}",
                        lambda s, t, n, options=options, number=number: [
                            four(s, t, n, TCP, tcp(s, t, (port(n), number), SYN),
                                 options=options)], never=never, raw=not never)  # fmt: skip
        yield Probe(f"echo request, IP option {label}",
                    lambda s, t, n, options=options: [
                        four(s, t, n, ICMP, icmp(8, 0, n), options=options)],
                    never=never, raw=not never)  # fmt: skip


def _fragments(declared: Sequence[int]) -> Iterator[Probe]:
    more, keep, evil = 0x2000, 0x4000, 0x8000
    for number in declared:

        def body(s: Any, t: Any, n: int, number: int = number) -> bytes:
            return tcp(s, t, (port(n), number), SYN, payload=b"p" * 28)

        def whole(s: Any, t: Any, n: int, body: Any = body) -> bytes:
            return four(s, t, n, TCP, body(s, t, n))

        to = f"SYN to {number}"
        for label, offset, part, lone in (
            ("first fragment alone", more, slice(0, 48), True),
            ("tiny first fragment alone", more, slice(0, 8), True),
            ("later fragment alone", 3, slice(24, 48), True),
            ("middle fragment alone", more | 1, slice(8, 32), True),
            ("do not fragment", keep, slice(0, 48), False),
            ("evil bit", evil, slice(0, 48), False),
        ):  # fmt: skip
            yield Probe(f"{to}, {label}", lambda s, t, n, b=body, part=part, offset=offset: [
                four(s, t, n, TCP, b(s, t, n)[part], offset=offset)], lone=lone)  # fmt: skip
        yield Probe(f"{to}, two fragments", lambda s, t, n, b=body: [
            four(s, t, n, TCP, b(s, t, n)[:24], offset=more),
            four(s, t, n, TCP, b(s, t, n)[24:], offset=3)], whole=whole)  # fmt: skip
        yield Probe(f"{to}, two fragments, the later first", lambda s, t, n, b=body: [
            four(s, t, n, TCP, b(s, t, n)[24:], offset=3),
            four(s, t, n, TCP, b(s, t, n)[:24], offset=more)], whole=whole)  # fmt: skip
        yield Probe(f"{to}, overlapping fragments", lambda s, t, n, b=body: [
            four(s, t, n, TCP, b(s, t, n)[:32], offset=more),
            four(s, t, n, TCP, b(s, t, n)[24:], offset=3)], lone=True)  # fmt: skip


def _messages() -> Iterator[Probe]:
    inner = b"\x45\0\0\x28" + bytes(16) + b"\x1d\xb1\x1d\xb1" + bytes(4)
    for kind in range(256):
        yield Probe(f"ICMP type {kind}", lambda s, t, n, kind=kind: [
            four(s, t, n, ICMP, icmp(kind, 0, n, inner if kind in (3, 4, 5, 11, 12) else
                                     b"probe..."))])  # fmt: skip
    for code in (1, 255):
        yield Probe(f"ICMP type 8 code {code}", lambda s, t, n, code=code: [
            four(s, t, n, ICMP, icmp(8, code, n))])  # fmt: skip
    yield Probe("ICMP type 8, wrong checksum", lambda s, t, n: [
        four(s, t, n, ICMP, b"\x08\0\x12\x34" + icmp(8, 0, n)[4:])])  # fmt: skip
    yield Probe("ICMP type 8, 4 bytes of it", lambda s, t, n: [
        four(s, t, n, ICMP, icmp(8, 0, n)[:4])])  # fmt: skip


_CARRIED = {0, 43, 44, 50, 51, 59, 60, 135, 139, 140}


def _next_headers() -> Iterator[Probe]:
    for number in range(256):
        if number in _CARRIED or number in (TCP, UDP, ICMP6):
            continue
        yield Probe(f"IPv6 next header {number}", lambda s, t, n, number=number: [
            six(s, t, n, number, bytes(24))], v6=True)  # fmt: skip


def _extensions(declared: Sequence[int]) -> Iterator[Probe]:
    options = bytes([TCP, 0, 1, 4, 0, 0, 0, 0])
    for number in declared:

        def syn(s: Any, t: Any, n: int, number: int = number) -> bytes:
            return tcp(s, t, (port(n), number), SYN)

        to = "IPv6 TCP SYN" if number == declared[0] else f"IPv6 TCP SYN to {number}"
        yield Probe(to, lambda s, t, n, syn=syn: [six(s, t, n, TCP, syn(s, t, n))], v6=True)
        for label, following, head in (
            ("hop-by-hop", 0, options), ("destination options", 60, options),
            ("routing type 4", 43, bytes([TCP, 2, 4, 0]) + bytes(20)),
            ("atomic fragment", 44, bytes([TCP, 0, 0, 0, 0, 0, 0, 1])),
            ("ESP", 50, b"\0\0\1\0\0\0\0\1"), ("AH", 51, bytes([TCP, 4]) + bytes(22)),
            ("no next header", 59, b""), ("mobility", 135, bytes([59, 0, 0, 0, 0, 0, 0, 0])),
            ("HIP", 139, bytes([59, 0, 0, 0, 0, 0, 0, 0])),
            ("two of destination options", 60, bytes([60, 0, 1, 4, 0, 0, 0, 0]) + options),
        ):  # fmt: skip
            yield Probe(f"{to}, {label}", lambda s, t, n, syn=syn, head=head, f=following: [
                six(s, t, n, f, head + syn(s, t, n))], v6=True)  # fmt: skip
        yield Probe(f"{to}, first fragment alone", lambda s, t, n, syn=syn: [
            six(s, t, n, 44, bytes([TCP, 0, 0, 1]) + n.to_bytes(4, "big") + syn(s, t, n) + bytes(4)
                )], v6=True, lone=True)  # fmt: skip
    for number in (*declared, 53, 123, 546, 5353):
        yield Probe(f"IPv6 UDP to {number}", lambda s, t, n, number=number: [
            six(s, t, n, UDP, udp(s, t, (port(n), number)))], v6=True)  # fmt: skip


def _messages6() -> Iterator[Probe]:
    for kind in range(256):
        yield Probe(f"ICMPv6 type {kind}", lambda s, t, n, kind=kind: [
            six(s, t, n, ICMP6, icmp6(s, t, kind, n), hops=255)], v6=True)  # fmt: skip
