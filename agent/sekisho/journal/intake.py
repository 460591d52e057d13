"""What other services may write into the journal, over the agent's unix socket.

One message is ``{"kind": "…", "data": {…}}``; the answer is ``{"n": 17}`` or ``{"error": "…"}``.
The bytes come from outside the writer: they are parsed once, here, and refused clearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.strict_json import strict_json
from sekisho.journal.records import (
    MAX_DATA,
    RESERVED,
    SEAL,
    check_kind,
    check_value,
    encode_data,
)

MAX_MESSAGE = MAX_DATA + 1024  # bytes; one more than this is read, and refused
MAX_ANSWER = 4096


@dataclass(frozen=True, slots=True)
class Submission:
    """An event somebody asks the writer to keep: its kind and its data (JSON without floats)."""

    kind: str
    data: dict[str, Any]


def _refuse(key: str, got: str, expected: str) -> SekishoError:
    return SekishoError("the event was refused", (Problem("submission", key, got, expected),))


def check_public_kind(kind: str) -> str:
    """Return ``kind`` unless it is none or belongs to the writer alone (seals, ``journal.*``)."""
    check_kind(kind)
    if kind == SEAL or kind.startswith(RESERVED):
        raise _refuse("kind", kind, "a kind that is not the writer's own (seal, journal.*)")
    return kind


def parse_submission(raw: bytes) -> Submission:
    """Return the event of one message.

    Raises:
        SekishoError: too long, no UTF-8, no JSON, other keys, a kind or data the journal refuses.

    """
    if len(raw) > MAX_MESSAGE:
        raise _refuse("", f"{len(raw)} bytes or more", f"at most {MAX_MESSAGE} bytes")
    try:
        value = strict_json(raw, size=MAX_MESSAGE)
        check_value(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise _refuse("", printable(str(error)), "one JSON object in UTF-8") from error
    if not isinstance(value, dict) or value.keys() != {"kind", "data"}:
        keys = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise _refuse("", printable(keys), "an object with kind and data, nothing else")
    if not isinstance(value["data"], dict):
        raise _refuse("data", printable(value["data"]), "an object")
    kind = check_public_kind(value["kind"])
    encode_data(value["data"])
    return Submission(kind, value["data"])


def submission(kind: str, data: dict[str, Any]) -> bytes:
    """Return the message that asks for this event; SekishoError when it would be refused."""
    check_public_kind(kind)
    return b'{"data":%s,"kind":"%s"}' % (encode_data(data), kind.encode())


def accepted(n: int) -> bytes:
    """Return the answer for an event kept as record ``n``."""
    return canonical({"n": n})


def refused(error: SekishoError) -> bytes:
    """Return the answer for an event that was not kept."""
    return canonical({"error": printable(error.diagnostics(), MAX_ANSWER // 8)})


def parse_answer(raw: bytes) -> int:
    """Return the record number of an answer; SekishoError when it is a refusal or no answer."""
    try:
        value = strict_json(raw, size=MAX_ANSWER)
    except (ValueError, RecursionError) as error:
        raise _refuse("answer", printable(raw), "JSON with n or error") from error
    if isinstance(value, dict) and value.keys() == {"error"}:
        raise SekishoError(f"the journal refused the event: {printable(value['error'], 500)}")
    if not isinstance(value, dict) or value.keys() != {"n"} or type(value["n"]) is not int:
        raise _refuse("answer", printable(raw), "JSON with n or error")
    return int(value["n"])
