"""Laws about a packet's whole way over several hosts. Pure.

The ways are searched in the site's wiring: from a machine or the outside, link by link, through
every host that may forward anything at all between two of its interfaces. Then the solver is asked
for one packet that takes the way. Each law is asked with all rules in place and once for every host
whose rules are taken away; such a host forwards and sends whatever it likes.
With a host's rules gone the management network is left out: there every machine's port is an
isolated one, or an address can be forged (ASSURANCE.md, "The administration network").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import z3

from sekisho.core.errors import SekishoError
from sekisho.prover.findings import Finding, Outcome
from sekisho.prover.network import Network, on, unknown
from sekisho.prover.packet import Bool
from sekisho.prover.passage import Passage
from sekisho.site.model import MANAGEMENT, Kind, Role, Side, Site
from sekisho.site.tunnels import cards

#: Hosts a packet crosses at most; more than any site's data path has.
LONGEST = 6


@dataclass(frozen=True, slots=True)
class Hop:
    """One host on a way: how it is crossed, by which interfaces."""

    host: str
    way: str
    iif: str | None
    oif: str | None


Way = tuple[Hop, ...]


class Ways:
    """Every way a packet might take, given whose rules are gone."""

    def __init__(self, network: Network, site: Site, gone: str) -> None:
        self.network = network
        self.site = site
        self.gone = gone
        self.links: dict[str, list[tuple[str, str]]] = {}
        #: host → interface → its link: the cards, and the tunnels, which come out at peers.
        self.cards = {machine.name: cards(site, machine) for machine in site.machines.values()}
        for host, held in self.cards.items():
            for name, link in held.items():
                if not (gone and link == MANAGEMENT):
                    self.links.setdefault(link, []).append((host, name))

    def outside(self, side: Side | None) -> list[str]:
        """Return the links to peers of one side, or of both."""
        return [
            link.name
            for link in self.site.links.values()
            if link.kind is Kind.IP_VPN
            and any(
                name in self.site.peers and side in (None, self.site.peers[name].side)
                for name in link.between
            )
        ]

    def from_host(self, host: str, targets: frozenset[str], outside: list[str]) -> Iterator[Way]:
        """Yield the ways from a machine to other machines, or out onto links of peers."""
        for name, link in self.cards[host].items():
            if self.gone and link == MANAGEMENT:
                continue
            first = Hop(host, "output", None, name)
            if link in outside:
                yield (first,)
            yield from self._on(link, (first,), targets, outside)

    def from_outside(self, links: list[str], targets: frozenset[str]) -> Iterator[Way]:
        """Yield the ways from peers' links to machines."""
        for link in links:
            yield from self._on(link, (), targets, [])

    def through(self, links: list[str], outside: list[str]) -> Iterator[Way]:
        """Yield the ways from peers' links out onto other links of peers."""
        for link in links:
            yield from self._on(link, (), frozenset(), [one for one in outside if one != link])

    def _on(
        self, link: str, before: Way, targets: frozenset[str], outside: list[str]
    ) -> Iterator[Way]:
        if len(before) >= LONGEST:
            return
        crossed = {hop.host for hop in before}
        for host, iif in self.links.get(link, ()):
            if host in crossed:
                continue
            if host in targets:
                yield (*before, Hop(host, "input", iif, None))
            for oif, other in self.cards[host].items():
                if oif == iif or other == link or not self._forwards(host, iif, oif):
                    continue
                through = (*before, Hop(host, "forward", iif, oif))
                if other in outside:
                    yield through
                if other in self.links:
                    yield from self._on(other, through, targets, outside)

    def _forwards(self, host: str, iif: str, oif: str) -> bool:
        return host == self.gone or self.network.forwards(host, iif, oif)

    def ask(self, law: str, ways: Iterator[Way], bad: str, scope: str) -> Finding:
        """Return one finding over all ways: refuted by the first that a bad packet can take."""
        count, unsure = 0, None
        for way in ways:
            count += 1
            passages = [
                self.network.way(hop.host, hop.way, gone=hop.host == self.gone) for hop in way
            ]
            terms: list[Bool] = [
                on(one, iif=hop.iif, oif=hop.oif) for one, hop in zip(passages, way, strict=True)
            ]
            terms.append(_bad(bad, passages[-1]))
            told = " → ".join(hop.host for hop in way)
            found = self.network.ask(law, f"{scope}: {told}", passages, terms)
            if found.outcome is Outcome.REFUTED:
                return found
            if found.outcome is Outcome.ERROR:
                unsure = found
        if unsure is not None:
            return unsure
        return Finding(law, scope, Outcome.PROVEN, reason=f"{count} ways")


