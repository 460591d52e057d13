"""Orders under thousands of changes: any bit flipped is refused, any input is a clear error."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from orderworld import NOW, SIGNERS, body, good, sign
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.orders.judge import prove, signers_of
from sekisho.orders.model import Act, Order, write_time
from sekisho.orders.parse import parse_body, parse_order, render_order
from sekisho.policy.host_policy import HostPolicy
from siteworld import policy as compiled

GOOD = render_order(good())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PEOPLE = st.sampled_from(sorted(SIGNERS))
DOCUMENT = compiled("core-1")


def holds(raw: bytes, now: Any = NOW) -> bool:
    try:
        prove(raw, SIGNERS, site="lab", host="core-1", now=now, where="x")
    except SekishoError as failure:
        no = failure
    else:
        return True
    assert no.problems, "a refusal that says nothing"
    return False


def test_the_order_that_is_tampered_with_holds() -> None:
    assert holds(GOOD)


@settings(max_examples=examples(1500))
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_any_bit_flipped_is_refused(bit: int) -> None:
    changed = bytearray(GOOD)
    changed[bit // 8] ^= 1 << bit % 8
    assert not holds(bytes(changed))


@settings(max_examples=examples(300))
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3))
def test_cut_or_lengthened_is_refused(cut: int, more: bytes) -> None:
    assert not holds(GOOD[:cut] + more) or GOOD[:cut] + more == GOOD
    assert not more or not holds(GOOD + more)


@settings(max_examples=examples(300))
@given(st.lists(st.tuples(st.sampled_from(list(Act)), PEOPLE, PEOPLE), max_size=4), PEOPLE)
def test_only_three_different_fitting_people_make_it_hold(
    signatures: list[tuple[Act, str, str]], requester: str
) -> None:
    order: Order = sign(parse_body(body(requester=requester), "x"), *signatures)
    asked = [by for act, by, _ in signatures if act is Act.REQUEST]
    approved = [by for act, by, _ in signatures if act is Act.APPROVE]
    right = (
        all(by == holder for _, by, holder in signatures)
        and asked == [requester]
        and requester in {"aoki", "baba"}
        and len(approved) == len(set(approved)) == 2
        and set(approved) <= {"aoki", "chiba", "doi"} - {requester}
        and bool({"chiba", "doi"} & set(approved))
    )
    assert holds(render_order(order)) == right


@settings(max_examples=examples(300))
@given(st.integers(-3 * 86_400, 3 * 86_400))
def test_outside_its_window_it_is_refused(seconds: int) -> None:
    now = NOW + timedelta(seconds=seconds)
    assert holds(GOOD, now) == (-3600 <= seconds < 3600)


@settings(max_examples=examples(500))
@given(st.binary(max_size=200))
def test_any_bytes_are_an_order_or_a_clear_error(raw: bytes) -> None:
    assert not holds(raw)


@settings(max_examples=examples(500))
@given(st.sampled_from([*body(), "signatures", "device"]), JSON)
def test_any_value_anywhere_is_an_order_or_a_clear_error(key: str, value: Any) -> None:
    whole = json.loads(GOOD)
    place = {"signatures": whole, "device": whole["order"]["content"]}.get(key, whole["order"])
    same = canonical(place[key]) == canonical(value)
    place[key] = value
    try:
        raw = canonical(whole) + b"\n"
    except (TypeError, UnicodeEncodeError):
        return
    assert holds(raw) == same


@settings(max_examples=examples(300))
@given(JSON)
def test_any_policy_gives_signers_or_a_clear_error(value: Any) -> None:
    for orders in (value, {"people": value}):
        with contextlib.suppress(SekishoError):
            assert signers_of(HostPolicy.parse(DOCUMENT | {"orders": orders})) == {}


@settings(max_examples=examples(200))
@given(st.datetimes(), st.datetimes(), st.datetimes())
def test_any_times_are_an_order_or_a_clear_error(made: Any, start: Any, end: Any) -> None:
    try:
        order = parse_body(
            body(made=write_time(made), start=write_time(start), end=write_time(end)), "x"
        )
    except SekishoError:
        return
    assert order.made <= order.start < order.end <= order.start + timedelta(hours=8)


def test_an_order_read_back_bears_the_same_bytes() -> None:
    assert render_order(parse_order(GOOD, "x")) == GOOD
