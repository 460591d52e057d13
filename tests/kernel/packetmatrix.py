"""Cross every pair with every probe: what is declared, what is measured, what is proven.

    .venv/bin/python tests/kernel/packetmatrix.py [--thin N] [--only FROM] [--hole HOLE] [--json FILE]

Every machine of the lab's inventory, its peers, controllers and a stranger on the administration
network are namespaces with their compiled rules. From every one a catalogue of raw packets goes to
every other: put on the wire past its own rules (as root could with a packet socket) and sent
through them. For each packet three answers are compared: where the site model says it comes
(`matrixcolumns.Declared`), where captures on every interface and a watch behind every machine's
rules saw it, and where the solver says the loaded rules let it (`matrixcolumns.Proven`). Then the
rules are taken away and the same probes must arrive: that nothing arrived before was no accident.
`--thin N` gives each pair every Nth probe of each family, another Nth to each pair.
"""

# ruff: noqa: E501, PLR0917, T201
# its answers are told whole; run by hand it prints its table

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "agent"), str(ROOT / "tests/kernel")]

import matrixframes  # noqa: E402 - path first
from matrixanswers import FIRST, Conversation, conversations, preface, shapes  # noqa: E402 - path first
from matrixcolumns import DELIVERED, Declared, Journey, Place, Proven, walk  # noqa: E402 - path first
from matrixprobes import TCP, UDP, Probe, catalogue, key  # noqa: E402 - path first
from matrixworld import STATES, Map, Port, World, six  # noqa: E402 - path first
from ownspace import end_with_parent, run_apart  # noqa: E402 - path first

from sekisho.site.declared import lines  # noqa: E402 - path first
from sekisho.site.model import MANAGEMENT, Site  # noqa: E402 - path first
from siteworld import lab_site  # noqa: E402 - path first

INSIDE = "SEKISHO_MATRIX_INSIDE"
#: Probes before the watching tables are read, and before captures are (a buffer's worth).
BATCH, SIP = 4000, 64
Sent = tuple[Journey, Probe, int]
#: Rules too many, to see the matrix fail: machine, chain, rule.
HOLES = {
    "gate-in forwards any UDP": ("gate-in", "forward", "meta l4proto udp accept"),
    "core-1 takes any TCP": ("core-1", "input", "meta l4proto tcp accept"),
    "inbound-1 answers with payload": ("inbound-1", "bare", "accept"),
}


@dataclass(slots=True)
class Result:
    """What a run found.

    Attributes:
        probes: questions asked, by phase.
        passed: those that came anywhere, by phase.
        pairs: (from, to) → probes, and those that came through.
        differences: a line for each answer that is not the others'.

    """

    probes: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    pairs: dict[str, list[int]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"probes": self.probes, "passed": self.passed, "pairs": self.pairs,
                "differences": self.differences, "seconds": self.seconds}  # fmt: skip


def declared_ports(site: Site) -> list[int]:
    """Return every port a line of the site names, TCP's first."""
    every = [line for machine in site.machines.values() for line in lines(site, machine)]
    tcp = {line.port for line in every if line.protocol == TCP}
    return sorted(tcp) + sorted({line.port for line in every if line.protocol == UDP} - tcp)


def journeys(world: Map) -> Iterator[tuple[Journey, bool]]:
    """Yield every way from a wire's end to an address, and whether the pair are the ends of it.

    The whole catalogue goes by the shortest way to each machine, on data wires and on the
    administration network; the key probes go to every other address by every neighbour.
    """
    every = [port for ports in world.links.values() for port in ports]
    for sender in every:
        for to in world.links[sender.link]:
            if to is sender:
                continue
            for target in every:
                if target.node == sender.node:
                    continue
                step = world.next_hop(sender.node, target.address)
                straight = step is not None and step == (sender, to)
                if sender.link == MANAGEMENT and to.node == "stranger" and not straight:
                    continue
                yield Journey(sender, to, target.address, stack=False), straight
                if straight and world.nodes[sender.node].ruled:
                    yield Journey(sender, to, target.address, stack=True), True


def questions(site: Site, world: Map, *, thin: int, only: str) -> list[Sent]:
    """Return what is sent, in order, numbered so that no two of a batch are alike."""
    ports = declared_ports(site)
    families, few = catalogue(ports), key(ports)
    found: list[Sent] = []
    reached: set[tuple[str, str, str, bool]] = set()
    turn = 0
    for journey, straight in journeys(world):
        if only and journey.sender.node != only:
            continue
        owner = world.owner(journey.target)
        pair = (journey.sender.node, journey.sender.name, owner.node if owner else "",
                journey.stack)  # fmt: skip
        probes: Sequence[Probe] = few
        if straight and pair not in reached:
            reached.add(pair)
            probes = [one for family in families for one in family[turn % thin :: thin]]
            turn += 1
        elif journey.stack:
            continue
        found += [(journey, probe, 0) for probe in probes if probe.raw or not journey.stack]
    return [(journey, probe, index % 39999 + 1) for index, (journey, probe, _) in enumerate(found)]


