"""The site's laws, host by host and along every path between hosts. Pure.

Host laws compare what a host's rules let through with what the site declares there, both ways:
nothing more, and nothing less. Path laws follow one packet over several hosts, with all rules in
place and with any one host's taken away; nothing is assumed about routing tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import z3

from sekisho.core.errors import SekishoError
from sekisho.nft.quarantine import MEMBER, SET
from sekisho.nft.ruleset import FAMILY, TABLE
from sekisho.policy.parts import TCP, DeclaredLine
from sekisho.prover.belongs import alike, may, must
from sekisho.prover.constants import interface_number
from sekisho.prover.expressions import Track
from sekisho.prover.findings import Finding, Outcome
from sekisho.prover.network import Network, unknown
from sekisho.prover.packet import Bool, Packet
from sekisho.prover.passage import NEW, Passage
from sekisho.prover.tables import NamedSet, Rules, UnknownConstructError
from sekisho.site.declared import lines, stays
from sekisho.site.model import MANAGEMENT, Site

_LO = interface_number("lo")
_WAY_LAWS = {
    "input": "6-iv-a.only-declared-in",
    "output": "6-iv-d-1.only-declared-out",
    "forward": "6-iv-e.only-declared-through",
}
QUARANTINE = "6-iv-a.quarantine-leaves-the-monitor"
FLOWS_PASS, SERVICES_PASS = "6-iv-d-1.declared-flows-pass", "6-iv-b.declared-services-pass"
HOST_LAWS = (
    *_WAY_LAWS.values(),
    QUARANTINE,
    "6-iv-a.no-ipv6",
    "6-iv-a.connections-begin-with-syn",
    "6-iv-a.management-serves-administration",
    FLOWS_PASS,
    SERVICES_PASS,
)


def host_laws(network: Network, site: Site, host: str) -> Iterator[Finding]:
    """Yield a finding for every law of one host."""
    try:
        yield from _host_laws(network, site, host)
    except SekishoError as bad:
        for law in HOST_LAWS:
            yield unknown(law, host, (host,), bad)


def _host_laws(network: Network, site: Site, host: str) -> Iterator[Finding]:
    machine = site.machines[host]
    declared = lines(site, machine)
    ours = machine.on(MANAGEMENT)
    management = interface_number(ours.name) if ours is not None else 0
    left = [line for line in declared if stays(line, ours.name if ours is not None else "")]
    if MEMBER in getattr(_switch(network.rules[host]), "elements", ()):
        declared = left  # the switch is on: what is declared is what it leaves
    ways = {way: network.way(host, way) for way in _WAY_LAWS}
    yield from _quarantine(network, host, left)
    for way, law in _WAY_LAWS.items():
        one = ways[way]
        yield network.ask(law, host, [one], undeclared(one, declared))
    for way, one in ways.items():
        yield network.ask(
            "6-iv-a.no-ipv6", f"{host} {way}", [one], [_not_loopback(one), one.packet.six]
        )
        yield network.ask(
            "6-iv-a.connections-begin-with-syn", f"{host} {way}", [one],
            [_not_loopback(one), one.track.state == NEW, _either(one, partial(
                _begins_otherwise, side="oif" if way == "output" else "iif",
                management=management,
            ))],
        )  # fmt: skip
    yield from _management(network, host, ways, declared, management)
    # What passes by IPsec depends on the associations, which no rule holds.
    yield from _all_pass(network, ways, [
        (FLOWS_PASS if line.name.partition(",")[0] in site.flows else SERVICES_PASS, line)
        for line in declared if not line.ipsec
    ])  # fmt: skip


def _begins_otherwise(packet: Packet, side: str, management: int) -> Bool:
    return z3.And(
        packet.protocol == TCP,
        (packet.field("tcp", "flags") & 0x17) != 2,
        packet.get(side) != management,
    )


def _all_pass(
    network: Network, ways: Mapping[str, Passage], asked: Sequence[tuple[str, DeclaredLine]]
) -> Iterator[Finding]:
    """Yield for each (law, line) whether every regular packet of the line passes.

    All lines of a way are one question; only where a packet of them does not pass is it asked, half
    by half, whose it is.
    """
    found: dict[DeclaredLine, Finding] = {}
    left = [[one for one in asked if one[1].way == way] for way in ways]
    while left:
        group = left.pop()
        if not group:
            continue
        one = ways[group[0][1].way]
        if len(group) == 1:
            ((law, line),) = group
            found[line] = network.ask(
                law, f"{one.host} {line.name}", [one], [must(line, one.packet, one.track)],
                passing=False, reason=f"a regular packet of {line.name} does not pass",
            )  # fmt: skip
        elif network.never(one, [any_must([line for _, line in group], one)]):
            found |= {line: Finding(law, f"{one.host} {line.name}", Outcome.PROVEN,
                                    hosts=(one.host,)) for law, line in group}  # fmt: skip
        else:
            left += [group[len(group) // 2 :], group[: len(group) // 2]]
    yield from (found[line] for _, line in asked)


def any_must(lines: Sequence[DeclaredLine], one: Passage) -> Bool:
    """Return whether the packet is a regular one of some of these lines."""
    return z3.Or(*[must(line, one.packet, one.track) for line, _ in alike(lines)])


def _either(one: Passage, wrong: Callable[[Packet], Bool]) -> Bool:
    """Return whether something is wrong with a packet as it comes or as it leaves."""
    return z3.Or(*[wrong(packet) for packet in shown(one)])


def shown(one: Passage) -> tuple[Packet, Packet]:
    """Return the packet the laws look at: as it comes, or is made, and as rules let it leave."""
    return one.packet, one.left


def _switch(rules: Rules) -> NamedSet | None:
    for table in rules.tables:
        if (table.family, table.name) == (FAMILY, TABLE):
            return table.sets.get(SET)
    return None


def _quarantine(network: Network, host: str, left: list[DeclaredLine]) -> Iterator[Finding]:
    """Ask both ways of the same rules with the switch on, wherever it stands."""
    rules, held = network.rules[host], _switch(network.rules[host])
    if held is None:
        told = UnknownConstructError(f"{FAMILY} {TABLE}", "no set", f"the set {SET}")
        yield unknown(QUARANTINE, host, (host,), told)
        return
    tables = tuple(
        replace(one, sets={**one.sets, SET: replace(held, elements=(MEMBER,))})
        if (one.family, one.name) == (FAMILY, TABLE)
        else one
        for one in rules.tables
    )
    on = Network({host: replace(rules, tables=tables)}, network.interfaces)
    for way in _WAY_LAWS:
        one = on.way(host, way)
        yield on.ask(QUARANTINE, f"{host} {way}", [one], undeclared(one, left))
    ways = {way: on.way(host, way) for way in _WAY_LAWS}
    yield from _all_pass(on, ways, [(QUARANTINE, line) for line in left])
    network.asked += on.asked


def undeclared(one: Passage, declared: Iterable[DeclaredLine]) -> list[Bool]:
    """Return the terms of a packet that passes although no line of this way holds it.

    As it comes, or as it leaves: a rule that rewrites it makes another packet of it.
    """
    here = [line for line, _ in alike(line for line in declared if line.way == one.way)]
    return [_not_loopback(one), _either(one, partial(_held_by_none, lines=here, track=one.track))]


def _held_by_none(packet: Packet, lines: Iterable[DeclaredLine], track: Track) -> Bool:
    return z3.Not(z3.Or(*[may(line, packet, track) for line in lines]))


def _not_loopback(one: Passage) -> Bool:
    """Leave the loopback out: it is no wire. What is forwarded is asked all the same."""
    if one.way == "forward":
        return z3.BoolVal(True)
    if one.way == "input":
        return one.packet.get("iif") != _LO
    return one.left.get("oif") != _LO


def _management(
    network: Network,
    host: str,
    ways: dict[str, Passage],
    declared: list[DeclaredLine],
    management: int,
) -> Iterator[Finding]:
    law = "6-iv-a.management-serves-administration"
    for way, side in (("input", "iif"), ("output", "oif")):
        one = ways[way]
        here = [
            line for line, _ in alike(
                line for line in declared
                if line.way == way and interface_number(getattr(line, side)) == management
            )
        ]  # fmt: skip

        def wrong(packet: Packet, side: str = side, here: list[DeclaredLine] = here,
                  one: Passage = one) -> Bool:  # fmt: skip
            there = packet.get(side) == management
            return z3.And(there, _held_by_none(packet, here, one.track))

        yield network.ask(law, f"{host} {way}", [one], [_either(one, wrong)])
    one = ways["forward"]
    either = z3.Or(one.packet.get("iif") == management, one.left.get("oif") == management)
    yield network.ask(law, f"{host} forward", [one], [either])
