"""Random rule sets and packets, and what the prover's translation says of each packet."""

# ruff: noqa: C901, E501, ISC004, PERF401, PLR0912, RUF021, T201
# a grammar of rules reads best as a table; started by hand it prints its tally

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from typing import Any

import z3

from sekisho.control.replay.namespaces import replay
from sekisho.prover.constants import CT_STATES, interface_number
from sekisho.prover.packet import Packet
from sekisho.prover.passage import Passage, passage
from sekisho.prover.rules import read_rules

IFACES = ("eth0", "eth1", "wan0")
LOCAL = ("10.0.0.1", "10.0.0.2", "192.168.5.5")
REMOTE = ("10.0.1.1", "10.0.1.200", "172.16.3.4", "192.168.5.77", "8.8.8.8")
LOCAL6 = ("fd00::1", "fd00::2")
REMOTE6 = ("fd00:1::5", "2001:db8::9", "2001:db8:ffff::1")
PORTS = (22, 53, 80, 443, 1023, 1024, 7601, 40000)
SETS = """
set addrs { type ipv4_addr; flags interval; elements = { 10.0.0.0/24, 172.16.0.0-172.16.3.4 } }
set plain { type ipv4_addr; elements = { 8.8.8.8, 10.0.1.1, 10.0.0.1 } }
set six { type ipv6_addr; flags interval; elements = { fd00::/64, 2001:db8::9 } }
set ports { type inet_service; flags interval; elements = { 22, 80-443 } }
set pairs { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/16 . 22-80, 8.8.8.8 . 7601 } }
set hops { type ifname . ipv4_addr . ipv4_addr . inet_service; elements = { "eth0" . 10.0.1.1 . 10.0.0.1 . 22, "eth1" . 8.8.8.8 . 10.0.0.2 . 7601, "eth0" . 10.0.1.200 . 10.0.1.1 . 80 } }
set ways { type ifname; elements = { "eth0", "wan0" } }
map marks { type ipv4_addr : mark; elements = { 10.0.1.1 : 0x1, 8.8.8.8 : 0x2, 10.0.0.1 : 0x3 } }
map ways_of { type inet_service : verdict; elements = { 22 : accept, 53 : drop, 80 : jump s2, 443 : return } }
"""


