"""Where a host's kernel sends a packet, and whether it takes one in: as terms for a solver. Pure.

Addresses are given; what a routing rule asks of ports is a term, since a program may choose its
own. Every question returns a `Check`: when it holds, and else which fact stands against it.
Source: ``fib_rules.c``, ``fib_trie.c`` (``fib_table_lookup``), ``fib_frontend.c``
(``__fib_validate_source``), ``route.c`` (``ip_route_input_slow``, ``ip_route_output_key``),
``arp.c``, ``xfrm_policy.c``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import z3

from sekisho.core.text import is_number
from sekisho.prover.hostnet import HostNet, Route, RoutingRule, XfrmPolicy
from sekisho.prover.packet import Bits, Bool
from sekisho.prover.tables import UnknownConstructError

TRUE, FALSE = z3.BoolVal(True), z3.BoolVal(False)
_NOBODY = IPv4Address(0)
#: Reserved values of arp_ignore count as 0 (``arp_ignore``).
_ARP_ANSWERS_ANY, _ARP_ANSWERS_NONE = (0, 4, 5, 6, 7), 8


@dataclass(frozen=True, slots=True)
class Check:
    """Whether something a packet needs is so: when it holds, and what stands against it."""

    holds: Bool
    against: tuple[tuple[Bool, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Talk:
    """What routing and IPsec see of a packet: ends, protocol, ports (a number or a term)."""

    source: IPv4Address
    target: IPv4Address
    protocol: int
    sport: Bits
    dport: Bits

    def back(self) -> Talk:
        """Return the packet's mirror: what the check of its source asks the tables for."""
        return Talk(self.target, self.source, self.protocol, self.dport, self.sport)

    def unbound(self) -> Talk:
        """Return what the kernel knows before it has chosen a source."""
        return Talk(_NOBODY, self.target, self.protocol, z3.BitVecVal(0, 16), self.dport)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A routing decision: the rule, and the route it led to (None: it refuses, or none does)."""

    rule: RoutingRule | None
    route: Route | None

    @property
    def kind(self) -> str:
        """Return what becomes of the packet: unicast, local, or why it goes nowhere."""
        if self.route is not None:
            return self.route.kind
        return self.rule.action if self.rule is not None else "none"

    def told(self) -> str:
        """Return the decision for a reader."""
        if self.route is None:
            return str(self.rule) if self.rule is not None else "no route"
        by = f" by {self.rule}" if self.rule is not None and not _standard(self.rule) else ""
        return f"route {self.route}{by}"


def _standard(rule: RoutingRule) -> bool:
    return (rule.priority, rule.table) in ((0, 255), (32766, 254), (32767, 253))


def number(net: HostNet, card: str, key: str, *, both: bool = True) -> int:
    """Return a setting of a card; with ``both``, the greater of its own and that of ``all``."""
    found = []
    for one in (card, "all") if both else (card,):
        name = f"net.ipv4.conf.{one}.{key}"
        text = net.switches.get(name, "")
        if not is_number(text):
            raise UnknownConstructError(f"{net.host} {name}", text or "nothing", "a number")
        found.append(int(text))
    return max(found)


def setting(net: HostNet, card: str, key: str) -> str:
    """Return the name and value of the setting that counts, as a reader looks it up."""
    for one in ("all", card):
        value = net.switches.get(f"net.ipv4.conf.{one}.{key}", "")
        if value == str(number(net, card, key)):
            return f"net.ipv4.conf.{one}.{key} = {value}"
    return f"net.ipv4.conf.{card}.{key}"


def decide(net: HostNet, talk: Talk, iif: str) -> Iterator[tuple[Bool, Chosen]]:
    """Yield every decision a packet may get, each with when; ``iif`` lo: made here."""
    left: Bool = TRUE
    for rule in net.rules:
        match = _matches(rule, talk, iif)
        if z3.is_false(match):
            continue
        chosen = _in_table(net, rule, talk)
        if chosen is None:
            continue
        yield z3.simplify(z3.And(left, match)), chosen
        left = z3.simplify(z3.And(left, z3.Not(match)))
        if z3.is_false(left):
            return
    yield left, Chosen(None, None)


def _matches(rule: RoutingRule, talk: Talk, iif: str) -> Bool:
    found: list[Bool] = [z3.BoolVal(
        (talk.source in rule.sources)
        and talk.target in rule.targets
        and (not rule.iif or (rule.iif == iif and not rule.detached))
        and rule.protocol in (0, talk.protocol)
    )]  # fmt: skip
    for span, port in ((rule.sports, talk.sport), (rule.dports, talk.dport)):
        if span is not None:
            found.append(z3.And(z3.UGE(port, span[0]), z3.ULE(port, span[1])))
    match = z3.simplify(z3.And(*found))
    return z3.simplify(z3.Not(match)) if rule.inverted else match


def _in_table(net: HostNet, rule: RoutingRule, talk: Talk) -> Chosen | None:
    """Return what a rule's table says; None: nothing, and the next rule is asked."""
    if rule.action:
        return Chosen(rule, None)
    fitting = [
        one for one in net.routes
        if one.table == rule.table and talk.target in one.network and not one.gone
        and not (one.linkdown and _ignored(net, one))
    ]  # fmt: skip
    if not fitting:
        return None
    best = min(fitting, key=lambda one: (-one.network.prefixlen, one.metric))
    if best.kind == "throw" or best.network.prefixlen <= rule.suppress:
        return None
    return Chosen(rule, best)


def _ignored(net: HostNet, route: Route) -> bool:
    return bool(number(net, route.device, "ignore_routes_with_linkdown"))


