"""Judging: facts and expectations in, findings out. Pure: no I/O, no clock, no environment.

No vacuous pass: a missing probe, a missing key, a wrong type or an empty list of assertions is
``error``. ``fail`` wins over ``error``, ``error`` over ``pass``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
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
from sekisho.catalogue.patterns import MAX_TEXT, bounded
from sekisho.catalogue.wording import not_set, off_by, show, until_when
from sekisho.core.errors import SekishoError, printable
from sekisho.core.text import is_number

#: Tells of a rule set and the lines a policy declares whether nothing else passes, and what does.
Prover = Callable[[Any, Any], tuple[bool, str]]
_VALUELESS = frozenset({Op.PRESENT, Op.ABSENT, Op.EMPTY})
#: What stands before the reason of a finding that is neither pass nor breach.
UNKNOWN = "cannot be determined: "
_NO_POLICY = "this machine has no site policy to compare with"
#: An assertion, its verdict, what was expected and what was observed.
_Result = tuple[Assertion, Verdict, str, str]


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
        elif isinstance(value, list) and is_number(key) and int(key) < len(value):
            value = value[int(key)]
        else:
            raise Unknown(f"no {'.'.join(here)}")
    return value


def _expected(assertion: Assertion, policy: Mapping[str, Any] | None) -> Any:
    if not isinstance(assertion.value, PolicyValue):
        return assertion.value
    if policy is None:
        raise Unknown(_NO_POLICY)
    try:
        return walk(policy, assertion.value.path)
    except Unknown as missing:
        raise Unknown(f"the site policy has {missing}") from None


def _members(value: Any, what: str) -> list[str]:
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [
            entry if isinstance(entry, str) else json.dumps(entry, sort_keys=True, default=str)
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
    """Return whether ``observed`` meets ``expected``, and a short account of what is off.

    Raises:
        Unknown: the two cannot be compared by ``op``: a wrong type, or nothing expected where
            nothing would make every host pass.

    """
    comparer = _COMPARERS.get(op)
    if comparer is None:
        raise Unknown(f"{op} compares no value")
    return comparer(observed, expected)


def same(observed: Any, expected: Any) -> bool:
    """Return whether two JSON values are equal; ``true`` is not 1, at any depth."""
    if isinstance(observed, bool) or isinstance(expected, bool):
        return observed is expected
    if isinstance(observed, Mapping) and isinstance(expected, Mapping):
        return observed.keys() == expected.keys() and all(
            same(observed[key], expected[key]) for key in observed
        )
    if isinstance(observed, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(observed) == len(expected) and all(
            same(one, other) for one, other in zip(observed, expected, strict=True)
        )
    return bool(observed == expected)


def _one_of(observed: Any, expected: Any) -> tuple[bool, str]:
    if not isinstance(expected, (list, tuple)):
        raise Unknown(f"expected is {type(expected).__name__}, not a list")
    return any(same(observed, choice) for choice in expected), ""


def _matches(observed: Any, expected: Any) -> tuple[bool, str]:
    for value, what in ((observed, "observed"), (expected, "expected")):
        if not isinstance(value, str):
            raise Unknown(f"{what} is {type(value).__name__}, not text")
    if len(observed) > MAX_TEXT:
        raise Unknown(f"observed has {len(observed)} characters; at most {MAX_TEXT} are matched")
    try:
        return bounded(expected).fullmatch(observed) is not None, ""
    except ValueError as bad:
        raise Unknown(f"expected is {bad}") from None


def _empty(observed: Any, _expected: Any) -> tuple[bool, str]:
    if not isinstance(observed, (list, tuple, str, Mapping)):
        raise Unknown(f"observed is {type(observed).__name__}, not a list")
    return len(observed) == 0, ""


def _sets(observed: Any, expected: Any) -> tuple[set[str], set[str]]:
    return set(_members(observed, "observed")), set(_members(expected, "expected"))


def _some(expected: set[str]) -> set[str]:
    if not expected:
        raise Unknown("nothing is expected, so every host would pass")
    return expected


def _list_of(label: str, members: set[str]) -> str:
    return f"{label}: {', '.join(sorted(members))}" if members else ""


def _contains(observed: Any, expected: Any) -> tuple[bool, str]:
    have, want = _sets(observed, expected)
    return _some(want) <= have, _list_of("missing", want - have)


def _lacks(observed: Any, expected: Any) -> tuple[bool, str]:
    have, unwanted = _sets(observed, expected)
    return not _some(unwanted) & have, _list_of("there", unwanted & have)


def _subset_of(observed: Any, expected: Any) -> tuple[bool, str]:
    have, allowed = _sets(observed, expected)
    return have <= allowed, _list_of("not allowed", have - allowed)


def _same_set(observed: Any, expected: Any) -> tuple[bool, str]:
    have, want = _sets(observed, expected)
    off = (_list_of("missing", want - have), _list_of("not allowed", have - want))
    return have == want, "; ".join(part for part in off if part)


def _at_least(observed: Any, expected: Any) -> tuple[bool, str]:
    return _number(observed, "observed") >= _number(expected, "expected"), ""


def _at_most(observed: Any, expected: Any) -> tuple[bool, str]:
    return _number(observed, "observed") <= _number(expected, "expected"), ""


_COMPARERS: dict[Op, Callable[[Any, Any], tuple[bool, str]]] = {
    Op.EQUALS: lambda observed, expected: (same(observed, expected), ""),
    Op.NOT_EQUALS: lambda observed, expected: (not same(observed, expected), ""),
    Op.ONE_OF: _one_of,
    Op.AT_LEAST: _at_least,
    Op.AT_MOST: _at_most,
    Op.MATCHES: _matches,
    Op.CONTAINS: _contains,
    Op.LACKS: _lacks,
    Op.SUBSET_OF: _subset_of,
    Op.SAME_SET: _same_set,
    Op.EMPTY: _empty,
}


def _judge_assertion(
    assertion: Assertion, facts: HostFacts, prover: Prover | None
) -> tuple[Verdict, str, str]:
    """Return the verdict, what was expected and what was observed."""
    wanted = f"{_label(assertion)} {assertion.op}"
    try:
        expected = _expected(assertion, facts.policy)
        if assertion.op is Op.PROVEN:
            rules = walk(_fact(assertion.probe, facts), assertion.key)
            good, account = _proven(prover, rules, expected)
            return Verdict.PASS if good else Verdict.FAIL, wanted, printable(account, 400)
        if assertion.op not in _VALUELESS:
            wanted += f" {show(expected)}"
        return _judge_fact(assertion, _fact(assertion.probe, facts), expected, wanted)
    except Unknown as reason:
        return Verdict.ERROR, wanted, f"{UNKNOWN}{printable(str(reason), 400)}"


def _proven(prover: Prover | None, rules: Any, declared: Any) -> tuple[bool, str]:
    if prover is None:
        raise Unknown("judged without a solver (z3, of the control side's packages)")
    try:
        return prover(rules, declared)
    except SekishoError as bad:
        raise Unknown("; ".join(one.line() for one in bad.problems) or bad.message) from None
    except Exception as crash:  # noqa: BLE001 - a crashed prover must not look clean
        raise Unknown(f"the prover failed: {type(crash).__name__}: {crash}") from None


def _label(assertion: Assertion) -> str:
    return f"{assertion.probe}:{'.'.join(assertion.key)}"


def _fact(probe: str, facts: HostFacts) -> Any:
    fact = facts.facts.get(probe)
    if fact is None:
        raise Unknown(f"probe {probe} gave no answer")
    if fact.error is not None:
        raise Unknown(fact.error)
    return fact.value


def _judge_fact(
    assertion: Assertion, fact: Any, expected: Any, wanted: str
) -> tuple[Verdict, str, str]:
    try:
        observed = walk(fact, assertion.key)
    except Unknown as reason:
        if assertion.op is Op.ABSENT:
            return Verdict.PASS, wanted, "absent"
        if assertion.op is Op.PRESENT:
            return Verdict.FAIL, wanted, str(reason)
        if not assertion.has_missing:
            raise
        good, _ = compare(assertion.op, assertion.missing, expected)
        seen = not_set(assertion.missing, good=good)
        return (Verdict.PASS if good else Verdict.FAIL), wanted, seen
    seen = show(observed)
    if assertion.op in (Op.ABSENT, Op.PRESENT):
        good = assertion.op is Op.PRESENT
        return (Verdict.PASS if good else Verdict.FAIL), wanted, seen
    good, account = compare(assertion.op, observed, expected)
    if good:
        return Verdict.PASS, wanted, seen
    return Verdict.FAIL, wanted, off_by(assertion, printable(account, 400), seen)


def judge(check: Check, facts: HostFacts, prover: Prover | None = None) -> Finding:
    """Judge one check on one host; without a prover what needs one cannot be told."""
    verdict, expected, observed, where = _judge(check, facts, prover)
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


def _judge(check: Check, facts: HostFacts, prover: Prover | None) -> tuple[Verdict, str, str, str]:
    if facts.unreachable is not None:
        return Verdict.ERROR, "an answer", f"{UNKNOWN}{facts.unreachable}", ""
    if "all" not in check.applies:
        if facts.role is None:
            return Verdict.ERROR, "a role", f"{UNKNOWN}this machine has no role", ""
        if facts.role not in check.applies:
            return Verdict.NOT_APPLICABLE, ", ".join(check.applies), facts.role, ""
    results = [(a, *_judge_assertion(a, facts, prover)) for a in check.asserts]
    if not results:
        return Verdict.ERROR, "at least one assertion", "none", ""
    if facts.policy is None and any(isinstance(a.value, PolicyValue) for a in check.asserts):
        # Without the site's declaration nothing here is a breach, but what is wrong anywhere.
        results = [
            (a, Verdict.ERROR, wanted, f"{UNKNOWN}{_NO_POLICY}")
            if verdict is Verdict.FAIL and not a.always
            else (a, verdict, wanted, seen)
            for a, verdict, wanted, seen in results
        ]
    worst = min((verdict for _, verdict, _, _ in results), key=SEVERITY.__getitem__)
    told = [result for result in results if result[1] is worst]
    # Several things off are told apart by their names; one reason for all is told once.
    seen = {result[3]: None for result in told}
    if worst is Verdict.FAIL:
        seen = dict.fromkeys(_off(result, results, name=len(told) > 1) for result in told)
    return (
        worst,
        "; ".join(dict.fromkeys(result[2] for result in told)),
        "; ".join(seen),
        "+".join(sorted({result[0].where for result in told})),
    )


def _off(told: _Result, results: Iterable[_Result], *, name: bool) -> str:
    """Return what is off in one assertion, and which half of the setting holds all the same."""
    others = [(a, verdict is Verdict.PASS) for a, verdict, _, _ in results]
    half = until_when(told[0], others)
    seen = f"{half}: {told[3]}" if half else told[3]
    return f"{_label(told[0])} {seen}" if name else seen


def judge_all(
    catalogue: Catalogue, hosts: Iterable[HostFacts], prover: Prover | None = None
) -> list[Finding]:
    """Judge every check on every host, in the order of the catalogue."""
    return [judge(check, facts, prover) for facts in hosts for check in catalogue.checks]


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
