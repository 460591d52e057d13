"""Judging: what is known is compared strictly, what is not known is never a pass."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.catalogue.judge import (
    Fact,
    HostFacts,
    Unknown,
    clause_verdicts,
    compare,
    exit_code,
    judge,
    same,
)
from sekisho.catalogue.model import (
    Assertion,
    Catalogue,
    Check,
    Finding,
    Item,
    Op,
    PolicyValue,
    Verdict,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def check(*asserts: Assertion, applies: tuple[str, ...] = ("all",)) -> Check:
    return Check(
        id="6-iv-a.example",
        title={"en": "Example", "ja": "例"},
        applies=applies,
        asserts=asserts,
        by_hand="look",
        remedy="kernel",
        scenario="root",
        rationale="because",
    )


def expect(op: Op, value: Any = None, key: tuple[str, ...] = ("a",), **more: Any) -> Assertion:
    return Assertion(where="runtime", probe="p", key=key, op=op, value=value, **more)


def verdict(a_check: Check, fact: Fact | None, **more: Any) -> Verdict:
    facts = {} if fact is None else {"p": fact}
    return judge(a_check, HostFacts(host="h", role=None, facts=facts, **more)).verdict


@pytest.mark.parametrize(
    ("op", "observed", "expected", "good"),
    [
        (Op.EQUALS, "2", "2", True),
        (Op.EQUALS, 1, True, False),
        (Op.EQUALS, [{"a": 0}], [{"a": False}], False),
        (Op.NOT_EQUALS, "1", "2", True),
        (Op.ONE_OF, "1", ["0", "1"], True),
        (Op.ONE_OF, True, [1], False),
        (Op.AT_LEAST, "10", 9, True),
        (Op.AT_LEAST, 8, "9", False),
        (Op.AT_MOST, 8, "9", True),
        (Op.MATCHES, "abc", "a.c", True),
        (Op.MATCHES, "abcd", "a.c", False),
        (Op.CONTAINS, ["a", "b"], ["a"], True),
        (Op.CONTAINS, ["b"], ["a"], False),
        (Op.LACKS, ["b"], ["a"], True),
        (Op.LACKS, {"a": 1}, ["a"], False),
        (Op.SUBSET_OF, [], ["a"], True),
        (Op.SUBSET_OF, ["b"], [], False),
        (Op.SAME_SET, ["a", "b"], ["b", "a"], True),
        (Op.SAME_SET, ["a"], ["b"], False),
        (Op.EMPTY, [], None, True),
        (Op.EMPTY, "x", None, False),
    ],
)
def test_a_comparison_says_what_it_should(op: Op, observed: Any, expected: Any, good: bool) -> None:
    assert compare(op, observed, expected)[0] is good


@pytest.mark.parametrize(
    ("op", "observed", "expected"),
    [
        (Op.ONE_OF, "0", "10"),  # text is no list: a part of a text must not pass
        (Op.AT_LEAST, True, 1),
        (Op.AT_LEAST, "many", 1),
        (Op.AT_LEAST, None, 1),
        (Op.MATCHES, 7, "7"),
        (Op.MATCHES, "7", None),
        (Op.MATCHES, "7", "("),
        (Op.EMPTY, None, None),
        (Op.EMPTY, 0, None),
        (Op.CONTAINS, "ab", ["a"]),
        (Op.CONTAINS, ["a"], []),
        (Op.LACKS, [], []),
        (Op.SAME_SET, None, []),
        (Op.PRESENT, 1, 1),
    ],
)
def test_what_cannot_be_compared_is_unknown(op: Op, observed: Any, expected: Any) -> None:
    with pytest.raises(Unknown):
        compare(op, observed, expected)


@given(st.sampled_from(list(Op)), JSON, JSON)
def test_comparing_anything_raises_nothing_else(op: Op, observed: Any, expected: Any) -> None:
    try:
        good, account = compare(op, observed, expected)
    except Unknown:
        return
    assert isinstance(good, bool)
    assert isinstance(account, str)


@given(JSON)
def test_a_value_is_the_same_as_itself(value: Any) -> None:
    assert same(value, value)


@pytest.mark.parametrize(
    "fact",
    [None, Fact(error="cut"), Fact(value=None), Fact(value={}), Fact(value=[]), Fact(value="a")],
)
@pytest.mark.parametrize("op", [Op.EQUALS, Op.NOT_EQUALS, Op.LACKS, Op.SUBSET_OF, Op.EMPTY])
def test_without_the_fact_the_verdict_is_error(fact: Fact | None, op: Op) -> None:
    value = None if op is Op.EMPTY else ["x"]
    assert verdict(check(expect(op, value)), fact) is Verdict.ERROR


def test_an_absent_key_is_told_from_an_absent_fact() -> None:
    absent = check(expect(Op.ABSENT))
    assert verdict(absent, Fact(value={})) is Verdict.PASS
    assert verdict(absent, Fact(value={"a": None})) is Verdict.FAIL
    assert verdict(absent, Fact(error="cut")) is Verdict.ERROR
    assert verdict(absent, None) is Verdict.ERROR


def test_a_missing_key_takes_its_declared_value_only() -> None:
    assert verdict(check(expect(Op.EQUALS, "0")), Fact(value={})) is Verdict.ERROR
    declared = check(expect(Op.EQUALS, "0", missing="0", has_missing=True))
    assert verdict(declared, Fact(value={})) is Verdict.PASS
    other = check(expect(Op.EQUALS, "1", missing="0", has_missing=True))
    assert verdict(other, Fact(value={})) is Verdict.FAIL


def test_a_check_without_assertions_is_an_error() -> None:
    assert verdict(check(), Fact(value={"a": 1})) is Verdict.ERROR


def test_a_breach_wins_over_could_not_tell() -> None:
    both = check(expect(Op.EQUALS, 1), expect(Op.EQUALS, 1, key=("b",)))
    assert verdict(both, Fact(value={"b": 2})) is Verdict.FAIL
    assert verdict(both, Fact(value={"b": 1})) is Verdict.ERROR
    assert verdict(both, Fact(value={"a": 1, "b": 1})) is Verdict.PASS


def test_an_expectation_from_the_policy_needs_the_policy() -> None:
    bound = check(expect(Op.EQUALS, PolicyValue(("time", "servers"))))
    fact = Fact(value={"a": ["10.77.0.16"]})
    assert verdict(bound, fact) is Verdict.ERROR
    assert verdict(bound, fact, policy={"time": {}}) is Verdict.ERROR
    assert verdict(bound, fact, policy={"time": {"servers": ["10.77.0.16"]}}) is Verdict.PASS
    assert verdict(bound, fact, policy={"time": {"servers": []}}) is Verdict.FAIL


def test_a_role_bound_check_is_told_apart() -> None:
    bound = check(expect(Op.EQUALS, 1), applies=("core",))
    fact = {"p": Fact(value={"a": 1})}

    def of(role: str | None) -> Verdict:
        return judge(bound, HostFacts(host="h", role=role, facts=fact)).verdict

    assert of("core") is Verdict.PASS
    assert of("monitor") is Verdict.NOT_APPLICABLE
    assert of(None) is Verdict.ERROR


def test_an_unreachable_host_is_an_error_whatever_it_once_said() -> None:
    facts = {"p": Fact(value={"a": 1})}
    lost = HostFacts(host="h", role="core", facts=facts, unreachable="no connection")
    finding = judge(check(expect(Op.EQUALS, 1)), lost)
    assert finding.verdict is Verdict.ERROR
    assert "no connection" in finding.observed


def test_hostile_values_are_safe_to_print() -> None:
    finding = judge(
        check(expect(Op.EQUALS, "x")),
        HostFacts(host="h", role=None, facts={"p": Fact(value={"a": "\x1b[2J\u202e" * 500})}),
    )
    assert finding.verdict is Verdict.FAIL
    assert finding.observed.isprintable()
    assert len(finding.observed) < 400


def test_an_item_without_a_finding_is_an_error() -> None:
    item = Item("12", "12", {}, {}, ("attested",), "planned", ())
    catalogue = Catalogue(items=(item,), checks=(), digest="")
    assert clause_verdicts(catalogue, []) == {"12": Verdict.ERROR}


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([], 2),
        ([Verdict.PASS], 0),
        ([Verdict.PASS, Verdict.WAIVED, Verdict.NOT_APPLICABLE], 0),
        ([Verdict.NOT_APPLICABLE], 2),
        ([Verdict.PASS, Verdict.ERROR], 2),
        ([Verdict.ERROR, Verdict.FAIL], 1),
    ],
)
def test_the_exit_code_is_the_worst(verdicts: list[Verdict], code: int) -> None:
    assert exit_code(verdicts) == code


def test_a_finding_is_plain_json() -> None:
    found = judge(
        check(expect(Op.EQUALS, 1)),
        HostFacts(host="h", role=None, facts={"p": Fact(value={"a": 1})}),
    )
    assert isinstance(found, Finding)
    assert set(found.as_json()) == {
        "check", "item", "host", "verdict", "title", "expected", "observed", "where", "remedy",
        "by_hand",
    }  # fmt: skip
