"""The prover against the kernel on stateful rule sets: no packet the model excludes may pass.

`python tests/kernel/stateworld.py --rulesets 2000 --seed 1` runs the battery: rule set by rule set
is loaded in a private network namespace by each nft told (``--nft``, ``--root``: nft of a Debian
root), packets are sent, and of each that passes the model is asked: may a packet that comes like
this leave like that (headers, length, mark, interfaces, what tracking said)? A "no" is unsound.
``--replay SEED`` shows one rule set; ``--keep`` and ``--judge`` part what the kernel does from what
the model says of it, which is how `statemutants.py` asks unsound models about the same packets.
"""

# ruff: noqa: T201, E501
# started by hand it prints its tally; one packet is one line

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "agent"), str(Path(__file__).parent)]

import stategrammar  # noqa: E402
from stategrammar import BRIDGE, IFACES, KINDS, PLACES, PORT, REROUTE, TAG  # noqa: E402

STATES = ("invalid", "established", "related", "new", "untracked")
PACKETS, CHUNK = 10, 50
_WATCH = "statewatch"
#: Messages that one packet may be good for.
MOST = 2000
_GROUP, _LAST = 7, 2_000_000_000


# --- what the kernel does, in namespaces of its own ------------------------------------------


def run(
    *argv: str, stdin: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, input=stdin, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done


def watch() -> str:
    """Return a table that logs what enters, in which state, and what comes out."""

    def note(prefix: str, condition: str = "") -> str:
        return f'{condition} log prefix "{prefix}" group {_GROUP}'

    states = [note(state, f"ct state {state}") for state in STATES]
    chains = [("prerouting", -1000, [note("come")]), ("output", -1000, [note("made")])]
    chains += [(hook, -199, [*states, note("reply", "ct direction reply")])
               for hook in ("prerouting", "output")]  # fmt: skip
    chains += [("input", _LAST, [note("in")]), ("postrouting", _LAST, [note("out")])]
    body = "\n".join(
        "\n".join([f"chain c{number} {{ type filter hook {hook} priority {priority};", *rules, "}"])
        for number, (hook, priority, rules) in enumerate(chains)
    )
    return f"table inet {_WATCH} {{\n{body}\n}}\n"


class Netlink:
    """A way to ask the kernel for its log of packets, and to empty its table of connections."""

    def __init__(self, *, logs: bool) -> None:
        self.made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.made.bind((0, 0))
        if not logs:
            return
        self.ask(0x401, 0, _attribute(1, b"\x03"))  # of IPv4
        self.ask(0x401, _GROUP, _attribute(1, b"\x01"))  # bind to the group
        self.ask(0x401, _GROUP, _attribute(2, struct.pack("!IBB", 0xFFFF, 2, 0)))
        self.ask(0x401, _GROUP, _attribute(5, struct.pack("!I", 1)))  # each packet at once

    def ask(self, kind: int, resource: int, attributes: bytes = b"") -> None:
        body = struct.pack("!BBH", 0, 0, resource) + attributes
        self.made.send(struct.pack("=IHHII", 16 + len(body), kind, 5, 1, 0) + body)
        data = b""
        while struct.unpack_from("=H", data.ljust(6, b"\0"), 4)[0] != 2:  # what is logged meanwhile
            data = self.made.recv(1 << 17)
        (code,) = struct.unpack_from("=i", data, 16)
        if code:
            raise OSError(-code, f"netlink {kind:#x}: {os.strerror(-code)}")

    def forget(self) -> None:
        """Empty the table of connections."""
        self.ask(0x102, 0)

    def read(self, seconds: float) -> list[dict[str, Any]]:
        """Return what was logged; wait as long for the first message only.

        A rule that sets the TTL anew can have a packet go round for ever: `MOST` messages are all.
        """
        found: list[dict[str, Any]] = []
        self.made.settimeout(seconds)
        with contextlib.suppress(OSError):
            while len(found) < MOST:
                data = self.made.recv(1 << 17)
                self.made.settimeout(0)
                at = 0
                while at + 16 <= len(data):
                    size, kind = struct.unpack_from("=IH", data, at)
                    if kind == 0x400:
                        found.append(_logged(data[at + 20 : at + size]))
                    at += (size + 3) & ~3
        return found


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _logged(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"mark": 0, "iif": "", "oif": "", "bytes": b"", "prefix": ""}
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        value, data = data[4:size], data[(size + 3) & ~3 :]
        if kind == 2:
            (found["mark"],) = struct.unpack("!I", value)
        elif kind in (4, 5):
            number = struct.unpack("!I", value)[0]
            found["iif" if kind == 4 else "oif"] = socket.if_indextoname(number)
        elif kind == 9:
            found["bytes"] = value
        elif kind == 10:
            found["prefix"] = value.rstrip(b"\0").decode()
    return found


def number_of(data: bytes, short: int) -> int:
    """Return which packet this is; 0: the kernel's own, that quotes or answers one of ours.

    By the IPv4 identification or IPv6 flow label, which no rule rewrites, and the payload's end.
    """
    found = struct.unpack("!I", data[:4])[0] & 0xFFFFF
    if data[0] >> 4 != 6:
        found = int.from_bytes(data[4:6], "big")
    return found if found == short or TAG + bytes([found & 0xFF]) in data[-30:] else 0


class World:
    """Interfaces, routes and sockets that all rule sets share."""

    def __init__(self) -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one queue: logs come in order
        for key in ("all", "default"):
            sysctl(f"net/ipv4/conf/{key}/rp_filter", "0")
            sysctl(f"net/ipv4/conf/{key}/accept_local", "1")
            sysctl(f"net/ipv6/conf/{key}/forwarding", "1")
            sysctl(f"net/ipv6/conf/{key}/accept_dad", "0")
        for key, value in (("ipv4/ip_forward", "1"), ("ipv4/icmp_echo_ignore_all", "1"),
                           ("ipv6/icmp/echo_ignore_all", "1"),
                           ("netfilter/nf_conntrack_tcp_be_liberal", "1")):  # fmt: skip
            sysctl(f"net/{key}", value)
        run("ip", "link", "set", "lo", "up")
        self.wires: dict[str, tuple[socket.socket, bytes]] = {}
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        for index, name in enumerate((*IFACES, PORT)):
            run(
                "ip",
                "link",
                "add",
                name,
                "arp",
                "off",
                "type",
                "veth",
                "peer",
                "name",
                f"far{index}",
            )
            sysctl(f"net/ipv6/conf/far{index}/disable_ipv6", "1")
        run("ip", "link", "set", PORT, "master", BRIDGE)
        run("ip", "link", "set", BRIDGE, "arp", "off")
        for name in (*IFACES, PORT, BRIDGE, *(f"far{index}" for index in range(4))):
            run("ip", "link", "set", name, "up")
        links = {
            one["ifname"]: one["address"] for one in json.loads(run("ip", "-j", "link").stdout)
        }
        for index, name in enumerate((*IFACES, PORT)):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            wire.bind((f"far{index}", 0))
            way = BRIDGE if name == PORT else name
            self.wires[way] = (wire, bytes.fromhex(links[way].replace(":", "")))
        for address, place in PLACES.items():
            family, bits = ("-6", "128") if ":" in address else ("-4", "32")
            where = ("dev", place) if place else ("dev", "lo")
            kind = () if place else ("local",)
            run("ip", family, "route", "replace", *kind, f"{address}/{bits}", *where)
        for family in ("-4", "-6"):
            run("ip", family, "route", "replace", "default", "dev", "wan0")
            run("ip", family, "route", "replace", "default", "dev", "wan0", "table", "7")
            run("ip", family, "rule", "add", "fwmark", f"{REROUTE:#x}/{REROUTE:#x}", "lookup", "7")
        self.raw = {six: socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW,
                                       socket.IPPROTO_RAW) for six in (False, True)}  # fmt: skip
        self.log, self.connections = Netlink(logs=True), Netlink(logs=False)

    def send(self, packet: Mapping[str, Any]) -> None:
        data = bytes.fromhex(packet["bytes"])
        six = data[0] >> 4 == 6
        if packet["from"]:
            wire, mac = self.wires[packet["from"]]
            wire.send(
                mac + bytes.fromhex("0200000000fe") + (b"\x86\xdd" if six else b"\x08\0") + data
            )
            return
        family, place, size = (socket.AF_INET6, 24, 16) if six else (socket.AF_INET, 16, 4)
        self.raw[six].setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet["mark"])
        with contextlib.suppress(OSError):  # a rule drops it, says the kernel
            self.raw[six].sendto(data, (socket.inet_ntop(family, data[place : place + size]), 0))

    def ways(self, packets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Send packets in turn; return each way one took or began."""
        found: list[dict[str, Any]] = []
        short = next((one["number"] for one in packets if one["short"]), -1)
        for packet in packets:
            self.log.read(0)
            self.send(packet)
            ways: list[dict[str, Any]] = []
            logged = self.log.read(1.0)
            for seen in logged:
                if number_of(seen["bytes"], short) != packet["number"]:
                    continue
                if seen["prefix"] in ("come", "made"):
                    ways.append({"number": packet["number"], "ct": "", "reply": False, "way": "",
                                 "made": seen["prefix"] == "made",
                                 "came": _shown(seen)})  # fmt: skip
                elif not ways:
                    continue
                elif seen["prefix"] in ("in", "out"):
                    way = "input" if seen["prefix"] == "in" else (
                        "output" if ways[-1]["made"] else "forward")  # fmt: skip
                    ways[-1] |= {"way": way, "left": _shown(seen)}
                elif seen["prefix"] == "reply":
                    ways[-1]["reply"] = True
                else:
                    ways[-1]["ct"] = seen["prefix"]
            if len(logged) >= MOST:
                break  # it goes round until these rules are gone; none of its ways is whole
            found += ways
        return found


def _shown(seen: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: seen[key] for key in ("mark", "iif", "oif")}, "bytes": seen["bytes"].hex()}


def sysctl(key: str, value: str) -> None:
    path = Path("/proc/sys", key)
    if path.exists():
        path.write_text(value, encoding="ascii")


def world(
    first: int, last: int, packets: int, nfts: Sequence[Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Yield for each rule set and nft what was listed and the ways packets took."""
    made = World()
    for seed in range(first, last):
        job = stategrammar.made(seed, packets)
        for number, nft in enumerate(nfts):
            answer = {key: job[key] for key in ("seed", "kinds")} | {"nft": number}
            loaded = run(
                *nft, "-f", "-", stdin=f"flush ruleset\n{job['text']}{watch()}", check=False
            )
            if loaded.returncode:
                yield answer | {"error": loaded.stderr.strip().splitlines()[0]}
                continue
            told = run(*nft, "-j", "list", "ruleset", check=False)
            try:  # 1.0.6 lists some rules as no JSON, and of some dies
                listed = json.loads(told.stdout)["nftables"]
            except ValueError:
                yield answer | {"error": f"not listed: {told.stderr.strip() or 'no JSON'}"}
                continue
            listed = [{kind: {key: value for key, value in body.items() if key != "handle"}
                       for kind, body in one.items()} for one in listed
                      if not any(_WATCH in (body.get("table"), body.get("name"))
                                 for body in one.values())]  # fmt: skip
            made.connections.forget()
            yield answer | {"listed": {"nftables": listed}, "ways": made.ways(job["packets"])}


# --- what the model says ---------------------------------------------------------------------


class Model:
    """One host's rules as the prover reads them, asked of concrete packets."""

    def __init__(self, listed: Any) -> None:
        from sekisho.prover import network, prove, rules  # noqa: PLC0415 - not in there

        known = getattr(prove, "_known", lambda one: one)
        self.network = network.Network({"h": known(rules.read_rules(listed, "h"))})
        self.told: dict[str, bool] = {}

    def excludes(self, way: Mapping[str, Any], *, passed: bool = True) -> bool:
        """Return whether no packet comes, and if it ``passed`` leaves, like this one."""
        key = json.dumps([passed, way])
        if key not in self.told:
            self.told[key] = self._excludes(way, passed=passed)
        return self.told[key]

    def _excludes(self, way: Mapping[str, Any], *, passed: bool) -> bool:
        import z3  # noqa: PLC0415 - not in there

        one = self.network.way("h", way["way"])
        asked = [one.sane, one.passes]
        if way["ct"] in ("established", "") and passed:
            asked.append(self.network._before(one)[0])
        known, seen = terms(one, way, passed=passed)
        pairs = [(left, right) for left, right in known if z3.is_const(left)]
        seen += [left == right for left, right in known if not z3.is_const(left)]
        left = z3.simplify(z3.substitute(z3.And(*asked, *seen), *pairs))
        if z3.is_true(left) or z3.is_false(left):
            return bool(z3.is_false(left))
        solver = z3.Solver()
        solver.set("timeout", 60_000)
        solver.add(left)
        answer = solver.check()
        if answer == z3.unknown:
            raise RuntimeError("the solver could not tell")
        return bool(answer == z3.unsat)


def terms(one: Any, way: Mapping[str, Any], *, passed: bool) -> tuple[list[Any], list[Any]]:
    """Return what was seen: values of what the packet came with, and terms of what it left as."""
    import z3  # noqa: PLC0415 - not in there

    from sekisho.prover.constants import CT_STATES, interface_number  # noqa: PLC0415

    came, left = way["came"], way.get("left", way["came"])
    p = one.packet

    def number(value: int, width: int) -> Any:
        return z3.BitVecVal(value, width)

    def name(value: str) -> Any:
        return number(interface_number(value), 128)

    known = headers(p, bytes.fromhex(came["bytes"]))
    known += [(p.get("iif"), name(came["iif"])), (p.flag("ipsec-in"), z3.BoolVal(False))]
    if way["way"] != "forward" or passed:
        known.append((p.get("oif"), name(left["oif"] if way["way"] == "forward" else came["oif"])))
    if way["way"] == "output" or came["iif"] == "lo":
        known.append((z3.BitVec(f"{p.prefix}.mark", 32), number(came["mark"], 32)))
    if way["ct"] and way["ct"] != "untracked":
        known.append((one.track.state, number(CT_STATES[way["ct"]], 32)))
        if way["ct"] != "invalid":
            known.append((one.track.reply, z3.BoolVal(way["reply"])))
    if not passed:
        return known, []
    seen = [
        one == other for one, other in headers(one.left, bytes.fromhex(left["bytes"]), left=True)
    ]
    seen.append(one.left.get("mark") == left["mark"])
    if way["way"] == "output":
        seen.append(one.left.get("oif") == name(left["oif"]))
    return known, seen


def headers(p: Any, data: bytes, *, left: bool = False) -> list[tuple[Any, Any]]:
    """Return that a packet has these headers, and is that long."""
    import z3  # noqa: PLC0415 - not in there

    def number(value: bytes) -> Any:
        return z3.BitVecVal(int.from_bytes(value, "big"), 8 * len(value))

    six = data[0] >> 4 == 6
    name, size = ("nh6", 40) if six else ("nh4", (data[0] & 15) * 4)
    found = [(p.six, z3.BoolVal(six)), (p.get(name), number(data[: 40 if six else 20]))]
    if six and data[6] == 60:
        size = 48
        found += [(p.get("protocol6", 8), number(data[40:41])), (p.flag("transport6"), z3.BoolVal(True)),
                  (p.get("length6", 16), z3.BitVecVal(len(data) - size, 16)),
                  (p.flag("fragment6"), z3.BoolVal(False))]  # fmt: skip
    body = data[size : size + 20]
    if body:
        found.append((p.bits("th", 0, 8 * len(body)), number(body)))
    if left:
        found.append((p.size6, z3.BitVecVal(len(data) - size, 16)) if six
                     else (p.size, z3.BitVecVal(len(data), 16)))  # fmt: skip
    return found


@dataclass
class Tally:
    """What was compared: numbers by name, and every unsound pair."""

    counts: Counter[str] = field(default_factory=Counter)
    sets: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unsound: list[dict[str, Any]] = field(default_factory=list)
    last: tuple[str, Model | str] = ("", "")
    dropped: bool = True

    def model(self, listed: Any) -> Model | str:
        """Return the model of a listing, or why there is none; of the last one if it is like it.

        What the version changes (`dormant`) is in no two listings alike: flags differ.
        """
        from sekisho.core.errors import SekishoError  # noqa: PLC0415

        flags = any("flags" in one.get("table", ()) for one in listed["nftables"])
        key = json.dumps([one for one in listed["nftables"] if flags or "metainfo" not in one])
        if key != self.last[0]:
            try:
                found: Model | str = Model(listed)
                for way in ("input", "forward", "output"):  # what has no meaning raises here
                    found.network.way("h", way)
            except SekishoError as bad:
                found = "; ".join(one.line() for one in bad.problems)
            self.last = (key, found)
        return self.last[1]

    def add(self, answer: Mapping[str, Any]) -> None:
        """Judge one rule set's answer."""
        if "error" in answer:
            self.counts["not listed" if "not listed" in answer["error"] else "not loaded"] += 1
            self.errors[answer["error"][:90]] += 1
            return
        self.counts["rule sets"] += 1
        model = self.model(answer["listed"])
        for kind in answer["kinds"]:
            self.sets[kind] += 1
        if isinstance(model, str):
            self.counts["rule sets not understood"] += 1
            self.errors[model[-90:]] += 1
        dropped = not self.dropped
        for way in answer["ways"]:
            self.counts["pairs"] += 1
            for kind in answer["kinds"]:
                self.pairs[kind] += 1
            self.counts["passed"] += bool(way["way"])
            if isinstance(model, str):
                self.counts["pairs not understood"] += 1
            elif way["way"]:
                self.counts[f"passed {way['way']}"] += 1
                self.counts[f"passed ct {way['ct']}"] += 1
                if model.excludes(way):
                    self.unsound.append({**answer, "ways": [way]})
            elif not dropped:  # one a rule set says whether the model excludes anything at all
                dropped = True
                likely = "output" if way["made"] else "forward"
                says = model.excludes({**way, "way": likely}, passed=False)
                self.counts["dropped: excluded" if says else "dropped: may pass"] += 1

    def lines(self) -> Iterable[str]:
        yield "  ".join(f"{name} {number}" for name, number in sorted(self.counts.items()))
        yield f"passed {self.counts['passed'] / max(1, self.counts['pairs']):.0%} of pairs"
        for kind in KINDS:
            yield f"  {kind}: {self.sets[kind]} rule sets, {self.pairs[kind]} pairs"
        for told, number in self.errors.most_common(12):
            yield f"  error {number}: {told}"
        yield f"unsound {len(self.unsound)}" + "".join(
            f"\n  seed {one['seed']} nft {one['nft']} kinds {one['kinds']}: {one['ways'][0]}"
            for one in self.unsound[:40])  # fmt: skip


def answers(
    first: int, last: int, packets: int, nfts: Sequence[Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Yield the kernel's answers for rule sets ``first`` to ``last``."""
    from ownspace import run_apart  # noqa: PLC0415 - not in there

    for low in range(first, last, CHUNK):
        words = [str(low), str(min(last, low + CHUNK)), str(packets), json.dumps(nfts)]
        for line in run_apart(__file__, ["--inside", *words]).splitlines():
            yield json.loads(line)


def read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def versions(words: argparse.Namespace) -> list[list[str]]:
    return [[one] for one in words.nft or (() if words.root else ("nft",))] + [
        ["chroot", one, "nft"] for one in words.root]  # fmt: skip


def show(words: argparse.Namespace) -> int:
    """Print one rule set, its packets, and what kernel and model make of them."""
    print(stategrammar.made(words.replay, words.packets)["text"])
    bad = 0
    for answer in answers(words.replay, words.replay + 1, words.packets, versions(words)):
        for way in answer.get("ways", ()):
            tally = Tally()
            tally.add({**answer, "ways": [way]})
            bad += len(tally.unsound)
            print(answer["nft"], "UNSOUND" if tally.unsound else dict(tally.counts), way)
        print(answer.get("error", ""))
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rulesets", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="the first rule set's number")
    parser.add_argument("--packets", type=int, default=PACKETS)
    parser.add_argument("--nft", action="append", default=[], help="an nft to load and list with")
    parser.add_argument("--root", action="append", default=[], help="a root whose nft does so")
    parser.add_argument("--replay", type=int, help="show this rule set and what becomes of it")
    parser.add_argument("--keep", type=Path, help="write the kernel's answers here")
    parser.add_argument("--judge", type=Path, help="judge answers kept before")
    words = parser.parse_args()
    if words.replay is not None:
        return show(words)
    source = read(words.judge) if words.judge else answers(
        words.seed, words.seed + words.rulesets, words.packets, versions(words))  # fmt: skip
    tally = Tally()
    with words.keep.open("w", encoding="utf-8") if words.keep else contextlib.nullcontext() as kept:
        for number, answer in enumerate(source, 1):
            if kept:
                print(json.dumps(answer), file=kept)
            tally.add(answer)
            if number % 100 == 0:
                print(number, dict(tally.counts), "unsound", len(tally.unsound), flush=True)
    print("\n".join(tally.lines()))
    return 1 if tally.unsound else 0


def inside(words: Sequence[str]) -> None:
    from ownspace import end_with_parent  # noqa: PLC0415

    end_with_parent()
    ctypes.CDLL(None).prctl(1, 9)
    first, last, packets = (int(one) for one in words[:3])
    for answer in world(first, last, packets, json.loads(words[3])):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2:])
    else:
        sys.exit(main())