class Maker:
    """Makes one table of rules; a rule keeps to one family and one transport protocol."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def port(self) -> int:
        return int(self.pick(*PORTS))

    def address(self) -> str:
        return str(self.pick(*LOCAL, *REMOTE))

    def match(self, hook: str, family: str, protocol: str) -> str:
        side, p = self.pick("saddr", "daddr"), self.port()
        way = self.pick("dport", "sport")
        found = [
            f"ct state {self.pick('new', 'established', 'established,new', 'invalid', 'related,new')}",
            f"ct state != {self.pick('new', 'established')}",
            "ct state { new, established }", f"ct direction {self.pick('original', 'reply')}",
            f"meta mark {self.pick(0, 1, 2, 3)}", f"meta mark & 0x2 {self.pick('==', '!=')} 0",
            f"meta length {self.pick('<', '>', '>=')} {self.pick(40, 52, 60, 100)}",
            f"meta l4proto {self.pick('tcp', 'udp', 'icmp')}", "meta l4proto { tcp, udp }",
            f"meta nfproto {self.pick('ipv4', 'ipv6')}", f"@th,16,16 {p}", f"@nh,72,8 {self.pick(6, 17)}",
        ]  # fmt: skip
        if hook in ("output", "postrouting", "forward"):
            found += [f"oifname {self.pick('', '!= ')}\"{self.pick(*IFACES)}\"", "oifname @ways",
                      'oifname "eth*"']  # fmt: skip
        else:
            found += [f"iifname {self.pick('', '!= ')}\"{self.pick(*IFACES)}\"", "iifname @ways",
                      'iifname { "eth0", "wan*" }', f"iif {self.pick('', '!= ')}lo"]  # fmt: skip
        if family == "ip":
            found += [
                f"ip {side} {self.address()}", f"ip {side} != {self.address()}",
                f"ip {side} 10.0.{self.pick(0, 1)}.0/24", f"ip {side} {self.pick('', '!= ')}@addrs",
                f"ip {side} {self.pick('', '!= ')}@plain",
                f"ip {side} {{ {self.pick(*LOCAL)}, 10.0.1.0/24 }}",
                f"ip {side} 10.0.0.2-10.0.1.100", f"ip {side} & 0.0.255.0 == 0.0.1.0",
                f"ip ttl {self.pick('<', '>')} {self.pick(10, 64)}", f"ip length {self.pick(40, 44, 60)}",
                f"ip dscp {self.pick('cs0', 'cs1', 'af11')}", f"ip hdrlength {self.pick('', '!= ')}5",
                "ip frag-off & 0x1fff != 0", "ip frag-off & 0x3fff == 0",
                f"ip protocol {self.pick('tcp', 'udp', 'icmp')}" if not protocol else "ip version 4",
            ]  # fmt: skip
        elif family == "ip6":
            found += [
                f"ip6 {side} {self.pick(*LOCAL6, *REMOTE6)}", f"ip6 {side} != @six",
                f"ip6 {side} 2001:db8::/32", f"ip6 hoplimit {self.pick('<', '>=')} 64",
                f"ip6 length {self.pick('<', '>')} 30",
            ]  # fmt: skip
        if protocol in ("tcp", "udp"):
            found += [
                f"{protocol} {way} {p}", f"{protocol} {way} != {p}",
                f"{protocol} {way} {{ {p}, 1000-2000, 8000 }}", f"{protocol} {way} >= {p}",
                f"{protocol} {way} 22-{self.pick(80, 443, 1024)}",
                f"{protocol} {way} {self.pick('', '!= ')}@ports",
            ] * 2  # fmt: skip
            if family == "ip":
                found += [f"ip {side} . {protocol} {way} @pairs",
                          f"ip saddr . ip daddr . {protocol} dport {{ 10.0.1.1 . 10.0.0.1 . {p}, "
                          f"8.8.8.8 . 10.0.1.1 . {p} }}"]  # fmt: skip
                if hook in ("input", "prerouting", "forward"):
                    found += [f"iifname . ip saddr . ip daddr . {protocol} dport @hops"] * 2
        if protocol == "tcp":
            flags = self.pick("syn", "ack", "rst", "syn,ack", "fin,psh")
            found += [
                f"tcp flags {flags}", f"tcp flags == {self.pick('syn', 'ack')}",
                "tcp flags & (fin|syn|rst|ack) == syn", "tcp flags & (syn|ack) != syn",
                f"tcp flags != {self.pick('syn', 'ack')}", f"tcp flags ! {self.pick('syn', 'fin')}",
                f"tcp doff {self.pick(5, 6, 8)}", "tcp window < 2000", "tcp sequence 1",
                "tcp option maxseg exists",
            ]  # fmt: skip
        if protocol == "udp":
            found += [f"udp length {self.pick('>', '<=')} 20"]
        if protocol == "icmp":
            found += ["icmp type echo-request", "icmp type { echo-reply, destination-unreachable }",
                      "icmp code host-unreachable", "icmp type != echo-request"] * 3  # fmt: skip
        if protocol == "icmpv6":
            found += [
                "icmpv6 type echo-request",
                "icmpv6 type { echo-reply, nd-neighbor-solicit }",
            ] * 4
        return str(self.rng.choice(found))

    def rule(self, hook: str, targets: tuple[str, ...]) -> str:
        family = self.pick("", "ip", "ip", "ip", "ip6")
        protocol = self.pick(
            "", "tcp", "tcp", "tcp", "udp", "icmp" if family != "ip6" else "icmpv6"
        )
        family = {"icmp": "ip", "icmpv6": "ip6"}.get(protocol, family)
        words: list[str] = []
        for _ in range(self.pick(0, 1, 1, 1, 2, 2, 3)):
            one = self.match(hook, family, protocol)
            if "nfproto" in one and family or "l4proto" in one and protocol:
                continue  # nft refuses what contradicts itself
            if ("ip protocol" in one or "@" in one[:1]) and any("l4proto" in w for w in words):
                continue
            key = " ".join(one.split(" ")[:2])
            if not any(w.startswith(key) for w in words):
                words.append(one)
        if self.rng.random() < 0.08:
            words.append("limit rate 5/second")
        if self.rng.random() < 0.3:
            words.append("counter")
        if self.rng.random() < 0.15:
            words.append(self.pick(
                f"meta mark set {self.pick(1, 2, 3)}", "meta mark set mark or 0x1",
                "ip dscp set cs1" if family == "ip" else "meta mark set 2",
                "meta mark set ip saddr map @marks" if family == "ip" else "meta mark set 1",
                "ct mark set meta mark"))  # fmt: skip
        end = self.rng.random()
        if protocol == "tcp" and end < 0.1:
            words.append(f"tcp dport vmap {{ 22 : accept, 80 : drop, {self.pick('443', '1024-2000')} : "
                         f"{self.pick('accept', 'drop', 'continue', 'return')} }}")  # fmt: skip
        elif protocol in ("tcp", "udp") and end < 0.16 and "s2" in targets:
            words.append(f"{protocol} dport vmap @ways_of")
        elif end < 0.22:
            words.append("ct state vmap { established : accept, invalid : drop, related : accept }")
        elif end < 0.5:
            words.append("accept")
        elif end < 0.72:
            words.append("drop")
        elif end < 0.88 and targets:
            words.append(f"{self.pick('jump', 'jump', 'goto')} {self.pick(*targets)}")
        elif end < 0.94:
            words.append(self.pick("return", "continue"))
        elif not words:
            words.append("counter")
        return " ".join(words)

    def ruleset(self) -> str:
        rng = self.rng
        parts = [SETS]
        for name, targets in (("s2", ()), ("s1", ("s2",))):
            rules = "\n".join(self.rule("forward" if name == "s9" else "sub", targets)
                              for _ in range(rng.randint(1, 5)))  # fmt: skip
            parts.append(f"chain {name} {{ {rules}\n}}")
        for hook, chance, prio in (
            ("prerouting", 0.5, self.pick(-300, -150)),
            ("input", 1, 0),
            ("forward", 1, 0),
            ("output", 1, 0),
            ("postrouting", 0.4, 10),
        ):
            if rng.random() > chance:
                continue
            policy = (
                self.pick("accept", "drop") if hook in ("input", "forward", "output") else "accept"
            )
            soft = hook == "prerouting"
            rules = [self.rule(hook, ("s1", "s2")) for _ in range(rng.randint(2, 9))]
            if soft:
                rules = [one for one in rules if "drop" not in one]
            parts.append(f"chain b_{hook} {{ type filter hook {hook} priority {prio}; policy {policy};\n"
                         + "\n".join(rules) + "\n}")  # fmt: skip
        text = "table inet t {\n" + "\n".join(parts) + "\n}\n"
        if rng.random() < 0.3:
            rules = [self.rule("input", ()) for _ in range(3)]
            rules = [
                one
                for one in rules
                if "ip6" not in one
                and "icmpv6" not in one
                and "@" not in one.replace("@th", "").replace("@nh", "")
                and "nfproto" not in one
            ]
            text += ("table ip t4 {\nchain later { type filter hook input priority 10; policy accept;\n"
                     + "\n".join(rules) + "\n}\n}\n")  # fmt: skip
        return text

    def packet(self, number: int) -> dict[str, Any]:
        rng = self.rng
        way = self.pick("input", "forward", "output")
        six = rng.random() < 0.2
        local, remote = (LOCAL6, REMOTE6) if six else (LOCAL, REMOTE)
        source = self.pick(*(local if way == "output" else remote))
        target = self.pick(*(local if way == "input" else remote))
        if way == "forward" and source == target:
            target = remote[0] if source != remote[0] else remote[1]
        protocol = self.pick(6, 6, 6, 6, 17, 17, 58 if six else 1, 1 if six else 132)
        body = self.transport(protocol)
        iif = self.pick(*IFACES)
        places = (*LOCAL, *REMOTE, *LOCAL6, *REMOTE6)
        oif = IFACES[places.index(target) % len(IFACES)]  # an address has one route
        head = self.six(source, target, protocol, body, number) if six else self.four(
            source, target, protocol, body, number)  # fmt: skip
        return {
            "way": way, "iif": "" if way == "output" else iif, "oif": "" if way == "input" else oif,
            "bytes": head.hex(), "mark": self.pick(0, 0, 1, 2) if way == "output" else 0,
        }  # fmt: skip

    def transport(self, protocol: int) -> bytes:
        rng = self.rng
        payload = b"p" * self.pick(0, 0, 1, 8, 40, 200)
        small = rng.random() < 0.7  # few ports, so that packets meet in one connection
        ports = (22, 80) if small else PORTS
        source, target = self.pick(*ports, 7601), self.pick(*ports)
        if protocol == 6:
            words = self.pick(5, 5, 5, 6, 8)
            flags = self.pick(2, 2, 0x12, 0x10, 0x10, 0x18, 4, 0x11, 0, 0x29)
            head = struct.pack(
                "!HHIIBBHHH",
                source,
                target,
                self.pick(1, 2000),
                1,
                words << 4,
                flags,
                self.pick(1000, 65535),
                0,
                0,
            ) + b"\x01" * 4 * (words - 5)
            whole = head + payload
            return whole[: self.pick(4, 10, 14)] if rng.random() < 0.03 else whole
        if protocol in (17, 132):
            return struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload
        kind = self.pick(8, 8, 0, 3, 128, 129, 135) if protocol == 58 else self.pick(8, 8, 0, 3, 13)
        return struct.pack("!BBHHH", kind, self.pick(0, 1, 3), 0, self.pick(1, 2), 1) + payload

    def four(self, source: str, target: str, protocol: int, body: bytes, number: int) -> bytes:
        options = b"\x01" * (4 if self.rng.random() < 0.05 else 0)
        offset = self.pick(0x2000, 0x4000, 3) if self.rng.random() < 0.06 else self.pick(0, 0x4000)
        return struct.pack(
            "!BBHHHBBH4s4s", 0x45 + len(options) // 4, self.pick(0, 0, 0x20, 0x28),
            20 + len(options) + len(body), number, offset, self.pick(5, 64, 64), protocol, 0,
            socket.inet_aton(source), socket.inet_aton(target)) + options + body  # fmt: skip

    def six(self, source: str, target: str, protocol: int, body: bytes, number: int) -> bytes:
        following = protocol
        if self.rng.random() < 0.1:
            body, following = (
                bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + body,
                60,
            )  # destination options
        return (
            struct.pack("!IHBB", 0x60000000 | number, len(body), following, self.pick(5, 64, 64))
            + socket.inet_pton(socket.AF_INET6, source)
            + socket.inet_pton(socket.AF_INET6, target) + body
        )  # fmt: skip


class Judge:
    """Says what the translation makes of concrete packets."""

    def __init__(self, listed: Any) -> None:
        self.rules = read_rules(listed, "seed")
        self.ways: dict[str, Passage] = {}

    def verdict(self, packet: dict[str, Any], seen: dict[str, Any]) -> str:
        """Return pass, drop or either."""
        way = packet["way"]
        if way not in self.ways:
            self.ways[way] = passage(self.rules, way, Packet("p"), "p")
        one = self.ways[way]
        known = fixed(one, packet, seen)
        left = z3.simplify(z3.substitute(one.passes, *known))
        if z3.is_true(left):
            return "pass"
        if z3.is_false(left):
            return "drop"
        answers = []
        sane = z3.substitute(one.sane, *known)
        for wanted in (left, z3.Not(left)):
            solver = z3.Solver()
            solver.add(sane, wanted)
            answers.append(solver.check() == z3.sat)
        return {(True, True): "either", (True, False): "pass", (False, True): "drop"}.get(
            (answers[0], answers[1]), "insane"
        )


def fixed(one: Passage, packet: dict[str, Any], seen: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Return the packet's bits and what tracking said of it, in place of variables."""
    data = bytes.fromhex(packet["bytes"])
    p = Packet("p")
    six = data[0] >> 4 == 6
    known: list[tuple[Any, Any]] = [(p.flag("six"), z3.BoolVal(six))]
    for side in ("iif", "oif"):
        known.append((p.get(side), z3.BitVecVal(interface_number(packet[side]), 128)))
    size = 40 if six else (data[0] & 15) * 4
    name, width = ("nh6", 320) if six else ("nh4", 160)
    known.append((p.get(name), z3.BitVecVal(int.from_bytes(data[: width // 8], "big"), width)))
    if six and data[6] == 60:
        known += [(p.get("protocol6", 8), z3.BitVecVal(data[40], 8)),
                  (p.flag("transport6"), z3.BoolVal(True)), (p.flag("fragment6"), z3.BoolVal(False)),
                  (p.get("length6", 16), z3.BitVecVal(len(data) - 48, 16))]  # fmt: skip
        size = 48
    body = data[size : size + 20].ljust(20, b"\0")
    known.append((p.get("th"), z3.BitVecVal(int.from_bytes(body, "big"), 160)))
    known.append((p.get("mark"), z3.BitVecVal(packet.get("mark", 0), 32)))
    known.append((one.track.state, z3.BitVecVal(CT_STATES[seen["ct"]], 32)))
    known.append((one.track.reply, z3.BoolVal(seen["reply"])))
    return known


def compare(seed: int, count: int) -> tuple[Counter[str], list[str]]:
    """Run one rule set with ``count`` packets; return the tally and every disagreement."""
    maker = Maker(seed)
    text = maker.ruleset()
    packets = [maker.packet(number + 1) for number in range(count)]
    answers = replay({"text": text, "packets": packets, "interfaces": IFACES})
    judge = Judge(answers[0]["listed"])
    tally: Counter[str] = Counter()
    wrong: list[str] = []
    for number, (packet, seen) in enumerate(zip(packets, answers, strict=True)):
        if not seen["entered"] or not seen["ct"]:
            tally["not entered"] += 1
            continue
        said = judge.verdict(packet, seen)
        did = "pass" if seen["passed"] else "drop"
        tally[f"{said}/{did}"] += 1
        tally[f"ct {seen['ct']}{' reply' if seen['reply'] else ''}"] += 1
        if said not in (did, "either"):
            wrong.append(f"seed {seed} packet {number}: said {said}, kernel {did}: {packet} {seen}")
    return tally, wrong


def main(first: int, last: int, count: int) -> int:
    """Compare seeds ``first`` to ``last``; print the tally and the disagreements."""
    total: Counter[str] = Counter()
    bad = 0
    for seed in range(first, last):
        tally, wrong = compare(seed, count)
        total += tally
        bad += len(wrong)
        for line in wrong[:3]:
            print(line)
        print(seed, "wrong", len(wrong), flush=True)
    judged = sum(number for what, number in total.items() if "/" in what)
    print(f"{last - first} rule sets, {judged} packets judged, {bad} disagreements", dict(total))
    return 1 if bad else 0


if __name__ == "__main__":
    import sys

    sys.exit(main(*(int(word) for word in sys.argv[1:4])))