def _ends(journey: Journey, probe: Probe) -> tuple[Any, Any]:
    source, target = journey.sender.address, journey.target
    return (six(source), six(target)) if probe.v6 else (source, target)


def send(world: World, sent: Sent) -> bool:
    """Send a probe; return whether its sender's kernel took it."""
    journey, probe, number = sent
    source, target = _ends(journey, probe)
    packets = probe.make(source, target, number)
    if not journey.stack:
        kind = b"\x86\xdd" if probe.v6 else b"\x08\x00"
        out = world.frame_socket(journey.sender)
        for packet in packets:
            out.send(journey.to.mac + journey.sender.mac + kind + packet)
        return True
    out = world.stack_socket(journey.sender.node, v6=probe.v6)
    try:
        for packet in packets:
            out.sendto(packet, (str(target), 0))
    except PermissionError:  # a rule dropped it
        return False
    return True


def identity(packet: bytes, by: str) -> tuple[str, int] | None:
    """Return what tells a captured packet apart: its source and number.

    An answer is told by the port it goes to: a rule may rewrite its identification.
    """
    if by == "ports":
        if len(packet) < 24 or packet[0] >> 4 != 4 or packet[9] not in (TCP, UDP):
            return None
        at = (packet[0] & 15) * 4
        return packet[12:16].hex(), int.from_bytes(packet[at + 2 : at + 4], "big") - FIRST
    if len(packet) >= 20 and packet[:1] and packet[0] >> 4 == 6:
        return packet[8:24].hex(), int.from_bytes(packet[1:4], "big") & 0xFFFFF
    if len(packet) >= 20:
        return packet[12:16].hex(), int.from_bytes(packet[4:6], "big")
    return None


@dataclass(slots=True)
class Observed:
    """What one batch's packets were seen doing."""

    left: dict[tuple[str, int], set[Place]]
    came: set[tuple[str, str, tuple[str, int]]]
    noted: dict[str, dict[str, set[tuple[Any, ...]]]]

    def places(self, sent: Sent) -> frozenset[Place]:
        """Return where a probe was delivered or sent on."""
        journey, probe, number = sent
        source, _ = _ends(journey, probe)
        found = set(self.left.get((source.packed.hex(), number), ()))
        if not journey.stack:
            found.discard((journey.sender.node, journey.sender.name))
        found |= {
            (node, DELIVERED) for node, sets in self.noted.items()
            if (str(source), number) in sets.get("in", ())
        }  # fmt: skip
        return frozenset(found)

    def state(self, sent: Sent, node: str) -> tuple[str, bool] | None:
        """Return what a node's connection tracking said of a probe; None: it never came there."""
        source, _ = _ends(sent[0], sent[1])
        return tracked(self.noted[node], (str(source), sent[2]))


def tracked(sets: Mapping[str, set[tuple[Any, ...]]], key: tuple[str, int]) -> (
    tuple[str, bool] | None
):  # fmt: skip
    """Return the state and direction one packet was noted with; None: it never came to the rules."""
    state = next((one for one in STATES if key in sets.get(one, ())), None)
    return None if state is None else (state, key in sets.get("reply", ()))


def observe(world: World, batch: Sequence[Sent], by: str = "id") -> Observed:
    """Send a batch; return what captures and watching tables saw of it."""
    saw = Observed({}, set(), {})
    for index, sent in enumerate(batch):
        send(world, sent)
        if index % SIP == SIP - 1 or index == len(batch) - 1:
            _read(world, saw, by)
    for name in world.map.nodes:
        sets = world.noted(name)
        if by == "ports":  # source, its port, the port it goes to
            sets = {what: {(key[0], key[2] - FIRST) for key in keys}
                    for what, keys in sets.items()}  # fmt: skip
        saw.noted[name] = sets
    _read(world, saw, by)
    return saw


def _read(world: World, saw: Observed, by: str) -> None:
    for node, port, outgoing, frame in world.frames():
        who = identity(frame[14:], by)
        if who is None or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
            continue
        if outgoing:
            saw.left.setdefault(who, set()).add((node, port))
        else:
            saw.came.add((node, port, who))


def _told(places: frozenset[Place]) -> str:
    return ", ".join(sorted(f"{node} {what}" for node, what in places)) or "nowhere"


