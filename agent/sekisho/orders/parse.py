"""An order's bytes into an `Order` and back. Pure: one `SekishoError` with every problem."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sekisho.core.canonical import canonical, speaks
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.names import HOST_NAME, NAME
from sekisho.core.strict_json import strict_json
from sekisho.orders.kinds import KINDS
from sekisho.orders.model import APPROVERS, MAX_BYTES, SCHEMA, Act, Order, Signature, write_time

PERSON = re.compile(r"[a-z][a-z0-9-]{0,30}", re.ASCII)
#: The day it was made and 64 random bits: one order, one name, used once.
ID = re.compile(r"[0-9]{8}-[0-9a-f]{16}", re.ASCII)
_TIME = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z", re.ASCII)
_DER = re.compile(r"([0-9a-f]{2}){8,120}", re.ASCII)
#: What people read: no control, zero-width or direction-changing characters, no blank at an end.
_REASON = re.compile(
    r"(?!\s)[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]{3,400}(?<!\s)"
)
#: An order waits this long at most between request and start.
LONGEST_WAIT = timedelta(days=14)
_KEYS = {
    "schema", "kind", "id", "site", "host", "requester", "reason", "made", "start", "end",
    "content",
}  # fmt: skip
Wrong = Callable[[str, object, str], None]


def parse_order(raw: bytes, where: str) -> Order:
    """Return the order of a file; ``where`` names it. Nothing of who signed is believed yet.

    Raises:
        SekishoError: too long, not canonical, unknown or missing keys, values out of their form.

    """
    problems: list[Problem] = []

    def wrong(key: str, got: object, expected: str) -> None:
        problems.append(Problem(where, key, printable(got, 80), expected, "6-iii-c"))

    order = _file(raw, problems, wrong)
    if order is None or problems:
        raise SekishoError("the order was refused", tuple(problems))
    return order


def parse_body(body: Any, where: str) -> Order:
    """Return the unsigned order of a body; `SekishoError` with every problem."""
    problems: list[Problem] = []

    def wrong(key: str, got: object, expected: str) -> None:
        problems.append(Problem(where, key, printable(got, 80), expected, "6-iii-c"))

    order = _body(body, problems, wrong)
    if order is None or problems:
        raise SekishoError("the order was refused", tuple(problems))
    return order


def render_order(order: Order) -> bytes:
    """Return the file of an order: `parse_order` of it is the same order."""
    entries = [one.as_json() for one in order.signatures]
    return canonical({"order": order.body, "signatures": entries}) + b"\n"


def signed_by(order: Order, signature: Signature) -> Order:
    """Return the order with one signature more; the request's stands first."""
    more = (*order.signatures, signature)
    return replace(order, signatures=tuple(sorted(more, key=lambda one: one.act is Act.APPROVE)))


def _file(raw: bytes, problems: list[Problem], wrong: Wrong) -> Order | None:
    if len(raw) > MAX_BYTES:
        wrong("", f"more than {MAX_BYTES} bytes", "an order")
        return None
    try:
        value = strict_json(raw, size=MAX_BYTES)
        form = canonical(value) + b"\n"
    except (ValueError, TypeError, RecursionError) as bad:
        wrong("", str(bad), "an order: one line of JSON")
        return None
    if form != raw:
        wrong("", "another form of JSON", "the canonical form, and one newline")
        return None
    if not isinstance(value, dict) or set(value) != {"order", "signatures"}:
        wrong("", value, "a mapping with exactly order and signatures")
        return None
    order = _body(value["order"], problems, wrong)
    entries = value["signatures"]
    if not isinstance(entries, list) or len(entries) > 1 + APPROVERS:
        wrong("signatures", entries, f"a list of at most {1 + APPROVERS}")
        return None
    found = [_signature(index, entry, wrong) for index, entry in enumerate(entries)]
    good = tuple(one for one in found if one is not None)
    names = [one.by for one in good]
    for name in sorted({name for name in names if names.count(name) > 1}):
        wrong("signatures", f"{name} again", "every signature by another person")
    acts = [one.act for one in good]
    if acts != [Act.REQUEST, *[Act.APPROVE] * (len(acts) - 1)][: len(acts)]:
        wrong("signatures", [act.value for act in acts], "the request first, then approvals")
    return None if order is None else replace(order, signatures=good)


def _signature(index: int, entry: Any, wrong: Wrong) -> Signature | None:
    key = f"signatures[{index}]"
    if not isinstance(entry, Mapping) or set(entry) != {"act", "by", "signature"}:
        wrong(key, entry, "a mapping with exactly act, by and signature")
        return None
    act, by, text = entry["act"], entry["by"], entry["signature"]
    if act not in tuple(Act):
        wrong(f"{key}.act", act, "request or approve")
    elif not isinstance(by, str) or not PERSON.fullmatch(by):
        wrong(f"{key}.by", by, "a person of the site")
    elif not isinstance(text, str) or not _DER.fullmatch(text):
        wrong(f"{key}.signature", text, "a signature in lower-case hex")
    else:
        return Signature(Act(act), by, bytes.fromhex(text))
    return None


def _body(body: Any, problems: list[Problem], wrong: Wrong) -> Order | None:
    if not isinstance(body, Mapping) or set(body) != _KEYS:
        wrong("order", body, f"a mapping with exactly {', '.join(sorted(_KEYS))}")
        return None
    if not speaks(body["schema"], SCHEMA):
        wrong("schema", body["schema"], str(SCHEMA))
        return None
    kind = KINDS.get(body["kind"]) if isinstance(body["kind"], str) else None
    if kind is None:
        wrong("kind", body["kind"], f"one of {', '.join(KINDS)}")
        return None
    for key, form, expected in (
        ("id", ID, "a date and 16 hex digits, as `sekisho` gives it"),
        ("site", NAME, "a site's name"),
        ("host", HOST_NAME, "a machine's name"),
        ("requester", PERSON, "a person of the site"),
        ("reason", _REASON, "3 to 400 characters that people can read"),
    ):
        if not isinstance(body[key], str) or not form.fullmatch(body[key]):
            wrong(key, body[key], expected)
    times = {key: _time(key, body[key], wrong) for key in ("made", "start", "end")}
    problems += kind.content("content", body["content"])
    made, start, end = times["made"], times["start"], times["end"]
    if made is None or start is None or end is None:
        return None
    _window(body, (made, start, end), kind.longest, wrong)
    if problems:
        return None
    texts = {key: body[key] for key in ("kind", "id", "site", "host", "requester", "reason")}
    return Order(
        **texts,
        made=made,
        start=start,
        end=end,
        content=body["content"],
        body=body,
        data=canonical(body),
    )


def _window(
    body: Mapping[str, Any],
    times: tuple[datetime, datetime, datetime],
    longest: timedelta,
    wrong: Wrong,
) -> None:
    made, start, end = times
    if not start < end:
        wrong("end", body["end"], f"later than the start, {body['start']}")
    elif end - start > longest:
        hours = int(longest.total_seconds()) // 3600
        wrong("end", body["end"], f"at most {hours} hours after the start, {body['start']}")
    if not timedelta() <= start - made <= LONGEST_WAIT:
        expected = f"at most {LONGEST_WAIT.days} days before the start, {body['start']}"
        wrong("made", body["made"], expected)


def _time(key: str, text: Any, wrong: Wrong) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text if _TIME.fullmatch(text) else "").astimezone(UTC)
        if write_time(moment) == text:
            return moment
    except (TypeError, ValueError, OverflowError):
        pass
    wrong(key, text, "a time such as 2026-11-25T05:00:00Z")
    return None
