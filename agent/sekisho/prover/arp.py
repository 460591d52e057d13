"""ARP at its own hooks: whether the tables of family arp let a question and its answer by. Pure.

A host that stands in a chain at a device, which sees ARP frames too, cannot be judged here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any

import z3

from sekisho.prover.constants import interface_number
from sekisho.prover.expressions import Track
from sekisho.prover.hooks import Trip, pass_hook
from sekisho.prover.hostnet import HostNet
from sekisho.prover.network import Network
from sekisho.prover.packet import Packet
from sekisho.prover.relations import Leg
from sekisho.prover.routing import TRUE, Check, asks_as
from sekisho.prover.stages import learned
from sekisho.prover.tables import Rules, UnknownConstructError, at_host, garbled

_ASKS, _ANSWERS = 1, 2


def arp_checks(
    network: Network, nets: Mapping[str, HostNet], leg: Leg, place: int
) -> Iterator[tuple[str, Check]]:
    """Yield whether both hosts' rules pass the ARP by which a stage finds its next hop."""
    stage = leg.stages[place]
    for card in (stage.iif, stage.oif):
        _no_device_chain(network.rules[stage.host], card)
    if stage.faces is not None and stage.came is None:
        ours, outside = stage.faces
        for hook, kind in (("input", _ASKS), ("output", _ANSWERS)):
            yield stage.host, _check(network, stage.host, hook, stage.iif, (kind, outside, ours))
    if stage.asked is None or stage.goes is not None or learned(nets, leg, place):
        return
    asked, other = stage.asked
    asker = asks_as(nets[stage.host], stage.oif, asked, leg.source)
    if asker is None:
        return  # told with the facts
    talk = (asker, asked)
    yield stage.host, _check(network, stage.host, "output", stage.oif, (_ASKS, *talk))
    yield stage.host, _check(network, stage.host, "input", stage.oif, (_ANSWERS, *talk))
    if other:
        card = leg.stages[place + 1].iif
        yield other, _check(network, other, "input", card, (_ASKS, *talk))
        yield other, _check(network, other, "output", card, (_ANSWERS, *talk))


def _no_device_chain(rules: Rules, card: str) -> None:
    for hook in ("ingress", "egress"):
        for _, chain in rules.base(hook, ("netdev", "inet")):
            if card and (not chain.devices or card in chain.devices):
                raise UnknownConstructError(
                    f"{rules.host} {chain.where}", "a chain at a device",
                    "none where ARP frames have to pass",
                )  # fmt: skip


def _check(
    network: Network, host: str, hook: str, card: str, told: tuple[int, IPv4Address, IPv4Address]
) -> Check:
    """Return whether ARP's question or answer, ``told``: kind, asker, asked, passes a hook."""
    rules = network.rules[host]
    if not rules.base(hook, ("arp",)):
        return Check(TRUE)
    kind, asker, asked = told
    packet = Packet(f"{host}.arp.{hook}.{card}.{kind}.{asked}").with_(
        **{"arp?": TRUE, "six": z3.BoolVal(False)}
    )
    track = Track(z3.BitVecVal(1, 32), z3.BoolVal(False))
    trip = Trip(rules, packet, track, track, packet)
    with at_host(host), garbled(host, z3.Z3Exception):
        pass_hook(trip, hook, ("arp",))
    source, target = (asker, asked) if kind == _ASKS else (asked, asker)
    terms: list[Any] = [
        packet.field("arp", "htype") == 1,
        packet.field("arp", "ptype") == 0x0800,
        packet.field("arp", "hlen") == 6,
        packet.field("arp", "plen") == 4,
        packet.field("arp", "operation") == kind,
        packet.field("arp", "saddr ip") == int(source),
        packet.field("arp", "daddr ip") == int(target),
        packet.get("iif" if hook == "input" else "oif") == interface_number(card),
        packet.get("oif" if hook == "input" else "iif") == 0,
        packet.get("mark") == 0,
    ]
    said = "question" if kind == _ASKS else "answer"
    if network.holds([*terms, trip.alive]):
        drop = next((one for one in trip.fired if one.verdict == "drop"
                     and network.holds([*terms, one.when])), None)  # fmt: skip
        if drop is not None:  # some pass, some do not: which the kernel sends is not modelled
            raise UnknownConstructError(f"{host} {drop.where}", "some ARP frames", "all or none")
        return Check(TRUE)
    dropped = next((one.where for one in trip.fired if one.verdict == "drop"
                    and network.holds([*terms, one.when])), hook)  # fmt: skip
    return Check(z3.BoolVal(False), ((TRUE, f"{dropped} drops the {said} of ARP for {asked}"),))
