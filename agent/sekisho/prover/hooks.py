"""Chains and hooks: which packets come through, and by which rules. Pure.

``accept`` ends a base chain and the packet goes on to the next one at the hook; ``drop`` ends all.
``goto`` does not come back. Between the chains the kernel's own work stands at its priority:
putting fragments together, connection tracking, address translation, in which the chains of type
nat are asked, whatever priority they say. What stands at one priority runs in the order it was
registered, the last first (``nf_hook_entries_grow``); a listing does not say which, so every order
is tried. Source: nft(8), nf_tables_core.c, nf_conntrack_core.c, nf_nat_core.c.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import z3

from sekisho.prover.chance import Chance
from sekisho.prover.expressions import INVALID, NEW, UNTRACKED, Track
from sekisho.prover.packet import FALSE, FIELDS, TRUE, Bool, Packet, Write, all_of
from sekisho.prover.rewriting import anew, rewritten, settled, unsure
from sekisho.prover.statements import CHANGING, run
from sekisho.prover.tables import Chain, Rule, Rules, Table, UnknownConstructError

#: Priorities of the kernel's own work.
DEFRAGMENTING, TRACKING = -400, -200
NAT = {"prerouting": -100, "output": -100, "postrouting": 100, "input": 100}
#: Hooks where connections are looked up, and where the destination is translated.
_FIRST = ("prerouting", "output")
_RELATED = 4
_DEEP = 16
#: Rules walked at one host: jumps can multiply a short hostile listing beyond any machine.
MAX_WALKED = 20_000
#: What stands at one priority and changes packets: more have too many orders.
MAX_EQUAL = 4


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
    """A packet on its way through a host's hooks: what it is now, and whether it lives.

    Attributes:
        packet: the packet as it is now.
        track: what rules read of connection tracking now; ``found``: what tracking will find.
        tracked: the packet as connection tracking saw it: by this it knows a connection.
        translated: when a chain of type nat has given the connection its addresses.

    """

    rules: Rules
    packet: Packet
    track: Track
    found: Track
    tracked: Packet
    alive: Bool = TRUE
    translated: Bool = FALSE
    fired: list[Fired] = field(default_factory=list)
    walked: int = 0
    visits: Counter[str] = field(default_factory=Counter)

    def chance(self, where: str) -> Chance:
        """Return the choices of a rule or hook, apart from those of an earlier visit."""
        self.visits[where] += 1
        return Chance(self.packet.prefix, where, visited(self.visits[where]))


def visited(count: int) -> int:
    """Return which visit of a rule has choices of its own: each one."""
    return count


@dataclass(frozen=True, slots=True)
class _Step:
    """What stands at a priority of a hook; ``changes``: it may change the packet for others."""

    priority: int
    changes: bool
    take: Callable[[Trip], None]


@dataclass(slots=True)
class _End:
    accepted: list[Bool] = field(default_factory=list)
    dropped: list[Bool] = field(default_factory=list)
    translated: list[Bool] = field(default_factory=list)


def pass_hook(trip: Trip, hook: str, families: tuple[str, ...] = ("ip", "ip6", "inet")) -> None:
    """Take the trip through everything at ``hook``; ``trip.alive`` says what is left."""
    steps = list(_steps(trip.rules, hook, families))
    for _, group in itertools.groupby(sorted(steps, key=lambda one: one.priority),
                                      key=lambda one: one.priority):  # fmt: skip
        in_any_order(trip, hook, list(group))


def _steps(rules: Rules, hook: str, families: tuple[str, ...]) -> Iterator[_Step]:
    nat: list[_Step] = []
    for table, chain in rules.base(hook, families):
        changes = _changes(table)
        if hook in _FIRST and chain.priority == TRACKING:
            raise UnknownConstructError(
                chain.where, chain.priority, "a priority other than connection tracking's own"
            )  # fmt: skip
        if chain.kind == "nat":
            nat.append(_Step(chain.priority, changes, _at_nat(table, chain)))
        else:
            yield _Step(chain.priority, changes, _at(table, chain))
    if families == ("arp",):
        return
    if hook in _FIRST:
        yield _Step(TRACKING, changes=False, take=_find)
        early = any(one.priority <= DEFRAGMENTING for _, one in rules.base(hook, families))
        if early:  # a chain of this very priority: what it sees whole it may see in parts
            yield _Step(DEFRAGMENTING, changes=False, take=_put_together(hook))
    if rules.translates and hook in NAT:
        yield _Step(NAT[hook], changes=True, take=_nat(hook, nat))


def _at(table: Table, chain: Chain) -> Callable[[Trip], None]:
    return lambda trip: _base_chain(trip, table, chain, trip.alive, _End())


def _changes(table: Table) -> bool:
    """Return whether any rule of a table changes what other chains see of a packet."""
    return any(
        kind in CHANGING
        for chain in table.chains.values()
        for rule in chain.rules
        for statement in rule.statements
        if isinstance(statement, dict)
        for kind in statement
    )


def orders(group: list[_Step], where: str) -> list[tuple[_Step, ...]]:
    """Return the orders in which the kernel may run what stands at one priority."""
    if len(group) < 2 or not any(one.changes for one in group):
        return [tuple(group)]
    if len(group) > MAX_EQUAL:
        raise UnknownConstructError(
            where, f"{len(group)} chains of priority {group[0].priority}",
            f"at most {MAX_EQUAL} at one priority where one changes the packet",
        )  # fmt: skip
    return list(itertools.permutations(group))


def in_any_order(trip: Trip, hook: str, group: list[_Step]) -> None:
    """Take the trip through what stands at one priority, in whichever order."""
    listed = orders(group, hook)
    if len(listed) == 1:
        for step in listed[0]:
            step.take(trip)
        return
    before, left = trip.alive, []
    which = trip.chance(f"{hook} {group[0].priority}").anything("order of chains", 8)
    counts, seen = Counter(trip.visits), Counter(trip.visits)
    for number, order in enumerate(listed):
        trip.visits = Counter(counts)  # one order is taken: another is no second visit
        last = number == len(listed) - 1
        chosen = z3.UGE(which, number) if last else which == number
        trip.alive = all_of(before, chosen)
        for step in order:
            step.take(trip)
        left.append(trip.alive)
        seen |= trip.visits
    trip.alive, trip.visits = z3.Or(*left), seen


def _put_together(hook: str) -> Callable[[Trip], None]:
    """Return the step that makes one packet of fragments: chains before it saw one of them."""

    def step(trip: Trip) -> None:
        chance = trip.chance(f"{hook} {DEFRAGMENTING}")
        whole = chance.maybe("fragments put together")
        packet = anew(chance, trip.packet, whole)
        trip.packet = packet.with_(
            mark=z3.If(whole, chance.anything("mark", 32), packet.get("mark"))
        )

    return step


def _find(trip: Trip) -> None:
    """Let connection tracking find the packet's connection, unless a rule took it out before."""
    out = trip.track.state == UNTRACKED
    state = z3.If(out, z3.BitVecVal(UNTRACKED, 32), trip.found.state)
    trip.track = Track(state, trip.found.reply)
    trip.tracked = trip.packet.entering()


