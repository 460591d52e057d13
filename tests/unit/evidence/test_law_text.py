"""The official text a reader brings: two forms, read strictly and within bounds."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.core.errors import SekishoError
from sekisho.evidence.law_text import MAX_BYTES, MAX_LINE, MAX_TEXT, read_law_text

KNOWN = ("6-iii-c", "6-iv-d-2", "12")
PLAIN = """\
# as printed by the ministry

[第六条第三号ハ]
端末装置は、
　第二行
[6(iv)(d)2]

Second text.

[12]
Third.
"""


def test_plain_text_is_read_under_its_headings() -> None:
    found = read_law_text("law.txt", PLAIN.encode(), KNOWN)
    assert dict(found.items) == {
        "6-iii-c": "端末装置は、\n 第二行",
        "6-iv-d-2": "Second text.",
        "12": "Third.",
    }
    assert found.name == "law.txt"
    assert len(found.digest) == 64
    assert found.language_of(found.items["6-iii-c"]) == "ja"
    assert found.language_of(found.items["12"]) == "en"


@pytest.mark.parametrize(
    "data", [PLAIN.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + PLAIN.encode()]
)
def test_windows_files_are_the_same_text(data: bytes) -> None:
    assert read_law_text("x", data, KNOWN).items == read_law_text("x", PLAIN.encode(), KNOWN).items


def test_json_is_read_by_item() -> None:
    told = {"第六条第三号ハ": "一", "6-iv-d-2": "two\nlines"}
    found = read_law_text("law.json", json.dumps(told, ensure_ascii=False).encode(), KNOWN)
    assert dict(found.items) == {"6-iii-c": "一", "6-iv-d-2": "two\nlines"}


BAD = {
    "nothing": (b"", "no item"),
    "only a comment": (b"# x\n", "no item"),
    "not UTF-8": (b"[12]\n\xff\xfe", "not UTF-8"),
    "text before a heading": (b"x\n[12]\ny", "line 1"),
    "unknown item": (b"[99]\nx", "99"),
    "no item at all": (b"[6-iii-z]\nx", "6-iii-z"),
    "the same twice": ("[6-iii-c]\nx\n[第六条第三号ハ]\ny".encode(), "again"),
    "no text": (b"[12]\n\n[6-iii-c]\nx", "no text"),
    "an escape": (b"[12]\n\x1b[2J", "U+001B"),
    "right to left": ("[12]\n\u202ex".encode(), "U+202E"),
    "too long": (b"[12]\n" + b"x\n" * MAX_TEXT, f"at most {MAX_TEXT}"),
    "a long line": (b"[12]\n" + b"x" * (MAX_LINE + 1), f"at most {MAX_LINE}"),
    "too large": (b"x" * (MAX_BYTES + 1), f"at most {MAX_BYTES}"),
    "a list": (b"[1]", "item"),
    "JSON cut": (b'{"12": "x"', "JSON"),
    "JSON twice": (b'{"12": "x", "12": "y"}', "JSON"),
    "JSON number": (b'{"12": 1}', "int"),
    "JSON nested": (b'{"12": {"x": "y"}}', "dict"),
    "JSON lone surrogate": (b'{"12": "\\ud800"}', "lone surrogate"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_says_what_and_where(name: str) -> None:
    data, expected = BAD[name]
    with pytest.raises(SekishoError) as caught:
        read_law_text("law.txt", data, KNOWN)
    said = caught.value.diagnostics()
    assert expected in said
    assert "law.txt" in said
    assert "docs/audit.md" in said
    assert all(line.isprintable() for line in said.split("\n"))


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = read_law_text("x", data, KNOWN)
    except SekishoError:
        return
    assert found.items
    assert set(found.items) <= set(KNOWN)


def test_the_worst_file_is_refused_at_once() -> None:
    start = time.process_time()
    for data in (b"[" * MAX_BYTES, b"{" * MAX_BYTES, b"[12]\nx\n" * 140_000):
        with pytest.raises(SekishoError):
            read_law_text("x", data[:MAX_BYTES], KNOWN)
    assert time.process_time() - start < 5
