"""A site's hosts with their rules, and questions to the solver about one or several of them. Pure.

A host's three ways are translated once; a path joins them by saying that the packet that leaves one
is the packet that comes to the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import z3

from sekisho.core.errors import SekishoError
from sekisho.prover.constants import interface_number
from sekisho.prover.findings import Finding, Outcome
from sekisho.prover.packet import Bool, Packet
from sekisho.prover.passage import NEW, Passage, history, passage, same_connection
from sekisho.prover.tables import Rules, garbled
from sekisho.prover.witness import Reading, tidy

#: Milliseconds one question may take before its answer is `error`.
TIMEOUT = 60_000
#: Accepting rules that are looked at when those to blame are told.
MAX_OPENINGS = 50
#: Choices that fall another way for another packet, sooner or later.
_RETRIED = ("limit", "quota", "ct count", "last", "meta time", "meta hour", "meta day", "numgen")


@dataclass(slots=True)
class Network:
    """Rules by host; ``gone`` names hosts whose rules are taken away for a question."""

    rules: Mapping[str, Rules]
    interfaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _ways: dict[tuple[str, str, bool], Passage] = field(default_factory=dict)
    _forward: dict[tuple[str, str, str], bool] = field(default_factory=dict)
    _history: dict[tuple[str, str, bool], tuple[Bool, list[tuple[Passage, Bool]]]] = field(
        default_factory=dict
    )
    _firsts: dict[tuple[str, str], Passage] = field(default_factory=dict)
    asked: int = 0

    def way(self, host: str, way: str, *, gone: bool = False) -> Passage:
        """Return the translated way through a host.

        Raises `UnknownConstructError` for rules without a meaning here.
        """
        key = (host, way, gone)
        if key not in self._ways:
            rules = None if gone else self.rules[host]
            name = f"{host}.{way}{'.gone' if gone else ''}"
            self._ways[key] = self._passage(rules, way, name, host)
        return self._ways[key]

    @staticmethod
    def _passage(rules: Rules | None, way: str, name: str, host: str) -> Passage:
        with garbled(host, z3.Z3Exception):
            return passage(rules, way, Packet(name), name, host)

    def forwards(self, host: str, iif: str, oif: str) -> bool:
        """Return whether anything at all may pass from ``iif`` to ``oif``; unsure is yes."""
        key = (host, iif, oif)
        if key not in self._forward:
            through = self.way(host, "forward")
            here = z3.And(through.sane, through.passes, on(through, iif=iif, oif=oif))
            self._forward[key] = self._check([here]).check() != z3.unsat
        return self._forward[key]

    def _check(self, terms: Sequence[Bool]) -> z3.Solver:
        self.asked += 1
        solver = z3.SolverFor("QF_BV")
        solver.set("ctrl_c", False)  # z3 would take Ctrl-C for itself and answer "unknown"
        solver.set("timeout", TIMEOUT)
        solver.add(*terms)
        return solver

    def _search(
        self, passages: Sequence[Passage], terms: Sequence[Bool], *, passing: bool = True
    ) -> tuple[z3.Solver, Any, list[tuple[Passage, Passage, Bool]]]:
        """Search for a packet; return the solver, its answer, and what it takes for granted.

        The last: (passage, a first packet's passage, that this is the connection's first packet)
        for a packet that is established; it is asked only when there is a packet without it.
        """
        base: list[Bool] = [*terms]
        for one in passages:
            base += [one.sane, one.passes if passing else z3.Not(one.passes)]
        base += [joined(left, right) for left, right in itertools.pairwise(passages)]
        solver = self._check(base)
        answer = solver.check()
        before: list[tuple[Passage, Passage, Bool]] = []
        if answer == z3.sat and passing:
            for one in passages:
                needed, firsts = self._before(one)
                solver.add(needed)
                before += [(one, first, is_it) for first, is_it in firsts]
            answer = solver.check()
        return solver, answer, before

    def openings(self, one: Passage, terms: Sequence[Bool]) -> tuple[str, ...] | None:
        """Return the rules that let a packet with ``terms`` pass; None: there is no such packet.

        Unlike a packet the solver happens to find, these are the same with every solver.
        """
        solver, answer, _ = self._search([one], terms)
        if answer == z3.unsat:
            return None
        if answer != z3.sat:
            raise SekishoError(f"the solver could not tell: {solver.reason_unknown()}")
        found = []
        for fired in [one for one in one.fired if one.verdict == "accept"][:MAX_OPENINGS]:
            solver.push()
            solver.add(fired.when)
            if solver.check() != z3.unsat:
                found.append(fired.where)
            solver.pop()
        return tuple(dict.fromkeys(found))

    def _before(self, one: Passage) -> tuple[Bool, list[tuple[Passage, Bool]]]:
        """Return `history` of a passage, translated once."""
        key = (one.host, one.way, bool(one.fired))
        if key not in self._history:
            rules = self.rules.get(one.host) if one.fired else None
            with garbled(one.host, z3.Z3Exception):
                self._history[key] = history(rules, one, f"{one.host}.{one.way}.first")
        return self._history[key]

    def holds(self, terms: Sequence[Bool]) -> bool:
        """Return whether terms can be true together; `SekishoError` when the solver cannot say."""
        if any(z3.is_false(one) for one in terms):
            return False
        solver = self._check(terms)
        answer = solver.check()
        if answer == z3.unknown:
            raise SekishoError(f"the solver could not tell: {solver.reason_unknown()}")
        return bool(answer == z3.sat)

    def never(self, one: Passage, terms: Sequence[Bool]) -> bool:
        """Return whether the solver shows that each packet with ``terms`` passes; False: unsure."""
        _, answer, _ = self._search([one], terms, passing=False)
        return bool(answer == z3.unsat)

    def _begun(self, one: Passage, way: str) -> list[Bool]:
        """Return that a passage's connection began with a packet let through on ``way``."""
        key = (one.host, way)
        if key not in self._firsts:
            name = f"{one.host}.{way}.begun"
            self._firsts[key] = self._passage(self.rules[one.host], way, name, one.host)
        first = self._firsts[key]
        same = same_connection(first.tracked, one.tracked, one.track.reply)
        return [first.sane, first.passes, first.track.state == NEW, same]

    def passes_some(
        self, passages: Sequence[Passage], terms: Sequence[Bool], begun: Sequence[str] | None = None
    ) -> bool:
        """Return whether some packet with ``terms`` takes all ``passages``, chance or not.

        ``begun``: the way each passage's connection began on; None: on any, if on one at all.
        A packet that passes only if something falls its way that nobody can foresee (what a `fib`
        or a `socket` expression finds, but for limits, quotas and the time) raises `SekishoError`.
        """
        if any(z3.is_false(one) for one in terms):
            return False
        if begun is None:
            solver, answer, _ = self._search(passages, terms)
        else:
            base = [*terms, *(part for one in passages for part in (one.sane, one.passes))]
            base += [joined(left, right) for left, right in itertools.pairwise(passages)]
            for one, way in zip(passages, begun, strict=bool(begun)):
                base += self._begun(one, way)
            solver = self._check(base)
            answer = solver.check()
        if answer == z3.unsat:
            return False
        if answer != z3.sat:
            raise SekishoError(f"the solver could not tell: {solver.reason_unknown()}")
        model = solver.model()
        names = {one: one.name() for one in model.decls() if one.arity() == 0}
        left = [name for name in names.values() if _open(name)]
        if left:
            fixed = [one() == model[one] for one, name in names.items() if not _open(name)]
            if self.holds([*fixed, z3.Not(z3.And(*(one.passes for one in passages)))]):
                told = ", ".join(sorted({name.partition("?")[2] for name in left}))
                raise SekishoError(f"whether it passes is left open: {told}")
        return True

    def stopped_by(self, one: Passage, terms: Sequence[Bool]) -> str:
        """Return the rule that stops every packet with ``terms``, "" when some passes."""
        base = [one.sane, *terms]
        if self.holds([*base, one.passes]):
            return ""
        found = [fired for fired in one.fired if fired.verdict == "drop"
                 and self.holds([*base, fired.when])]  # fmt: skip
        if not found:
            return "its rules"
        last = found[0]
        return f"{last.where}{f' ({last.comment})' if last.comment else ''} drops it"

    def ask(  # noqa: PLR0913 - a question has these parts
        self,
        law: str,
        scope: str,
        passages: Sequence[Passage],
        terms: Sequence[Bool],
        *,
        reason: str = "",
        passing: bool = True,
    ) -> Finding:
        """Ask for a packet that takes all ``passages`` and makes ``terms`` true: a breach.

        ``passing`` False asks for one that does not get through the (only) passage.
        """
        hosts = tuple(dict.fromkeys(one.host for one in passages))
        solver, answer, before = self._search(passages, terms, passing=passing)
        if answer == z3.unsat:
            return Finding(law, scope, Outcome.PROVEN, hosts=hosts)
        if answer != z3.sat:
            told = f"the solver could not tell: {solver.reason_unknown()}"
            return Finding(law, scope, Outcome.ERROR, reason=told, hosts=hosts)
        # A connection that began on the way its packets take is plainer, and can be replayed.
        plainly: list[Bool] = []
        for one, first, is_it in before:
            if first.way == one.way:
                plainly += [is_it, turned(first, one)]
        shown = [*passages, *(first for _, first, _ in before)]
        reading = Reading(tidy(solver, shown, dict(self.interfaces), plainly))
        firsts_seen = [
            first
            for one, first, is_it in before
            if reading.holds(z3.And(one.track.state == 2, is_it))
        ]
        plain = {(one.host, one.way) for one in passages}
        firsts_seen.sort(key=lambda first: (first.host, first.way) not in plain)
        return Finding(
            law,
            scope,
            Outcome.REFUTED,
            steps=tuple(reading.step(one) for one in passages),
            before=tuple(reading.step(one) for one in firsts_seen[:1]),
            chances=reading.chances(),
            reason=reason,
            hosts=hosts,
        )