def _at_nat(table: Table, chain: Chain) -> Callable[[Trip], None]:
    def step(trip: Trip) -> None:
        end = _End()
        _base_chain(trip, table, chain, all_of(trip.alive, z3.Not(trip.translated)), end)
        trip.translated = z3.Or(trip.translated, *end.translated)

    return step


def _nat(hook: str, chains: list[_Step]) -> Callable[[Trip], None]:
    """Return the step of address translation with the chains of type nat it asks.

    They are asked of a packet that is new, until one of them translates; a second new packet of
    the same connection, and each later one, is translated as the first was.
    """

    def step(trip: Trip) -> None:
        chance = trip.chance(f"{hook} nat")
        state = trip.track.state
        first = all_of(z3.Or(state == NEW, state == _RELATED), asked(chance))
        before, trip.alive = trip.alive, all_of(trip.alive, first)
        trip.translated = FALSE
        ordered = sorted(chains, key=lambda one: one.priority)
        for _, group in itertools.groupby(ordered, key=lambda one: one.priority):
            in_any_order(trip, f"{hook} nat", list(group))
        trip.alive = z3.Or(trip.alive, all_of(before, z3.Not(first)))
        # At the last hooks a source port may have to change though no rule says so.
        as_before = trip.track.known
        if hook in _FIRST:
            as_before = all_of(as_before, z3.Not(first))
        trip.packet = translated(chance, trip.packet, as_before, helped=trip.rules.expects)

    return step


def asked(chance: Chance) -> Bool:
    """Return whether the nat chains are asked of a new packet: not of a connection's second one."""
    return chance.maybe("nat chains are asked")


