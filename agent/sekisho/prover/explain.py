"""May X reach Y with Z, and by which rule? Pure.

X and Y are machines or peers of the site. The answer is a way with its packet and the verdicts on
it, or that no packet of that kind takes any way; how the packet is answered is another question.
What the rules let through, `follow` asks of the hosts' routes, switches and IPsec policies too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import z3

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.text import is_number
from sekisho.prover.constants import PROTOCOLS
from sekisho.prover.deliver import Delivery, placed, through_tunnel
from sekisho.prover.findings import Finding, Outcome
from sekisho.prover.network import Network, on
from sekisho.prover.packet import Bool
from sekisho.prover.passage import NEW, Passage
from sekisho.prover.paths import Way, Ways
from sekisho.prover.relations import Leg, Stage, seal
from sekisho.site.model import Site
from sekisho.site.tunnels import tunnels_of

_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "esp": 50}
_LAW = "6-iv-a.only-declared-in"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: any packet, or one of a protocol, a port, or a connection's first."""

    protocol: int | None
    port: int | None
    opening: bool

    def holds(self, one: Passage) -> Bool:
        """Return whether the packet on this passage is of the kind."""
        packet = one.packet
        found: list[Bool] = []
        if self.protocol is not None:
            found.append(packet.protocol == self.protocol)
        if self.port is not None:
            found.append(packet.field("th", "dport") == self.port)
        if self.opening:
            found.append(one.track.state == NEW)
        return z3.And(*found)


def wanted(text: str) -> Wanted:
    """Return what ``text`` asks for, such as ``any``, ``icmp``, ``tcp`` or ``tcp/22``.

    Raises `SekishoError` for anything else.
    """
    name, slash, port = text.partition("/")
    number = int(port) if slash and is_number(port) else None
    if name == "any" and not slash:
        return Wanted(None, None, opening=False)
    if name in _PROTOCOLS and not slash:
        return Wanted(_PROTOCOLS[name], None, opening=name != "icmp")
    if name in ("tcp", "udp") and number is not None and 0 < number < 65536:
        return Wanted(_PROTOCOLS[name], number, opening=True)
    raise SekishoError(
        "no such kind of packet",
        (Problem("--with", "", printable(text), "any, icmp, esp, tcp, udp, tcp/PORT or udp/PORT"),),
    )


def explain(network: Network, site: Site, ends: tuple[str, str], what: Wanted) -> list[Finding]:
    """Return one finding a way: refuted means "yes, so"; without any there is no way at all.

    Raises `SekishoError` for a name the site does not have.
    """
    known = [*site.machines, *site.peers]
    wrong = [end for end in ends if end not in known]
    if wrong:
        raise SekishoError(
            "the site has no such machine or peer",
            tuple(Problem("explain", "", printable(end), ", ".join(known)) for end in wrong),
        )
    found = []
    for way in _ways(network, site, ends):
        passages = [network.way(hop.host, hop.way) for hop in way]
        terms: list[Bool] = [
            on(one, iif=hop.iif, oif=hop.oif) for one, hop in zip(passages, way, strict=True)
        ]
        terms += [what.holds(one) for one in passages]
        if ends[0] in site.peers:
            terms.append(_is(passages[0], "saddr", site.peers[ends[0]].address))
        if ends[1] in site.peers:
            terms.append(_is(passages[-1], "daddr", site.peers[ends[1]].address))
        told = " → ".join(hop.host for hop in way)
        found.append(network.ask(_LAW, told, passages, terms))
        if found[-1].outcome is Outcome.REFUTED:
            return found[-1:]
    return found


def follow(
    delivery: Delivery, site: Site, ends: tuple[str, str], what: Wanted, found: Finding
) -> str:
    """Return what stops the way of a "yes" although the rules let it through; "" when nothing does.

    Asked of packets between the two ends' own addresses there. Raises `SekishoError` when it
    cannot be told.
    """
    steps = [(one.host, one.packet["iif"], one.packet["oif"]) for one in found.steps]
    for host, *both in steps:
        for one in tunnels_of(site, site.machines[host]):
            if one.interface in both:
                raise through_tunnel(host, one.interface)
    start, end = (site.peers.get(name) for name in ends)
    source = start.address if start else site.machines[ends[0]].interfaces[steps[0][2]].address
    target = end.address if end else site.machines[ends[1]].interfaces[steps[-1][1]].address
    names = [*ends[: bool(start)], *(host for host, _, _ in steps), *(ends[1:] if end else ())]
    stages = []
    for place, (host, iif, oif) in enumerate(steps):
        via: IPv4Address | None = None
        asked: tuple[IPv4Address, str] | None = None
        if place + 1 < len(steps):
            after, card, _ = steps[place + 1]
            near = site.machines[after].interfaces[card].address
            via, asked = (None if near == target else near), (near, after)
        elif end is not None:
            via, asked = end.router, (end.router or target, "")
        at = names.index(host)
        came = seal(site, names[at - 1], host) if at else None
        goes = seal(site, host, names[at + 1]) if at + 1 < len(names) else None
        faces = None
        if start is not None and not place:
            faces = (site.machines[host].interfaces[iif].address, start.router or start.address)
        way = found.steps[place].way
        stages.append(Stage(host, way, iif, oif, via, asked, faces, came=came, goes=goes))
    protocol = what.protocol
    if protocol is None:
        protocol = PROTOCOLS.get(found.steps[0].packet["protocol"], 0)
    leg = Leg("packet", source, target, protocol, 0, what.port or 0, tuple(stages))
    return delivery.stopped(
        leg, lambda leg, passages: [*placed(leg, passages), *(what.holds(one) for one in passages)]
    )


def _is(one: Passage, side: str, address: IPv4Address) -> Bool:
    return z3.And(z3.Not(one.packet.six), one.packet.field("ip", side) == int(address))


def _ways(network: Network, site: Site, ends: tuple[str, str]) -> Iterator[Way]:
    ways = Ways(network, site, "")
    start, end = ends
    out = [link.name for link in site.links.values() if end in link.between]
    if start in site.machines:
        targets = frozenset({end} if end in site.machines else ())
        yield from ways.from_host(start, targets, out if end in site.peers else [])
        return
    links = [link.name for link in site.links.values() if start in link.between]
    if end in site.machines:
        yield from ways.from_outside(links, frozenset({end}))
    else:
        yield from ways.through(links, out)