def judge(world: World, batch: Sequence[Sent], saw: Observed, declared: Declared,
          proven: Proven, result: Result) -> None:  # fmt: skip
    """Compare the three answers for every probe of a batch."""
    for sent in batch:
        journey, probe, number = sent
        source, target = _ends(journey, probe)
        packet = probe.seen(source, target, number)
        proven.state = lambda node, sent=sent: saw.state(sent, node)
        proven.untold.clear()
        proven.asked.clear()
        expected = walk(world.map, journey, probe, packet, declared)
        measured = saw.places(sent)
        solved = walk(world.map, journey, probe, packet, proven)
        phase = "through own rules" if journey.stack else "on the wire"
        phase = f"answers {phase}" if declared.opened else phase
        result.probes[phase] += 1
        result.passed[phase] += bool(measured)
        owner = world.map.owner(journey.target)
        cell = result.pairs.setdefault(f"{journey.sender.node} {owner.node if owner else '?'}",
                                       [0, 0])  # fmt: skip
        cell[0] += 1
        cell[1] += bool(measured)
        where = (journey.to.node, journey.to.name, (source.packed.hex(), number))
        if not journey.stack and where not in saw.came:
            result.differences.append(f"{journey.label}: {probe.label}: was not on the wire at all")
        if not expected == measured == solved or proven.untold:
            rules = [proven.rule(*one, packet) for one in proven.asked]
            result.differences.append(
                f"{journey.label}: {probe.label}: declared {_told(expected)}; measured "
                f"{_told(measured)}; proven {_told(solved)} by {'; '.join(rules)} "
                + "; ".join(proven.untold)
            )


def control(world: World, batch: Sequence[Sent], saw: Observed, result: Result) -> None:
    """Without rules every probe must come where the routes lead, but for what kernels refuse."""
    for sent in batch:
        journey, probe, number = sent
        source, target = _ends(journey, probe)
        wanted = walk(world.map, journey, probe, probe.seen(source, target, number),
                      lambda *_: True, tracked=False)  # fmt: skip
        measured = saw.places(sent)
        result.probes["control"] += 1
        result.passed["control"] += bool(measured)
        if wanted != measured:
            result.differences.append(f"CONTROL {journey.label}: {probe.label}: without rules it "
                                      f"comes to {_told(measured)}, not {_told(wanted)}")  # fmt: skip


def run(*, thin: int, only: str = "", hole: str = "", checked: bool = True,
        progress: bool = False) -> Result:  # fmt: skip
    """Make the site, ask everything, and say what differs.

    ``hole`` opens one machine's rules behind the site's back; ``checked`` runs the control.
    """
    site = lab_site()
    world = World(site)
    result = Result()
    asked = questions(site, world.map, thin=thin, only=only)
    batches = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
    declared, proven = Declared(site), Proven(world.load("ports", HOLES.get(hole)))
    started = time.monotonic()
    _answers(world, declared, proven, result, ports=declared_ports(site), thin=thin, only=only)
    result.seconds["answers"] = round(time.monotonic() - started, 1)
    world.watch("id", tracking=True)
    _frames(world, declared, proven, result, ports=declared_ports(site), thin=thin, only=only)
    result.seconds["frames"] = round(time.monotonic() - started, 1)
    for phase in ("matrix", "control") if checked else ("matrix",):
        if phase == "control":
            world.flush()
            world.watch("id", tracking=False)
        for done, batch in enumerate(batches):
            saw = observe(world, batch)
            if phase == "matrix":
                judge(world, batch, saw, declared, proven, result)
            else:
                control(world, batch, saw, result)
            if progress:
                print(f"\r{phase}: {min(len(asked), (done + 1) * BATCH)} of {len(asked)} probes, "
                      f"{len(result.differences)} differences", end="", file=sys.stderr)  # fmt: skip
        result.seconds[phase] = round(time.monotonic() - started, 1)
        if progress:
            print(file=sys.stderr)
    return result


def _answers(
    world: World, declared: Declared, proven: Proven, result: Result, *,
    ports: Sequence[int], thin: int, only: str,
) -> None:  # fmt: skip
    """Open every declared connection and send back every shape, through own rules and past them."""
    asked: list[tuple[Conversation, Sent]] = []
    for turn, talk in enumerate(conversations(world.map, declared, ports)):
        if only and talk[1].sender.node != only:
            continue
        for journey in {talk[1], replace(talk[1], stack=False)}:
            for family in shapes(talk[2]):
                for probe in family[turn % thin :: thin]:
                    asked.append((talk, (journey, probe, len(asked))))
    declared.opened = True
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        observe(world, [one for talk, sent in batch for one in preface(talk, sent[2])], "ports")
        sent = [one for _, one in batch]
        judge(world, sent, observe(world, sent, "ports"), declared, proven, result)
    declared.opened = False


