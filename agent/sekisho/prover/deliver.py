"""Deliverability: that what is declared gets through at all, with what stops it if not. Pure.

The laws say what must never pass, whatever the routes; this is the other half, and rests on them:
for each leg of a relation the solver is asked for one packet that every host's facts carry and
every packet filter passes. Without one the first fact or rule that is to blame is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import z3

from sekisho.core.errors import SekishoError, printable
from sekisho.policy.parts import ESP, ICMP, TCP, UDP
from sekisho.prover.arp import arp_checks
from sekisho.prover.findings import Finding, Outcome
from sekisho.prover.hostnet import HostNet
from sekisho.prover.network import Network, on, unknown
from sekisho.prover.packet import Bool
from sekisho.prover.passage import ESTABLISHED, NEW, Passage
from sekisho.prover.relations import (
    ANSWERS,
    CARRIES,
    OPENS,
    Leg,
    Relation,
    Seal,
    Stage,
    relations,
)
from sekisho.prover.routing import Check, Talk, number
from sekisho.prover.stages import checks
from sekisho.prover.tables import UnknownConstructError, at_host
from sekisho.site.model import Site

FORWARDS = "6-iv-e.nothing-forwarded"
#: TCP flags that say what a segment is: SYN, RST and FIN, ACK.
_SEGMENTS = {OPENS: 0x02, CARRIES: 0x10, ANSWERS: 0x12}
_PAYLOAD = 64
_TURNED = {"input": "output", "output": "input", "forward": "forward"}
#: By which ways the connection of a leg's packets began at each of its hosts.
_BEGUN: dict[str, Callable[[Leg], list[str]]] = {
    OPENS: lambda _: [],
    CARRIES: lambda leg: [one.way for one in leg.stages],
    ANSWERS: lambda leg: [_TURNED[one.way] for one in leg.stages],
}
#: What kind of packet is asked for, as terms at each of a leg's hosts.
Shape = Callable[[Leg, Sequence[Passage]], list[Bool]]


class Delivery:
    """What each host has, and questions about what gets through."""

    def __init__(
        self, network: Network, site: Site, nets: Mapping[str, HostNet | SekishoError]
    ) -> None:
        self.network = network
        self.nets = {host: net for host, net in nets.items() if isinstance(net, HostNet)}
        self.wrong = {host: bad for host, bad in nets.items() if isinstance(bad, SekishoError)}
        self.macs = {
            (machine.name, one.name): one.mac
            for machine in site.machines.values()
            for one in machine.interfaces.values()
        }

    def judge(self, relation: Relation) -> Finding:
        """Return whether every leg of a relation gets through."""
        law, name, hosts = relation.law, relation.name, relation.hosts
        compiled = [host for host in hosts if host in self.nets and not self.nets[host].live]
        reason = f"{', '.join(compiled)} as compiled" if 0 < len(compiled) < len(hosts) else ""
        try:
            if relation.tunnel:
                raise through_tunnel(name, relation.tunnel)
            for leg in relation.legs:
                if stopped := self.stopped(leg):
                    told = "; ".join(one for one in (stopped, reason) if one)
                    return Finding(law, name, Outcome.UNDELIVERABLE, reason=told, hosts=hosts)
        except SekishoError as bad:
            return unknown(law, name, hosts, bad)
        return Finding(law, name, Outcome.PROVEN, hosts=hosts, reason=reason)

    def forwards_nothing(self, host: str) -> Finding:
        """Return whether a host that nothing declared passes through has forwarding off."""
        try:
            if host in self.wrong or host not in self.nets:
                raise self.wrong.get(host) or UnknownConstructError(host, "nothing", "its facts")
            net = self.nets[host]
            on = [card for card in net.cards if number(net, card, "forwarding", both=False)]
        except SekishoError as bad:
            return unknown(FORWARDS, host, (host,), bad)
        told = ", ".join(f"net.ipv4.conf.{printable(card)}.forwarding = 1" for card in on)
        outcome = Outcome.REFUTED if on else Outcome.PROVEN
        return Finding(FORWARDS, host, outcome, reason=told, hosts=(host,))

    def stopped(self, leg: Leg, shape: Shape | None = None) -> str:
        """Return what stops a leg, "" when some packet of it gets through.

        ``shape``: what packets count; without it, the leg's regular ones.

        Raises `SekishoError` when that cannot be told.
        """
        shape = shape or packet_terms
        passages = [self._passage(stage) for stage in leg.stages]
        terms = shape(leg, passages)
        facts = [one for place in range(len(leg.stages)) for one in self._facts(leg, place)]
        needed = [check.holds for _, check in facts]
        begun = _BEGUN[leg.kind](leg) if shape is packet_terms else None
        if self.network.passes_some(passages, [*terms, *needed], begun):
            return ""
        for host, check in facts:
            if not self.network.holds([*terms, check.holds]):
                told = next((text for when, text in check.against
                             if self.network.holds([*terms, when])), "a fact")  # fmt: skip
                return f"{leg.kind}: {host}: {told}"
        for stage, one in zip(leg.stages, passages, strict=True):
            if rule := self.network.stopped_by(one, shape(leg, [one])):
                return f"{leg.kind}: {stage.host}: {rule}"
        hosts = ", ".join(stage.host for stage in leg.stages)
        return f"{leg.kind}: no one packet suits every fact and rule of {hosts}"

    def _passage(self, stage: Stage) -> Passage:
        """Return the translated way through a host whose facts and rules are known."""
        host = stage.host
        if host in self.wrong:
            raise self.wrong[host]
        if host not in self.nets or host not in self.network.rules:
            raise UnknownConstructError(host, "nothing to be read", "its facts and its rules")
        if self.network.rules[host].translates:
            raise UnknownConstructError(host, "address translation", "none")
        with at_host(host):
            return self.network.way(host, stage.way)

    def _facts(self, leg: Leg, place: int) -> Iterator[tuple[str, Check]]:
        talk = _talk(leg, self.network.way(leg.stages[0].host, leg.stages[0].way))
        yield from checks(self.nets, leg, place, talk, self.macs)
        yield from arp_checks(self.network, self.nets, leg, place)


def deliverable(
    network: Network,
    site: Site,
    nets: Mapping[str, HostNet | SekishoError],
    hosts: Sequence[str] = (),
    *,
    clock: Callable[[], float] = lambda: 0.0,
) -> Iterator[Finding]:
    """Yield a finding for everything the site declares that has to get through.

    Args:
        network: every host's rules.
        site: what is declared.
        nets: what every host routes by, or why nobody knows.
        hosts: only what touches one of these (none named: everything).
        clock: gives seconds for `Finding.milliseconds`.

    """
    delivery = Delivery(network, site, nets)
    through = {flow.via for flow in site.flows.values()}
    for host in site.machines:
        if host not in through and host in (hosts or site.machines):
            yield delivery.forwards_nothing(host)
    for relation in relations(site):
        if not hosts or set(hosts) & set(relation.hosts):
            start = clock()
            found = delivery.judge(relation)
            yield replace(found, milliseconds=round(1000 * (clock() - start)))


def through_tunnel(where: str, tunnel: str) -> UnknownConstructError:
    """Return the error of a way through a WireGuard tunnel, of which nothing can be told yet."""
    expected = "a card: what WireGuard lets through is not known from rules and routes"
    return UnknownConstructError(where, tunnel, expected)


def _talk(leg: Leg, first: Passage) -> Talk:
    """Return what routing sees; a port the site leaves open is the packet's own."""

    def port(side: str, value: int) -> Any:
        if leg.protocol not in (TCP, UDP):
            return z3.BitVecVal(0, 16)
        return z3.BitVecVal(value, 16) if value else first.packet.field("th", side)

    return Talk(leg.source, leg.target, leg.protocol, port("sport", leg.sport),
                port("dport", leg.dport))  # fmt: skip


