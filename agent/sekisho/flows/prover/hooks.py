"""Chains and hooks: which packets come through, and by which rules. Pure.

``accept`` ends a base chain and the packet goes on to the next one at the hook; ``drop`` ends all.
``goto`` does not come back. Source: nft(8), and nf_tables_core.c for what happens at a chain's end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import z3

from sekisho.flows.prover.expressions import FALSE, TRUE, Track
from sekisho.flows.prover.packet import Bool, Packet
from sekisho.flows.prover.rules import Chain, Rule, Rules, Table, UnknownConstructError
from sekisho.flows.prover.statements import run

#: Priority of connection tracking: chains before it see no connection.
TRACKING = -200
_DEEP = 16
#: Rules walked at one host: jumps can multiply a short hostile listing beyond any machine.
MAX_WALKED = 20_000


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule or policy that gives a verdict, and when it does."""

    when: Bool
    where: str
    verdict: str
    comment: str = ""
    handle: int = 0


@dataclass(slots=True)
class Trip:
    """A packet on its way through a host's hooks: what it is now, and whether it lives."""

    rules: Rules
    packet: Packet
    track: Track
    alive: Bool = TRUE
    untracked: Bool = FALSE
    fired: list[Fired] = field(default_factory=list)
    walked: int = 0


@dataclass(slots=True)
class _End:
    accepted: list[Bool] = field(default_factory=list)
    dropped: list[Bool] = field(default_factory=list)


def pass_hook(trip: Trip, hook: str, families: tuple[str, ...] = ("ip", "ip6", "inet")) -> None:
    """Take the trip through every base chain at ``hook``; ``trip.alive`` says what is left."""
    for table, chain in trip.rules.base(hook, families):
        if chain.priority == TRACKING:
            raise UnknownConstructError(
                chain.where, chain.priority, "a priority other than connection tracking's own"
            )  # fmt: skip
        early = chain.priority < TRACKING
        track = trip.track
        if hook in ("prerouting", "output"):
            state = z3.BitVecVal(1, 32) if early else trip.track.state
            track = Track(z3.If(trip.untracked, z3.BitVecVal(64, 32), state), trip.track.reply)
        _base_chain(trip, table, chain, track)


def pass_device_hook(trip: Trip, hook: str) -> None:
    """Take the trip through ingress or egress chains; which devices they are at is left open."""
    none = Track(z3.BitVecVal(1, 32), FALSE)
    for table, chain in trip.rules.base(hook, ("netdev", "inet")):
        skipped = z3.Bool(f"{trip.packet.prefix}?device of {chain.where}")
        before = trip.alive
        trip.alive = z3.And(before, z3.Not(skipped))
        _base_chain(trip, table, chain, none)
        trip.alive = z3.Or(trip.alive, z3.And(before, skipped))


def _base_chain(trip: Trip, table: Table, chain: Chain, track: Track) -> None:
    applies = trip.alive
    if table.family == "ip":
        applies = z3.And(applies, z3.Not(trip.packet.six))
    elif table.family == "ip6":
        applies = z3.And(applies, trip.packet.six)
    if chain.kind == "nat":  # only the first packet of a connection is asked
        applies = z3.And(applies, track.state == 8)
    end = _End()
    left = _chain(trip, table, chain, track, applies, end, 0)
    if chain.policy == "drop":
        trip.fired.append(Fired(left, f"{chain.where} policy", "drop"))
        end.dropped.append(left)
    else:
        trip.fired.append(Fired(left, f"{chain.where} policy", "accept"))
    trip.alive = z3.And(trip.alive, z3.Not(z3.Or(*end.dropped)))


def _chain(  # noqa: C901, PLR0912, PLR0913, PLR0917 - the state of a walk
    trip: Trip, table: Table, chain: Chain, track: Track, alive: Bool, end: _End, deep: int
) -> Bool:
    """Walk one chain and return when it comes back to its caller."""
    if deep > _DEEP:
        raise UnknownConstructError(chain.where, "a ring of jumps", f"at most {_DEEP} deep")
    back: list[Bool] = []
    for rule in chain.rules:
        if z3.is_false(alive):
            break
        trip.walked += 1
        if trip.walked > MAX_WALKED:
            raise UnknownConstructError(chain.where, "jumps", f"at most {MAX_WALKED} rules walked")
        effect = run(rule, table, trip.packet, track, alive)
        trip.packet = effect.packet
        if not z3.is_false(effect.untracked):
            trip.untracked = z3.Or(trip.untracked, effect.untracked)
        match = z3.And(alive, effect.match)
        stays: list[Bool] = []
        comes_back: list[Bool] = []
        for condition, verdict, target in effect.verdicts:
            here = z3.And(match, condition)
            if verdict == "continue":
                continue
            stays.append(condition)
            _note(trip, rule, here, verdict, target)
            if verdict == "accept":
                end.accepted.append(here)
            elif verdict == "drop":
                end.dropped.append(here)
            elif verdict == "return":
                back.append(here)
            else:
                called = table.chains.get(target)
                if called is None:
                    raise UnknownConstructError(rule.where, target, "a chain of this table")
                left = _chain(trip, table, called, track, here, end, deep + 1)
                (comes_back if verdict == "jump" else back).append(left)
        if stays:
            stopped = z3.And(effect.match, z3.Or(*stays))
            alive = z3.And(alive, z3.Not(stopped))
            if comes_back:
                alive = z3.Or(alive, *comes_back)
    return z3.Or(alive, *back) if back else alive


def _note(trip: Trip, rule: Rule, when: Bool, verdict: str, target: str) -> None:
    told = f"{verdict} {target}".strip()
    trip.fired.append(Fired(when, rule.where, told, rule.comment, rule.handle))