def _bad(kind: str, last: Passage) -> Bool:
    return z3.Not(last.left.is_bare()) if kind == "payload" else z3.BoolVal(True)


def path_laws(network: Network, site: Site) -> Iterator[Finding]:
    """Yield a finding for every law about ways between hosts."""
    try:
        for gone in ("", *_walls(site)):
            yield from _laws(network, site, gone)
    except SekishoError as bad:
        for law in ("6-iv-d-2.no-payload-leaves", "6-iv-d-3.no-payload-enters",
                    "6-iv-e.outside-reaches-no-core", "6-iv-e.only-core-joins"):  # fmt: skip
            yield unknown(law, "between hosts", tuple(site.machines), bad)


def _walls(site: Site) -> list[str]:
    """Return the hosts whose rules are taken away, one at a time."""
    roles = (Role.INBOUND, Role.GATEWAY, Role.OUTBOUND, Role.CORE)
    return [machine.name for role in roles for machine in site.of(role)]


def _laws(network: Network, site: Site, gone: str) -> Iterator[Finding]:
    ways = Ways(network, site, gone)
    scope = f"without the rules of {gone}" if gone else "all rules in place"
    gates = _gateways(site)
    providers, recipients = ways.outside(Side.PROVIDER), ways.outside(Side.RECIPIENT)
    inner = [m.name for m in site.machines.values() if m.role is not Role.GATEWAY]
    yield ways.ask(
        "6-iv-d-2.no-payload-leaves",
        (way for name in inner for way in ways.from_host(name, frozenset(), providers)),
        "payload", scope,
    )  # fmt: skip
    yield ways.ask(
        "6-iv-d-3.no-payload-enters",
        ways.from_outside(recipients, frozenset(inner)),
        "payload", scope,
    )  # fmt: skip
    if not gone or site.machines[gone].role is not Role.CORE:
        cores = frozenset(machine.name for machine in site.of(Role.CORE))
        yield ways.ask(
            "6-iv-e.outside-reaches-no-core",
            ways.from_outside([*providers, *recipients], cores), "any", scope,
        )  # fmt: skip
    left = {machine.name for machine in site.of(Role.INBOUND)} | gates[Side.PROVIDER]
    right = {machine.name for machine in site.of(Role.OUTBOUND)} | gates[Side.RECIPIENT]
    sides = [(left, right), (right, left)]
    if gone and site.machines[gone].role is Role.CORE:
        return  # core itself joins them: that is its work, and why it stands alone
    yield ways.ask(
        "6-iv-e.only-core-joins",
        (
            way
            for senders, receivers in sides
            for name in sorted(senders)
            for way in ways.from_host(name, frozenset(receivers), [])
        ),
        "any", scope,
    )  # fmt: skip


def _gateways(site: Site) -> dict[Side, set[str]]:
    found: dict[Side, set[str]] = {Side.PROVIDER: set(), Side.RECIPIENT: set()}
    for link in site.links.values():
        for name in link.between:
            if name in site.peers:
                found[site.peers[name].side] |= {one for one in link.between
                                                 if one in site.machines}  # fmt: skip
    return found