def among(net: HostNet, talk: Talk, iif: str, good: Any, said: str) -> Check:
    """Return the check that the decision is ``good``; ``said`` explains one that is not."""
    holds, against = [], []
    for when, chosen in decide(net, talk, iif):
        if good(chosen):
            holds.append(when)
        else:
            against.append((when, f"{chosen.told()}{said}"))
    return Check(z3.simplify(z3.Or(*holds)), tuple(against))


def source_valid(net: HostNet, talk: Talk, iif: str, oif: str, *, decrypted: bool) -> Check:
    """Return whether the kernel takes a packet's source for one that may come by ``iif``.

    What IPsec decrypted is not asked (``fib_validate_source``): only its own address is refused.
    """
    strict = 0 if decrypted else number(net, iif, "rp_filter")
    if number(net, iif, "accept_local", both=True) and not strict:
        return Check(TRUE)
    if not strict:
        own = talk.source in net.own
        told = f"{talk.source} is its own address, and came by {iif}"
        return Check(z3.BoolVal(not own), ((TRUE, told),))

    def good(chosen: Chosen) -> bool:
        if chosen.route is None or chosen.kind not in ("unicast", "local"):
            return False
        if chosen.kind == "local" and not number(net, iif, "accept_local"):
            return False
        return strict == 2 or chosen.route.device == iif

    told = f" to {talk.source}, which came by {iif}: {setting(net, iif, 'rp_filter')}"
    return among(net, talk.back(), oif or "lo", good, told)


def source_chosen(net: HostNet, talk: Talk) -> Check:
    """Return whether the kernel itself gives a packet made here the source it should have."""
    holds, against = [], []
    for when, chosen in decide(net, talk.unbound(), "lo"):
        found = _source(net, chosen, talk.target)
        if found == talk.source:
            holds.append(when)
        elif chosen.kind != "unicast":
            against.append((when, f"{chosen.told()} to {talk.target}"))
        else:
            told = f"it would speak as {found or 'nobody'}, not as {talk.source}: {chosen.told()}"
            against.append((when, told))
    return Check(z3.simplify(z3.Or(*holds)), tuple(against))


def _source(net: HostNet, chosen: Chosen, target: IPv4Address) -> IPv4Address | None:
    if chosen.route is None or chosen.kind != "unicast":
        return None
    if chosen.route.source is not None:
        return chosen.route.source
    return speaks_as(net, chosen.route.device, chosen.route.via or target)


def speaks_as(net: HostNet, card: str, target: IPv4Address) -> IPv4Address | None:
    """Return the address a card speaks with to a neighbour (``inet_select_addr``).

    Of the neighbour's network, else its first, else another card's.
    """
    held = net.cards[card].addresses if card in net.cards else ()
    others = [one for name, other in net.cards.items() if name != "lo" for one in other.addresses]
    near = [one for one in held if target in one.network]
    return next((one.ip for one in (*near, *held, *others)), None)


def asks_as(
    net: HostNet, card: str, target: IPv4Address, source: IPv4Address
) -> IPv4Address | None:
    """Return the address by which ARP asks for a packet's next hop (``arp_solicit``)."""
    announce = number(net, card, "arp_announce")
    held = net.cards[card].addresses if card in net.cards else ()
    near = any(source in one.network and target in one.network for one in held)
    if source in net.own and (announce == 0 or (announce == 1 and near)):
        return source
    return speaks_as(net, card, target)


def answers_arp(net: HostNet, card: str, asked: IPv4Address, asker: IPv4Address) -> list[Check]:
    """Return whether a host answers a neighbour that asks for one of its addresses."""
    ignore, talk = number(net, card, "arp_ignore"), _arp(asker, asked)
    here = any(one.ip == asked for one in net.cards[card].addresses)
    fits = ignore in _ARP_ANSWERS_ANY or (ignore != _ARP_ANSWERS_NONE and here)
    told = f"it does not answer for {asked} at {card}: {setting(net, card, 'arp_ignore')}"
    found = [
        Check(z3.BoolVal(fits), ((TRUE, told),)),
        among(net, talk, card, lambda one: one.kind == "local", f" to {asked}, asked for by ARP"),
        source_valid(net, talk, card, "", decrypted=False),
    ]
    if number(net, card, "arp_filter"):
        told = f" to {asker}: {setting(net, card, 'arp_filter')}"
        found.append(among(net, talk.back(), "lo", lambda one: one.route is not None
                           and one.route.device == card, told))  # fmt: skip
    return found


def _arp(source: IPv4Address, target: IPv4Address) -> Talk:
    none = z3.BitVecVal(0, 16)
    return Talk(source, target, 0, none, none)


def policy_for(net: HostNet, direction: str, talk: Talk, card: str) -> Iterator[
    tuple[Bool, XfrmPolicy | None]
]:  # fmt: skip
    """Yield the IPsec policies a packet may fall under, each with when; None: none does.

    Raises `UnknownConstructError` for two that tie and say different things.
    """
    listed = [
        one for one in net.policies
        if one.direction == direction and talk.source in one.sources
        and talk.target in one.targets and one.protocol in (0, talk.protocol)
        and one.device in ("", card)
    ]  # fmt: skip
    left: Bool = TRUE
    for one in sorted(listed, key=lambda one: one.priority):
        same = [two for two in listed if two.priority == one.priority]
        if len({(two.block, two.ends, two.reqid) for two in same}) > 1:
            raise UnknownConstructError(f"{net.host} {one}", "two of one priority", "one that wins")
        match = z3.simplify(z3.And(*[
            port == wanted for port, wanted in ((talk.sport, one.sport), (talk.dport, one.dport))
            if wanted
        ]))  # fmt: skip
        yield z3.simplify(z3.And(left, match)), one
        left = z3.simplify(z3.And(left, z3.Not(match)))
    yield left, None