def translated(chance: Chance, packet: Packet, done: Bool, *, helped: bool) -> Packet:
    """Return a packet of a connection with whatever addresses and ports it may get.

    ``helped``: a helper may write other data into it besides.
    """
    writes = []
    for base, protocol, width in (("nh4", "ip", 32), ("nh6", "ip6", 128)):
        for side in ("saddr", "daddr"):
            _, offset, _, _ = FIELDS[protocol, side]
            writes.append((base, Write(offset, width, done, chance.anything(side, width))))
    errors = z3.Or(packet.protocol == 1, packet.protocol == 58)
    quoted = Write(32, 128, all_of(done, errors), chance.anything("quoted packet", 128))
    ports = Write(0, 32, all_of(done, z3.Not(errors)), chance.anything("ports", 32))
    writes += [("th", quoted), ("th", ports)]
    found = rewritten(chance, packet, done, writes)
    if not helped:
        return found
    rest = Write(32, 64, all_of(done, z3.Not(errors)), chance.anything("sequence numbers", 64))
    sizes = {name: z3.If(done, chance.anything(name, 16), value)
             for name, value in (("size", found.size), ("size6", found.size6))}  # fmt: skip
    length = Write(16, 16, done, chance.anything("length", 16))
    length6 = Write(32, 16, done, chance.anything("length", 16))
    found = found.write("th", rest).write("nh4", length).write("nh6", length6)
    return found.with_(**sizes)


def pass_device_hook(trip: Trip, hook: str) -> None:
    """Take the trip through ingress or egress chains.

    Which devices they are at is left open, and so is what they leave: a packet can come by one
    device and another on top of it, and so through a chain twice, or by none of a chain's.
    """
    track, into, out = trip.track, trip.packet.get("iif"), trip.packet.get("oif")
    for table, chain in trip.rules.base(hook, ("netdev", "inet")):
        skipped = z3.Bool(f"{trip.packet.prefix}?device of {chain.where}")
        chance = trip.chance(chain.where)
        before, trip.alive = trip.alive, all_of(trip.alive, z3.Not(skipped))
        was = trip.packet
        trip.track = none = Track(z3.BitVecVal(INVALID, 32), FALSE)
        trip.packet = was.with_(iif=chance.anything("device", 128),
                                oif=chance.anything("device", 128))  # fmt: skip
        _base_chain(trip, table, chain, trip.alive, _End())
        if trip.track is not none:
            raise UnknownConstructError(chain.where, "notrack or a zone", "neither at a device")
        trip.packet = unsure(chance, was, trip.packet.with_(iif=into, oif=out))
        trip.track = track
        trip.alive = z3.Or(trip.alive, all_of(before, skipped))


def _base_chain(trip: Trip, table: Table, chain: Chain, applies: Bool, end: _End) -> None:
    if table.family == "ip":
        applies = all_of(applies, z3.Not(trip.packet.six))
    elif table.family == "ip6":
        applies = all_of(applies, trip.packet.six)
    trip.packet = trip.packet.entering()
    left = _chain(trip, table, chain, applies, end, 0)
    trip.packet = settled(trip.chance(f"{chain.where} end"), trip.packet).entering()
    if chain.policy == "drop":
        trip.fired.append(Fired(left, f"{chain.where} policy", "drop"))
        end.dropped.append(left)
    else:
        trip.fired.append(Fired(left, f"{chain.where} policy", "accept"))
    trip.alive = all_of(trip.alive, z3.Not(z3.Or(*end.dropped)))


def _chain(  # noqa: C901, PLR0912, PLR0913, PLR0917 - the state of a walk
    trip: Trip, table: Table, chain: Chain, alive: Bool, end: _End, deep: int
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
        effect = run(rule, table, trip.packet, trip.track, alive, trip.chance(rule.where))
        trip.packet, trip.track = effect.packet, effect.track
        end.translated += effect.translated
        stays: list[Bool] = []
        comes_back: list[Bool] = []
        for condition, verdict, target in effect.verdicts:
            here = all_of(alive, condition)
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
                left = _chain(trip, table, called, here, end, deep + 1)
                (comes_back if verdict == "jump" else back).append(left)
        if stays:
            alive = all_of(alive, z3.Not(z3.Or(*stays)))
            if comes_back:
                alive = z3.Or(alive, *comes_back)
    return z3.Or(alive, *back) if back else alive


def _note(trip: Trip, rule: Rule, when: Bool, verdict: str, target: str) -> None:
    told = f"{verdict} {target}".strip()
    trip.fired.append(Fired(when, rule.where, told, rule.comment, rule.handle))
