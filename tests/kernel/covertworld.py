"""What root on inbound can still tell the hospital by its replies' headers: counted, not argued.

    .venv/bin/python tests/kernel/covertworld.py [--speed]

Hospital, gateway and inbound are namespaces; inbound's own rules are flushed, the gateway's are
loaded, once as compiled and once without chain ``level`` ("before"). On a real connection root
sends segments with random values in one field; a value that reaches the hospital's wire as sent
counts. A field of w bits of which a share p arrives carries w + log2(p) bits; one that always
arrives with the same value carries none. Sequence and acknowledgement are widths of windows. Then
segments are sent as fast as this machine can, for the bits a second.
"""

# ruff: noqa: E501, T201
# a table of fields reads best whole; run by hand it prints its table

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "agent"), str(ROOT / "tests/kernel")]

from flowworld import PORT, World, inside, listen, push, sh, tcp  # noqa: E402 - path first
from matrixprobes import ACK, FIN, RST, SYN, TCP, four, icmp  # noqa: E402 - path first
from matrixprobes import tcp as segment  # noqa: E402 - path first
from ownspace import end_with_parent, run_apart  # noqa: E402 - path first

from siteworld import lab_site  # noqa: E402 - path first

INBOUND, HOSPITAL = "10.77.2.2", "10.77.1.2"
ENDS = IPv4Address(INBOUND), IPv4Address(HOSPITAL)
TRIES = 256
Parts = dict[str, Any]