def _frames(
    world: World, declared: Declared, proven: Proven, result: Result, *,
    ports: Sequence[int], thin: int, only: str,
) -> None:  # fmt: skip
    """Put everything a wire carries besides plain packets on every wire, frame by frame."""
    every = [one for held in world.map.links.values() for one in held]
    asked: list[tuple[Port, Port, matrixframes.Frame]] = []
    for turn, sender in enumerate(one for one in every if not only or one.node == only):
        ends = [one for one in world.map.links[sender.link] if one is not sender]
        sent = [
            (to, frame)
            for index, to in enumerate(ends)
            for frame in matrixframes.frames(sender, to, 100 * index, list(ports))[
                turn % thin :: thin
            ]
        ]
        for to, frame in sent:
            out, got = matrixframes.seen(world, sender, frame)
            wanted = {one for one in matrixframes.expected(world.map, sender, to, frame, declared)
                      if one[1] != DELIVERED}  # fmt: skip
            reached = {one.node for one in ends} if frame.everyone else {to.node}
            result.probes["frames"] += 1
            result.passed["frames"] += bool(out)
            if out != wanted or not reached <= got:
                result.differences.append(
                    f"{sender.node} {sender.name} → {to.node}: {frame.label}: came out at "
                    f"{_told(frozenset(out))}, not {_told(frozenset(wanted))}; seen by {sorted(got)}"
                )
        asked += [(sender, *one) for one in sent]
    _delivered(world, asked, declared, proven, result)


def _delivered(
    world: World, asked: Sequence[tuple[Port, Port, matrixframes.Frame]],
    declared: Declared, proven: Proven, result: Result,
) -> None:  # fmt: skip
    """Compare what machines delivered to their programs with what either judge says."""
    every = {name: world.noted(name) for name in world.map.nodes}  # read: forgotten
    noted = {name: sets for name, sets in every.items() if world.map.nodes[name].ruled}
    wanted: dict[str, set[tuple[Any, ...]]] = {name: set() for name in noted}
    labels = {}
    for sender, to, frame in asked:
        key = (str(sender.address), int.from_bytes((frame.packet or b"")[4:6], "big"))
        labels[key] = frame.label
        proven.state = lambda node, key=key: tracked(noted[node], key)
        proven.untold.clear()
        says, solved = (
            {place for place in matrixframes.expected(world.map, sender, to, frame, judge)
             if place[1] == DELIVERED and place[0] in noted}
            for judge in (declared, proven)
        )  # fmt: skip
        for node, _ in says:
            wanted[node].add(key)
        result.passed["frames"] += bool(says)
        if says != solved or proven.untold:
            result.differences.append(
                f"{sender.node} {sender.name} → {to.node}: {frame.label}: declared "
                f"{_told(frozenset(says))}, proven {_told(frozenset(solved))} {proven.untold}"
            )
    for node, sets in noted.items():
        got = sets.get("in", set())
        result.differences += [
            f"{key[0]} → {node}: {labels.get(key, 'IPv6')} was "
            f"{'delivered' if key in got else 'not delivered'}"
            for key in sorted(got ^ wanted[node])
        ]


def private(words: Sequence[str]) -> Mapping[str, Any]:
    """Run this file in namespaces of its own and return what it found."""
    told = run_apart(__file__, words, env={INSIDE: "1"}, quiet="--quiet" in words)
    found: Mapping[str, Any] = json.loads(told)
    return found


def main() -> int:
    """Print the table; exit 1 when the matrices differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--thin", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--hole", default="", choices=("", *HOLES))
    parser.add_argument("--no-control", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    if os.environ.get(INSIDE):
        end_with_parent()
        found = run(thin=options.thin, only=options.only, hole=options.hole,
                    checked=not options.no_control, progress=not options.quiet)  # fmt: skip
        json.dump(found.as_json(), sys.stdout)
        return 0
    told = private(sys.argv[1:])
    if options.json:
        options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    for pair, (asked, passed) in sorted(told["pairs"].items()):
        print(f"{pair:32} {asked:7} probes {passed:6} came through a rule")
    for phase, count in told["probes"].items():
        print(f"{phase}: {count} probes, {told['passed'][phase]} came somewhere")
    print(told["seconds"])
    for line in told["differences"][:40]:
        print("DIFFERS", line)
    print(f"{len(told['differences'])} differences")
    return 1 if told["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
