"""The site's laws, host by host and along every path between hosts. Pure.

Host laws compare what a host's rules let through with what the site declares there, both ways:
nothing more, and nothing less. Path laws follow one packet over several hosts, with all rules in
place and with any one host's taken away; nothing is assumed about routing tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import z3

from sekisho.errors import SekishoError
from sekisho.flows.prover.belongs import may, must
from sekisho.flows.prover.constants import interface_number
from sekisho.flows.prover.declared import Line, lines, stays
from sekisho.flows.prover.findings import Finding
from sekisho.flows.prover.network import Network, unknown
from sekisho.flows.prover.packet import Bool
from sekisho.flows.prover.passage import NEW, Passage
from sekisho.flows.prover.tables import NamedSet, Rules, UnknownConstructError
from sekisho.flows.quarantine import MEMBER, SET
from sekisho.flows.ruleset import FAMILY, TABLE
from sekisho.site.model import MANAGEMENT, Site

_LO = interface_number("lo")
_WAY_LAWS = {
    "input": "6-iv-a.only-declared-in",
    "output": "6-iv-d-1.only-declared-out",
    "forward": "6-iv-e.only-declared-through",
}
QUARANTINE = "6-iv-a.quarantine-leaves-the-monitor"
HOST_LAWS = (
    *_WAY_LAWS.values(),
    QUARANTINE,
    "6-iv-a.no-ipv6",
    "6-iv-a.connections-begin-with-syn",
    "6-iv-a.management-serves-administration",
    "6-iv-d-1.declared-flows-pass",
    "6-iv-b.declared-services-pass",
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
    yield from _quarantine(network, host, left)
    ways = {way: network.way(host, way) for way in _WAY_LAWS}
    for way, law in _WAY_LAWS.items():
        one = ways[way]
        yield network.ask(law, host, [one], undeclared(one, declared))
    for way, one in ways.items():
        yield network.ask(
            "6-iv-a.no-ipv6", f"{host} {way}", [one], [_not_loopback(one), one.packet.six]
        )
        yield network.ask(
            "6-iv-a.connections-begin-with-syn", f"{host} {way}", [one],
            [_not_loopback(one), one.track.state == NEW, one.packet.protocol == 6,
             (one.packet.field("tcp", "flags") & 0x17) != 2,
             one.packet.get("oif" if way == "output" else "iif") != management],
        )  # fmt: skip
    yield from _management(network, host, ways, declared, management)
    flows = {line.name.partition(",")[0] for line in declared} & set(site.flows)
    for line in declared:
        if line.ipsec:  # what passes depends on the associations, which no rule holds
            continue
        one = ways[line.way]
        flow = line.name.partition(",")[0] in flows
        law = "6-iv-d-1.declared-flows-pass" if flow else "6-iv-b.declared-services-pass"
        yield network.ask(
            law, f"{host} {line.name}", [one], [must(line, one.packet, one.track)],
            passing=False, reason=f"a regular packet of {line.name} does not pass",
        )  # fmt: skip


def _switch(rules: Rules) -> NamedSet | None:
    for table in rules.tables:
        if (table.family, table.name) == (FAMILY, TABLE):
            return table.sets.get(SET)
    return None


def _quarantine(network: Network, host: str, left: list[Line]) -> Iterator[Finding]:
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
    for line in left:
        one = on.way(host, line.way)
        yield on.ask(
            QUARANTINE, f"{host} {line.name}", [one], [must(line, one.packet, one.track)],
            passing=False, reason=f"a regular packet of {line.name} does not pass",
        )  # fmt: skip
    network.asked += on.asked


def undeclared(one: Passage, declared: Iterable[Line]) -> list[Bool]:
    """Return the terms of a packet that passes although no line of this way holds it."""
    allowed = [may(line, one.packet, one.track) for line in declared if line.way == one.way]
    return [_not_loopback(one), z3.Not(z3.Or(*allowed))]


def _not_loopback(one: Passage) -> Bool:
    """Leave the loopback out: it is no wire. What is forwarded is asked all the same."""
    if one.way == "forward":
        return z3.BoolVal(True)
    return one.packet.get("iif" if one.way == "input" else "oif") != _LO


def _management(
    network: Network,
    host: str,
    ways: dict[str, Passage],
    declared: list[Line],
    management: int,
) -> Iterator[Finding]:
    law = "6-iv-a.management-serves-administration"
    for way, side in (("input", "iif"), ("output", "oif")):
        one = ways[way]
        allowed = [
            may(line, one.packet, one.track)
            for line in declared
            if line.way == way and interface_number(getattr(line, side)) == management
        ]
        here = one.packet.get(side) == management
        yield network.ask(law, f"{host} {way}", [one], [here, z3.Not(z3.Or(*allowed))])
    one = ways["forward"]
    either = z3.Or(one.packet.get("iif") == management, one.packet.get("oif") == management)
    yield network.ask(law, f"{host} forward", [one], [either])
