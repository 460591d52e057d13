"""What one host has to do for a packet on its way, fact by fact. Pure.

A `Check` a fact: the interface, the address, the neighbour, forwarding, the route, the source's
check, IPsec. What the packet filter says is asked elsewhere, with the packet itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any

import z3

from sekisho.prover.hostnet import HostNet, XfrmPolicy
from sekisho.prover.packet import Bool
from sekisho.prover.relations import ANSWERS, Leg, Seal, Stage
from sekisho.prover.routing import (
    TRUE,
    Check,
    Chosen,
    Talk,
    among,
    answers_arp,
    asks_as,
    number,
    policy_for,
    setting,
    source_chosen,
    source_valid,
)

#: A neighbour's entry that asks nobody.
_FIXED = ("PERMANENT", "NOARP")


def checks(
    nets: Mapping[str, HostNet], leg: Leg, place: int, talk: Talk, macs: Mapping[Any, str]
) -> Iterator[tuple[str, Check]]:
    """Yield everything the host at ``place`` of a leg has to do, in the kernel's order.

    ``macs``: (host, interface) → the MAC address the site declares. With each check comes whose
    fact it is: a neighbour that answers no ARP is the neighbour's.
    """
    stage = leg.stages[place]
    net, host = nets[stage.host], stage.host
    for card in (stage.iif, stage.oif):
        if card:
            yield host, _card(net, card)
    if stage.faces is not None and stage.came is None and stage.iif in net.cards:
        yield from ((host, one) for one in answers_arp(net, stage.iif, *stage.faces))
    if stage.iif and not leg.outer:
        yield from ((host, one) for one in _came(net, stage, talk))
    yield from ((host, one) for one in _decided(net, stage, leg, talk))
    if stage.oif and not leg.outer:
        yield from ((host, one) for one in _goes(net, stage, talk))
    if stage.asked is not None and stage.goes is None:
        yield from _neighbour(nets, leg, place, macs)


def _card(net: HostNet, name: str) -> Check:
    card = net.cards.get(name)
    if card is None:
        return _never(f"no interface {name}")
    if not card.up:
        return _never(f"interface {name} is down")
    return Check(z3.BoolVal(card.carrier), ((TRUE, f"interface {name} has no carrier"),))


def _never(told: str) -> Check:
    return Check(z3.BoolVal(False), ((TRUE, told),))


def _decided(net: HostNet, stage: Stage, leg: Leg, talk: Talk) -> Iterator[Check]:
    """Yield the routing decision and what comes with it."""
    came = stage.came is not None
    if stage.way == "input":
        told = f": {talk.target} is no address of its own"
        yield among(net, talk, stage.iif, lambda one: one.kind == "local", told)
        yield source_valid(net, talk, stage.iif, "", decrypted=came)
        return
    if stage.way == "output":
        yield _owned(net, talk.source)
        if leg.kind != ANSWERS and not leg.outer:  # those are bound to their address
            yield source_chosen(net, talk)
    else:
        on = number(net, stage.iif, "forwarding", both=False) == 1
        yield Check(z3.BoolVal(on), ((TRUE, f"net.ipv4.conf.{stage.iif}.forwarding = 0"),))

    def good(chosen: Chosen) -> bool:
        route = chosen.route
        if route is None or chosen.kind != "unicast" or route.device != stage.oif:
            return False
        # By IPsec the route of the outer packet says who is next.
        wanted = (None, talk.target) if stage.via is None else (stage.via,)
        return stage.goes is not None or route.via in wanted

    by = f"{stage.via} " if stage.via is not None else ""
    told = f" for {talk.target}; declared is {by}dev {stage.oif}"
    yield among(net, talk, stage.iif or "lo", good, told)
    if stage.iif:
        yield source_valid(net, talk, stage.iif, stage.oif, decrypted=came)


def _owned(net: HostNet, address: IPv4Address) -> Check:
    local = any(one.kind == "local" and address in one.network for one in net.routes)
    told = f"no interface has the address {address}"
    return Check(z3.BoolVal(local or address in net.own), ((TRUE, told),))


def _came(net: HostNet, stage: Stage, talk: Talk) -> Iterator[Check]:
    way = "fwd" if stage.way == "forward" else "in"
    if stage.came is None and number(net, stage.iif, "disable_policy"):
        return
    yield _sealed(net, way, talk, stage.iif, stage.came)
    if stage.came is not None:
        yield _associated(net, stage.came)


def _goes(net: HostNet, stage: Stage, talk: Talk) -> Iterator[Check]:
    if number(net, stage.oif, "disable_xfrm"):
        if stage.goes is not None:
            yield _never(setting(net, stage.oif, "disable_xfrm"))
        return
    yield _sealed(net, "out", talk, stage.oif, stage.goes)
    if stage.goes is not None:
        yield _associated(net, stage.goes)


def _sealed(net: HostNet, way: str, talk: Talk, card: str, seal: Seal | None) -> Check:
    """Return whether the policy a packet falls under is the line's; none, on a line in clear."""
    holds: list[Bool] = []
    against = []
    for when, policy in policy_for(net, way, talk, card):
        if _fits(policy, seal):
            holds.append(when)
        elif policy is None:
            told = f"no xfrm policy {way} covers {talk.source} → {talk.target}"
            against.append((when, f"{told}, which is to be encrypted"))
        elif seal is None:
            against.append((when, f"{policy} covers what is to pass in clear"))
        else:
            told = f"{policy} is not the line's own: reqid {policy.reqid}, {policy.ends or 'clear'}"
            against.append((when, told))
    return Check(z3.simplify(z3.Or(*holds)), tuple(against))