def _open(name: str) -> bool:
    """Return whether a variable is a choice that a second try would not make otherwise."""
    what = name.partition("?")[2]
    return bool(what) and not what.startswith(_RETRIED)


def on(one: Passage, *, iif: str | None = None, oif: str | None = None) -> Bool:
    """Return that the packet comes in by ``iif`` and goes out by ``oif`` (None: by any)."""
    found = []
    if iif is not None:
        found.append(one.packet.get("iif") == interface_number(iif))
    if oif is not None:
        found.append(one.left.get("oif") == interface_number(oif))
    return z3.And(*found)


def turned(first: Passage, later: Passage) -> Bool:
    """Return that a connection's first packet took a later one's wires, the right way round."""
    there = [first.packet.get(side) == later.packet.get(side) for side in ("iif", "oif")]
    back = [
        first.packet.get(one) == later.packet.get(other)
        for one, other in (("iif", "oif"), ("oif", "iif"))
    ]
    return z3.If(later.track.reply, z3.And(*back), z3.And(*there))


def joined(left: Passage, right: Passage) -> Bool:
    """Return that the packet that leaves one host is the one that comes to the next."""
    sent, got = left.left, right.packet
    return z3.And(
        sent.six == got.six,
        *[sent.get(part) == got.get(part) for part in ("nh4", "nh6", "th")],
        sent.get("protocol6", 8) == got.get("protocol6", 8),
        sent.get("length6", 16) == got.get("length6", 16),
        sent.flag("transport6") == got.flag("transport6"),
        sent.flag("fragment6") == got.flag("fragment6"),
    )


def unknown(law: str, scope: str, hosts: tuple[str, ...], bad: SekishoError) -> Finding:
    """Return the finding of a question that could not be put."""
    told = "; ".join(problem.line() for problem in bad.problems) or bad.message
    return Finding(law, scope, Outcome.ERROR, reason=told, hosts=hosts)