def without_plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return rules as they were before replies were made plain."""
    kept = []
    for one in copy.deepcopy(document)["nftables"]:
        expr = one.get("add", {}).get("rule", {}).get("expr", [])
        if {"jump": {"target": "level"}} not in expr:
            kept.append(one)
    return {"nftables": kept}


class Line:
    """One connection of the hospital to inbound, and a capture on the hospital's wire."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tap = inside("hospital-a", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                                              socket.htons(0x0800)))  # fmt: skip
        self.tap.bind(("wan0", 0x0800))
        self.tap.setblocking(False)
        site = lab_site().machines
        name = next(name for name, one in world.policies["inbound-1"]["interfaces"].items()
                    if one["address"].startswith(INBOUND))  # fmt: skip
        self.out = inside("inbound-1", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self.out.bind((name, 0))
        link = site["inbound-1"].interfaces[name].link
        near = next(one.name for one in site["gate-in"].interfaces.values() if one.link == link)
        macs = [json.loads(sh("ip", "-n", node, "-j", "link", "show", port))[0]["address"]
                for node, port in (("gate-in", near), ("inbound-1", name))]  # fmt: skip
        self.head = bytes.fromhex("".join(macs).replace(":", "")) + b"\x08\0"
        self.server = listen("inbound-1", INBOUND, PORT)
        self.ends: list[socket.socket] = []
        self.open()

    def open(self) -> None:
        """Begin a connection; what is known of it is read from its own SYN and ACK."""
        for one in self.ends:
            one.close()
        self.seen()
        client = tcp("hospital-a")
        client.connect((INBOUND, PORT))
        made, _ = self.server.accept()
        client.sendall(b"push")
        made.recv(16)
        self.ends = [client, made]
        self.client = client.getsockname()[1]
        answers = [one for one in self.seen() if one[33] & (SYN | ACK) == SYN | ACK]
        last = answers[-1]
        seq, ack = struct.unpack("!II", last[24:32])
        self.seq, self.ack = seq + 1, ack + 4

    def close(self) -> None:
        for one in (*self.ends, self.server, self.tap, self.out):
            one.close()

    def send(self, *, ip: Parts | None = None, tail: bytes = b"", **fields: Any) -> None:
        """Send a segment as root on inbound, past its own rules."""
        wanted = {"flags": ACK, "seq": self.seq, "ack": self.ack, **fields}
        wanted["seq"] &= 0xFFFFFFFF
        wanted["ack"] &= 0xFFFFFFFF
        total = wanted.pop("checksum", None)
        body = segment(*ENDS, (PORT, self.client), wanted.pop("flags"), **wanted)
        if total is not None:
            body = body[:16] + total.to_bytes(2, "big") + body[18:]
        shape = {"number": 7, **(ip or {})}
        packet = four(*ENDS, shape.pop("number"), TCP, body, **shape)
        self.out.send(self.head + packet + tail)

    def seen(self, wait: float = 0.0) -> list[bytes]:
        """Return the packets that came from inbound since."""
        time.sleep(wait)
        found = []
        while True:
            try:
                frame, place = self.tap.recvfrom(70000)
            except BlockingIOError:
                return found
            if place[2] != socket.PACKET_OUTGOING and frame[26:30] == socket.inet_aton(INBOUND):
                found.append(frame[14:])


def _field(line: Line, width: int, make: Callable[[int], Parts],
           read: Callable[[bytes], Any]) -> float:  # fmt: skip
    """Return the bits of one field: random values sent, those counted that arrive as sent."""
    count = min(TRIES, 1 << width)
    values = random.sample(range(1 << width), count) if width < 60 else [
        random.getrandbits(width) for _ in range(count)]  # fmt: skip
    line.seen(0.01)
    arrived: list[Any] = []
    for start in range(0, count, 32):
        for value in values[start : start + 32]:
            line.send(**make(value))
        arrived += [read(packet) for packet in line.seen(0.01)]
    intact = {value for value in values if value in set(arrived)}
    return round(width + math.log2(len(intact) / count), 1) if len(intact) > 1 else 0.0


def _window(line: Line, name: str) -> float:
    """Return the bits of a number that is let through within a window around its right value."""
    base = {"seq": line.seq, "ack": line.ack}[name]
    place = {"seq": 24, "ack": 28}[name]
    reach = 1
    for sign in (1, -1):
        for power in range(31):
            offsets = [sign * ((1 << power) + random.randrange(1 << power)) for _ in range(4)]
            line.seen()
            for one in offsets:
                line.send(**{name: base + one})
            got = {struct.unpack("!I", packet[place : place + 4])[0] for packet in line.seen(0.01)}
            reach += (1 << power) * sum((base + one) & 0xFFFFFFFF in got for one in offsets) // 4
    return round(math.log2(reach), 1)


def fields(line: Line) -> Iterator[tuple[str, float]]:
    """Yield name and bits of every field of a reply's headers."""

    def ip(**parts: Any) -> Parts:
        return {"ip": parts}

    options = [
        (words, 32 * (words - 5)) for words in range(6, 16)
    ]  # fmt: skip
    yield "IP DSCP", _field(line, 6, lambda v: ip(tos=v << 2), lambda p: p[1] >> 2)
    yield "IP ECN", _field(line, 2, lambda v: ip(tos=v), lambda p: p[1] & 3)
    yield "IP identification", _field(line, 16, lambda v: ip(number=v),
                                      lambda p: int.from_bytes(p[4:6], "big"))  # fmt: skip
    yield "IP flags", _field(line, 3, lambda v: ip(offset=v << 13), lambda p: p[6] >> 5)
    yield "IP TTL", _field(line, 8, lambda v: ip(ttl=v), lambda p: p[8] + 1 & 255)
    yield "IP options", _field(line, 32, lambda v: ip(options=v.to_bytes(4, "big")),
                               lambda p: int.from_bytes(p[20:24], "big") if p[0] & 15 > 5 else -1)  # fmt: skip
    yield "TCP reserved", _field(line, 4, lambda v: {"reserved": v}, lambda p: p[32] & 15)
    yield "TCP window", _field(line, 16, lambda v: {"window": v},
                               lambda p: int.from_bytes(p[34:36], "big"))  # fmt: skip
    yield "TCP checksum", _field(line, 16, lambda v: {"checksum": v},
                                 lambda p: int.from_bytes(p[36:38], "big"))  # fmt: skip
    yield "TCP urgent pointer", _field(line, 16, lambda v: {"urgent": v},
                                       lambda p: int.from_bytes(p[38:40], "big"))  # fmt: skip
    best = max(
        _field(line, width, lambda v, n=width // 8: {"options": v.to_bytes(n, "big")},
               lambda p: int.from_bytes(p[40:], "big"))
        for _, width in options
    )  # fmt: skip
    yield "TCP options", best
    line.seen(0.01)
    for words, _ in [(5, 0), *options]:
        line.send(options=b"\1" * 4 * (words - 5))
    yield "TCP header length", round(math.log2(max(1, len({p[32] >> 4 for p in line.seen(0.02)
                                                           if p[33] & 0x3F == ACK}))), 1)  # fmt: skip
    yield "TCP sequence", _window(line, "seq")
    yield "TCP acknowledgement", _window(line, "ack")
    yield "bytes behind the packet", _field(line, 48, lambda v: {"tail": v.to_bytes(6, "big")},
                                            lambda p: int.from_bytes(p[40:46], "big"))  # fmt: skip
    yield "TCP flags", _flags(line)
    for protocol, body in ((1, icmp(3, 1, 0, b"x" * 28)), (17, bytes(20)), (47, bytes(20))):
        line.out.send(line.head + four(*ENDS, 9, protocol, body))
    others = [p for p in line.seen(0.02) if p[9] != TCP]
    yield "ICMP and other protocols", float(8 * sum(map(len, others)))


def _flags(line: Line) -> float:
    """Return the bits of the flags: how many different ones arrive, each on a sound connection."""
    got = set()
    for flags in range(256):
        line.seen()
        line.send(flags=flags, window=4242)
        got |= {p[33] for p in line.seen(0.002) if p[34:36] == (4242).to_bytes(2, "big")}
        if flags & (FIN | SYN | RST):
            line.open()
    return round(math.log2(max(1, len(got))), 1)


def packet_rate(line: Line, seconds: float = 2.0) -> float:
    """Return the segments a second that arrive when root sends all this machine can."""
    line.open()
    got = sent = 0
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        line.send(window=sent & 0xFFFF)
        sent += 1
        if sent % 64 == 0:
            got += len(line.seen())
    return round((got + len(line.seen(0.05))) / spent)


def measure() -> dict[str, Any]:
    """Return bits a field, before and after, and what arrives a second."""
    random.seed(7)
    world = World(("gate-in", "inbound-1"))
    world.flush("inbound-1")
    rules = {"after": world.policies["gate-in"]["nftables"]}
    rules["before"] = without_plain(rules["after"])
    found: dict[str, Any] = {}
    for when in ("before", "after"):
        world.nft("gate-in", "-j", "-f", "-", stdin=json.dumps(rules[when]))
        line = Line(world)
        table = dict(fields(line))
        found[when] = {"bits": table, "segments a second": packet_rate(line)}
        line.close()
    return found


def speed(rounds: int = 5, size: int = 512 << 20) -> dict[str, Any]:
    """Return the rate of a push through gateway and inbound, before and after, in turn."""
    world = World(("gate-in", "inbound-1"))
    rates: dict[str, list[float]] = {"before": [], "after": []}
    for turn in range(rounds):
        for when in ("before", "after") if turn % 2 == 0 else ("after", "before"):
            for name in ("gate-in", "inbound-1"):
                rules = world.policies[name]["nftables"]
                rules = rules if when == "after" else without_plain(rules)
                world.nft(name, "-j", "-f", "-", stdin=json.dumps(rules))
            told = push("hospital-a", "inbound-1", INBOUND, size)
            if not told["equal"]:
                raise RuntimeError("the push did not arrive whole")
            rates[when].append(size / told["seconds"] / 1e6)
    middle = {when: round(statistics.median(listed)) for when, listed in rates.items()}
    return {"MB a second": middle, "ratio": round(middle["after"] / middle["before"], 3),
            "runs": {when: [round(one) for one in listed] for when, listed in rates.items()}}  # fmt: skip


def private(what: str) -> Any:
    """Run ``measure`` or ``speed`` in namespaces of its own."""
    return json.loads(run_apart(__file__, ("--inside", what)))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--inside", choices=("measure", "speed"))
    options = parser.parse_args()
    if options.inside:
        end_with_parent()
        json.dump({"measure": measure, "speed": speed}[options.inside](), sys.stdout)
        return 0
    if options.speed:
        print(json.dumps(private("speed"), indent=1))
        return 0
    told = private("measure")
    before, after = told["before"]["bits"], told["after"]["bits"]
    for name, bits in before.items():
        print(f"{name:28} {bits:7} {after[name]:7}")
    print(f"{'sum, bits a segment':28} {sum(before.values()):7.1f} {sum(after.values()):7.1f}")
    for name in told["before"]:
        if name != "bits":
            print(f"{name:28} {told['before'][name]!s:>7} {told['after'][name]!s:>7}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