def _fits(policy: XfrmPolicy | None, seal: Seal | None) -> bool:
    if seal is None:
        return policy is None or (policy.ends is None and not policy.block)
    return (
        policy is not None
        and not policy.block
        and policy.ends == tuple(map(str, seal.ends))
        and seal.reqid in (0, policy.reqid)
    )


def _associated(net: HostNet, seal: Seal) -> Check:
    ends = tuple(map(str, seal.ends))
    there = any(one[:2] == ends and seal.reqid in (0, one[2]) for one in net.associations)
    told = f"no association of ESP {ends[0]} → {ends[1]}, reqid {seal.reqid or 'any'}"
    return Check(z3.BoolVal(there), ((TRUE, told),))


def _neighbour(
    nets: Mapping[str, HostNet], leg: Leg, place: int, macs: Mapping[Any, str]
) -> Iterator[tuple[str, Check]]:
    """Yield whether the next hop's MAC address is known or will be told."""
    stage = leg.stages[place]
    assert stage.asked is not None  # noqa: S101 - the caller looked
    address, other = stage.asked
    net = nets[stage.host]
    state, mac = (net.neighbours or {}).get((stage.oif, str(address)), ("NONE", ""))
    answering = leg.stages[place + 1].iif if other else ""
    named = f"neighbour {address} dev {stage.oif}"
    if state in _FIXED:
        declared = macs.get((other, answering), mac)
        told = f"{named} is fixed to {mac or 'nothing'}, not {declared}"
        yield stage.host, Check(z3.BoolVal(mac.lower() == declared.lower()), ((TRUE, told),))
        return
    told = f"{named} did not answer ARP when it was last asked (FAILED)"
    yield stage.host, Check(z3.BoolVal(state != "FAILED"), ((TRUE, told),))
    if other and not learned(nets, leg, place):
        asker = asks_as(net, stage.oif, address, leg.source)
        if asker is None:
            yield stage.host, _never("no address to ask ARP with")
            return
        yield other, _card(nets[other], answering)
        if answering in nets[other].cards:
            for one in answers_arp(nets[other], answering, address, asker):
                yield other, one


def learned(nets: Mapping[str, HostNet], leg: Leg, place: int) -> bool:
    """Return whether a reply's next hop is known by the question that hop itself asked.

    Who is asked by ARP notes the asker (``arp_process``): the opening has told its way back.
    """
    stage = leg.stages[place]
    if leg.kind != ANSWERS or stage.asked is None:
        return False
    address, other = stage.asked
    if not other:
        return True  # what comes from outside asked us first
    card = leg.stages[place + 1].iif
    held = (
        nets[stage.host].cards[stage.oif].addresses if stage.oif in nets[stage.host].cards else ()
    )
    ours = held[0].ip if place and held else leg.source
    return asks_as(nets[other], card, ours, leg.target) == address
