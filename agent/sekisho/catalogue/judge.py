"""Judging: facts and expectations in, findings out. Pure: no I/O, no clock, no environment.

No vacuous pass: a missing probe, a missing key, a wrong type or an empty list of assertions is
``error``. ``fail`` wins over ``error``, ``error`` over ``pass``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.catalogue.model import (
    SEVERITY,
    Assertion,
    Catalogue,
    Check,
    Finding,
    Op,
    PolicyValue,
    Verdict,
)
from sekisho.errors import printable


class Unknown(Exception):  # noqa: N818 - a value's absence, not an error of ours
    """What is asked cannot be told from the facts."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A probe's parsed fact, or the reason why there is none."""

    value: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Everything known of one host: parsed facts by probe, its policy and role.

    ``policy`` is None when nothing is configured (``audit --local`` on a plain machine).
    ``unreachable`` holds the reason when no fact could be had at all.
    """

    host: str
    role: str | None
    facts: Mapping[str, Fact]
    policy: Mapping[str, Any] | None = None
    unreachable: str | None = None


def walk(value: Any, path: Iterable[str]) -> Any:
    """Return the value at ``path``; raise `Unknown` naming the first key that is not there."""
    here: list[str] = []
    for key in path:
        here.append(key)
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise Unknown(f"no {'.'.join(here)}")
    return value


def _expected(assertion: Assertion, policy: Mapping[str, Any] | None) -> Any:
    if not isinstance(assertion.value, PolicyValue):
        return assertion.value
    if policy is None:
        raise Unknown("this machine has no site policy to compare with")
    try:
        return walk(policy, assertion.value.path)
    except Unknown as missing:
        raise Unknown(f"the site policy has {missing}") from None


def _members(value: Any, what: str) -> list[str]:
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [
            entry if isinstance(entry, str) else json.dumps(entry, sort_keys=True)
            for entry in value
        ]
    raise Unknown(f"{what} is {type(value).__name__}, not a list")


def _number(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise Unknown(f"{what} is {type(value).__name__}, not a number")
    try:
        return int(value)
    except ValueError:
        raise Unknown(f"{what} is not a number: {printable(value)}") from None


def compare(op: Op, observed: Any, expected: Any) -> tuple[bool, str]:
    """Return whether ``observed`` meets ``expected``, and a short account of what is off."""
    match op:
        case Op.EQUALS:
            return observed == expected, ""
        case Op.NOT_EQUALS:
            return observed != expected, ""
        case Op.ONE_OF:
            return observed in expected, ""
        case Op.AT_LEAST:
            return _number(observed, "observed") >= _number(expected, "expected"), ""
        case Op.AT_MOST:
            return _number(observed, "observed") <= _number(expected, "expected"), ""
        case Op.MATCHES:
            if not isinstance(observed, str):
                raise Unknown(f"observed is {type(observed).__name__}, not text")
            return re.fullmatch(expected, observed) is not None, ""
        case Op.EMPTY:
            if observed is None or not hasattr(observed, "__len__"):
                raise Unknown(f"observed is {type(observed).__name__}, not a list")
            return len(observed) == 0, ""
        case Op.CONTAINS | Op.LACKS | Op.SUBSET_OF | Op.SAME_SET:
            return _compare_sets(op, observed, expected)
        case Op.PRESENT | Op.ABSENT:
            raise Unknown(f"{op} compares no value")


def _compare_sets(op: Op, observed: Any, expected: Any) -> tuple[bool, str]:
    have, want = set(_members(observed, "observed")), set(_members(expected, "expected"))
    missing, extra = sorted(want - have), sorted(have - want)
    match op:
        case Op.CONTAINS:
            return not missing, f"missing: {', '.join(missing)}"
        case Op.LACKS:
            there = sorted(want & have)
            return not there, f"there: {', '.join(there)}"
        case Op.SUBSET_OF:
            return not extra, f"not allowed: {', '.join(extra)}"
        case _:
            return have == want, "; ".join(
                part
                for part in (
                    f"missing: {', '.join(missing)}" if missing else "",
                    f"not allowed: {', '.join(extra)}" if extra else "",
                )
                if part
            )


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return printable(text, 240)


def _judge_assertion(
    assertion: Assertion, facts: HostFacts
) -> tuple[Verdict, str, str]:  # verdict, expected, observed
    label = f"{assertion.probe}:{'.'.join(assertion.key)}"
    try:
        expected = _expected(assertion, facts.policy)
        wanted = f"{label} {assertion.op}" + ("" if expected is None else f" {_show(expected)}")
    except Unknown as reason:
        return Verdict.ERROR, f"{label} {assertion.op}", f"could not tell: {reason}"
    fact = facts.facts.get(assertion.probe)
    if fact is None:
        return Verdict.ERROR, wanted, f"could not tell: probe {assertion.probe} gave no answer"
    if fact.error is not None:
        return Verdict.ERROR, wanted, f"could not tell: {printable(fact.error, 240)}"
    try:
        observed = walk(fact.value, assertion.key)
        there = True
    except Unknown as reason:
        if assertion.op is Op.ABSENT:
            return Verdict.PASS, wanted, "absent"
        if assertion.op is Op.PRESENT:
            return Verdict.FAIL, wanted, str(reason)
        if not assertion.has_missing:
            return Verdict.ERROR, wanted, f"could not tell: {reason}"
        observed, there = assertion.missing, False
    if assertion.op is Op.ABSENT:
        return Verdict.FAIL, wanted, _show(observed)
    if assertion.op is Op.PRESENT:
        return Verdict.PASS, wanted, _show(observed)
    try:
        good, account = compare(assertion.op, observed, expected)
    except Unknown as reason:
        return Verdict.ERROR, wanted, f"could not tell: {reason}"
    seen = _show(observed) if there else f"{_show(observed)} (not set)"
    return (
        (Verdict.PASS if good else Verdict.FAIL),
        wanted,
        (seen if good or not account else account),
    )


def judge(check: Check, facts: HostFacts) -> Finding:
    """Judge one check on one host."""
    verdict, expected, observed, where = _judge(check, facts)
    return Finding(
        check=check.id,
        item=check.item,
        host=facts.host,
        verdict=verdict,
        title=check.title,
        expected=expected,
        observed=observed,
        where=where,
        remedy=check.remedy,
        by_hand=check.by_hand,
    )


def _judge(check: Check, facts: HostFacts) -> tuple[Verdict, str, str, str]:
    if facts.unreachable is not None:
        return Verdict.ERROR, "an answer", f"could not tell: {facts.unreachable}", ""
    if "all" not in check.applies:
        if facts.role is None:
            return Verdict.ERROR, "a role", "could not tell: this machine has no role", ""
        if facts.role not in check.applies:
            return Verdict.NOT_APPLICABLE, ", ".join(check.applies), facts.role, ""
    results = [(a.where, *_judge_assertion(a, facts)) for a in check.asserts]
    if not results:
        return Verdict.ERROR, "at least one assertion", "none", ""
    worst = min(results, key=lambda result: SEVERITY[result[1]])
    if worst[1] is Verdict.PASS:
        return (
            Verdict.PASS,
            "; ".join(result[2] for result in results),
            "; ".join(result[3] for result in results),
            "+".join(sorted({result[0] for result in results})),
        )
    off = [result for result in results if result[1] is worst[1]]
    return (
        worst[1],
        "; ".join(result[2] for result in off),
        "; ".join(result[3] for result in off),
        "+".join(sorted({result[0] for result in off})),
    )


def judge_all(catalogue: Catalogue, hosts: Iterable[HostFacts]) -> list[Finding]:
    """Judge every check on every host, in the order of the catalogue."""
    return [judge(check, facts) for facts in hosts for check in catalogue.checks]


def clause_verdicts(catalogue: Catalogue, findings: Iterable[Finding]) -> dict[str, Verdict]:
    """Return the verdict of every item: the worst of its findings; none at all is ``error``."""
    worst: dict[str, Verdict] = {}
    for finding in findings:
        held = worst.get(finding.item)
        if held is None or SEVERITY[finding.verdict] < SEVERITY[held]:
            worst[finding.item] = finding.verdict
    return {item.id: worst.get(item.id, Verdict.ERROR) for item in catalogue.items}


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """Return 0 compliant, 1 breach, 2 could not tell; a breach wins; nothing judged is 2."""
    seen = set(verdicts)
    if Verdict.FAIL in seen:
        return 1
    return 2 if Verdict.ERROR in seen or not seen & {Verdict.PASS, Verdict.WAIVED} else 0
