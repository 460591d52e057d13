"""The journal's record, its seals and what others may submit."""

from __future__ import annotations

import json

import pytest

from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.journal.intake import (
    MAX_MESSAGE,
    accepted,
    parse_answer,
    parse_submission,
    refused,
    submission,
)
from sekisho.journal.records import (
    MAX_DATA,
    Origin,
    encode_data,
    genesis,
    make_line,
    parse_line,
    skim_line,
)

ORIGIN = Origin("core-1", "0f0e")


def line(n: int = 1, data: object = None, prev: str = "") -> bytes:
    raw = encode_data({"x": 1} if data is None else data)  # type: ignore[arg-type]
    return make_line(ORIGIN, n, 5, "a.b", raw, prev or genesis("core-1"))[0]


def test_a_line_is_the_canonical_json_of_its_record() -> None:
    raw = line()
    assert canonical(json.loads(raw)) + b"\n" == raw
    record = parse_line(raw)
    assert (record.n, record.t, record.host, record.boot) == (1, 5, "core-1", "0f0e")
    assert record.prev == genesis("core-1")


def test_skimming_and_parsing_agree_even_when_the_data_imitates_an_envelope() -> None:
    inner = json.loads(line(7))
    for data in (inner, {"s": line(3).decode()}, {"a": {"t": 1, "z": inner}}, {"é\n\0": "☃"}):
        raw = line(2, data)
        link, record = skim_line(raw), parse_line(raw)
        assert link is not None
        assert (link.n, link.host, link.kind, link.prev, link.hash) == (
            record.n,
            record.host,
            record.kind,
            record.prev,
            record.hash,
        )


def test_bytes_that_are_no_utf8_are_written_as_text() -> None:
    name = b"/tmp/\xff\xfe".decode("utf-8", "surrogateescape")
    record = parse_line(line(data={"path": name, name: [name]}))
    assert record.data["path"] == "/tmp/\\udcff\\udcfe"


@pytest.mark.parametrize(
    "data",
    [
        {"x": 1.5},
        {"x": 2**64},
        {"x": float("nan")},
        {"x": {1: 2}},
        {"x": b"bytes"},
        {"x": "a" * MAX_DATA},
        [1],
        None,
    ],
)
def test_data_without_a_canonical_form_is_refused(data: object) -> None:
    with pytest.raises(SekishoError):
        encode_data(data)  # type: ignore[arg-type]


def test_nesting_without_end_is_refused() -> None:
    data: dict[str, object] = {}
    for _ in range(2000):
        data = {"x": data}
    with pytest.raises(SekishoError, match="not journalled"):
        encode_data(data)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 60000,
        b'{"kind":"a"}',
        b'{"kind":"a","data":{},"n":1}',
        b'{"kind":"a","kind":"a","data":{}}',
        b'{"kind":"A","data":{}}',
        b'{"kind":"","data":{}}',
        b'{"kind":"a\\n","data":{}}',
        b'{"kind":7,"data":{}}',
        b'{"kind":"a","data":[]}',
        b'{"kind":"a","data":{"x":1.0}}',
        b'{"kind":"a","data":{"x":NaN}}',
        b'{"kind":"a","data":{"x":1e400}}',
        b'{"kind":"a","data":{"x":' + b"9" * 5000 + b"}}",
        b'{"kind":"a","data":{"x":"\\ud800"}}',
        b'{"kind":"a","data":{"x":"\xff"}}',
        b'{"kind":"seal","data":{}}',
        b'{"kind":"journal.repaired","data":{}}',
        b'{"kind":"a","data":{"x":"' + b"y" * MAX_DATA + b'"}}',
        b" " * (MAX_MESSAGE + 1),
    ],
)
def test_a_hostile_submission_is_refused_with_a_reason(raw: bytes) -> None:
    with pytest.raises(SekishoError) as caught:
        parse_submission(raw)
    answer = refused(caught.value)
    assert json.loads(answer)["error"]
    assert len(answer) <= 4096
    with pytest.raises(SekishoError):
        parse_answer(answer)


def test_a_proper_submission_comes_through() -> None:
    event = parse_submission(submission("transfer.received", {"日": ["a", None, True, -3]}))
    assert (event.kind, event.data) == ("transfer.received", {"日": ["a", None, True, -3]})
    assert parse_answer(accepted(17)) == 17


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"n":"1"}', b'{"n":true}', b"7", b"\xff"])
def test_an_answer_that_is_none_is_an_error(raw: bytes) -> None:
    with pytest.raises(SekishoError):
        parse_answer(raw)


@pytest.mark.parametrize(("host", "boot"), [("", "b"), ("a b", "b"), ("a", ""), ("a\n", "b")])
def test_a_host_without_a_proper_name_cannot_write(host: str, boot: str) -> None:
    with pytest.raises(SekishoError):
        Origin(host, boot)