def packet_terms(leg: Leg, passages: Sequence[Passage]) -> list[Bool]:
    """Return what a leg's regular packet is, at each of its hosts in turn."""
    found: list[Bool] = []
    for one in passages:
        answers = leg.kind == ANSWERS
        found += [one.track.state == (NEW if leg.kind == OPENS else ESTABLISHED),
                  one.track.reply if answers else z3.Not(one.track.reply)]  # fmt: skip
    return found + placed(leg, passages) + _shape(leg, passages[0])


def placed(leg: Leg, passages: Sequence[Passage]) -> list[Bool]:
    """Return where a leg's packets come and go, by which IPsec, and that they keep their ends."""
    found: list[Bool] = []
    for one in passages:
        stage = next(stage for stage in leg.stages if stage.host == one.host)
        found.append(on(one, iif=stage.iif or None, oif=stage.oif or None))
        found += _sealed(one, "in", stage.came) + _sealed(one, "out", stage.goes)
        for packet in (one.packet, one.left):  # routing took it for what it was
            found += [z3.Not(packet.six), packet.field("ip", "saddr") == int(leg.source),
                      packet.field("ip", "daddr") == int(leg.target),
                      packet.field("ip", "protocol") == leg.protocol]  # fmt: skip
        found.append(z3.UGT(one.packet.field("ip", "ttl"), 1))
    return found


def _sealed(one: Passage, way: str, seal: Seal | None) -> list[Bool]:
    flag = one.packet.flag(f"ipsec-{way}")
    if seal is None:
        return [z3.Not(flag)]
    found = [flag]
    if seal.reqid:
        found.append(one.packet.get(f"ipsec {way} reqid 0", 32) == seal.reqid)
    for key, address in zip(("saddr", "daddr"), seal.ends, strict=True):
        found.append(one.packet.get(f"ipsec {way} {key} 0", 32) == int(address))
    return found


def _shape(leg: Leg, one: Passage) -> list[Bool]:
    packet = one.packet
    found: list[Bool] = [
        packet.field("ip", "hdrlength") == 5,
        packet.bits("nh4", 50, 14) == 0,
        packet.get("mark") == 0,
    ]
    size = packet.transport_length
    if leg.protocol in (TCP, UDP):
        for side, port in (("sport", leg.sport), ("dport", leg.dport)):
            held = packet.field("th", side)
            found.append(held == port if port else z3.UGE(held, 1024))
    if leg.protocol == TCP:
        head = z3.ZeroExt(10, z3.Concat(packet.field("tcp", "doff"), z3.BitVecVal(0, 2)))
        found += [
            z3.UGE(packet.field("tcp", "doff"), 5),
            (packet.field("tcp", "flags") & 0x17) == _SEGMENTS[leg.kind],
            size == head + (_PAYLOAD if leg.kind == CARRIES else 0),
        ]
    elif leg.protocol == UDP:
        found += [size == 8 + _PAYLOAD, packet.field("udp", "length") == 8 + _PAYLOAD]
    elif leg.protocol == ICMP:
        found += [size == 8 + _PAYLOAD, packet.bits("th", 8, 8) == 0,
                  packet.bits("th", 0, 8) == (0 if leg.kind == ANSWERS else 8)]  # fmt: skip
    elif leg.protocol == ESP:
        found.append(size == 8 + _PAYLOAD)
    return found
