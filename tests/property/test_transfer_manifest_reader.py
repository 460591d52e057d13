"""The reader of manifests against a general JSON reader, and what hostile ones cost."""

from __future__ import annotations

import io
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.transfer.manifest import (
    DELIVERY,
    EMPTY,
    HEX64,
    MAX_FILES,
    MAX_MANIFEST,
    MAX_PART,
    MAX_SEQUENCE,
    MAX_TOTAL,
    PARTY,
    Entry,
    Manifest,
    Part,
    digest_of,
    each_file,
    parse_manifest,
)
from sekisho.transfer.names import check_path, check_together

some = settings(max_examples=examples(1000), deadline=None, database=None)
MIB = 1024 * 1024


def whole(value: Any, low: int, high: int) -> int:
    assert type(value) is int
    assert low <= value <= high
    return value


def reference(raw: bytes) -> Manifest:
    """Read a manifest as JSON and look at everything; any error is a refusal."""
    top = json.loads(raw.decode())
    assert canonical(top) == raw
    assert top.keys() == {"v", "delivery", "sequence", "from", "to", "created", "files", "total"}
    whole(top["v"], 1, 1)
    entries, index = [], 0
    assert top["files"]
    for item in top["files"]:
        assert item.keys() == {"path", "size", "sha256", "parts"}
        parts, offset = [], 0
        for piece in item["parts"]:
            assert piece.keys() == {"index", "size", "sha256"}
            assert HEX64.fullmatch(piece["sha256"])
            whole(piece["index"], index, index)
            size = whole(piece["size"], 1, MAX_PART)
            parts.append(Part(index, offset, size, piece["sha256"]))
            index, offset = index + 1, offset + size
        assert whole(item["size"], 0, MAX_TOTAL) == offset
        assert item["sha256"] == digest_of(parts)
        path = check_path(item["path"], "")
        entries.append(Entry(path, offset, digest_of(parts), tuple(parts)))
    check_together((one.path for one in entries), "")
    assert whole(top["total"], 0, MAX_TOTAL) == sum(one.size for one in entries)
    assert DELIVERY.fullmatch(top["delivery"])
    assert PARTY.fullmatch(top["from"])
    assert PARTY.fullmatch(top["to"])
    return Manifest(
        top["delivery"],
        whole(top["sequence"], 1, MAX_SEQUENCE),
        top["from"],
        top["to"],
        whole(top["created"], 0, MAX_SEQUENCE),
        tuple(entries),
        top["total"],
    )


def judged(read: Callable[[bytes], Manifest], raw: bytes) -> Manifest | None:
    try:
        return read(raw)
    except (SekishoError, AssertionError, ValueError, TypeError, AttributeError, KeyError):
        return None


components = st.text(st.sampled_from('ab"甲é.😀 -'), min_size=1, max_size=4)
paths = st.lists(components, min_size=1, max_size=4).map("/".join)


@st.composite
def values(draw: st.DrawFn) -> dict[str, Any]:
    files, index = [], 0
    for path in draw(st.lists(paths, min_size=1, max_size=4)):
        sizes = draw(st.lists(st.integers(1, 9), max_size=3))
        pieces = [
            {"index": index + number, "size": size, "sha256": f"{index + number:064x}"}
            for number, size in enumerate(sizes)
        ]
        index += len(pieces)
        digest = None if len(pieces) > 1 else pieces[0]["sha256"] if pieces else EMPTY
        files.append({"path": path, "size": sum(sizes), "sha256": digest, "parts": pieces})
    total = sum(one["size"] for one in files)
    return {
        "v": 1,
        "delivery": "0" * 32,
        "sequence": draw(st.integers(1, MAX_SEQUENCE)),
        "from": "a",
        "to": "b",
        "created": draw(st.integers(0, MAX_SEQUENCE)),
        "files": files,
        "total": total,
    }


@some
@given(value=values())
def test_it_takes_what_a_general_reader_takes_and_gives_the_same(value: dict[str, Any]) -> None:
    raw = canonical(value)
    found = judged(parse_manifest, raw)
    assert found == judged(reference, raw)
    if found is not None:
        assert found.to_bytes() == raw
        told = list(each_file(io.BytesIO(raw)))
        firsts = [entry.parts[0].index if entry.parts else None for entry in found.files]
        assert [one[0] for one in told] == [entry.path for entry in found.files]
        assert [one[2] for one in told] == [len(entry.parts) for entry in found.files]
        assert [one[1] if one[2] else None for one in told] == firsts


PIECES = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0061", b'\\"', b"\\/", b" ", b"\n",
    b"0", b"1", b"-", b"-0", b"00", b"1.0", b"1e3", b"null", b"true", b"NaN", b"\xff", b"\x00",
    b'"v":1', b'"size":1', b'"path":"x"', b"{}", b"[]", b"9" * 30, b"\xed\xa0\x80", b"\xc3\xa9",
]  # fmt: skip


@some
@given(value=values(), seed=st.integers(0, 2**32), cuts=st.integers(1, 3))
def test_it_takes_no_changed_bytes_that_a_general_reader_refuses(
    value: dict[str, Any], seed: int, cuts: int
) -> None:
    chance = random.Random(seed)
    raw = canonical(value)
    for _ in range(cuts):
        at = chance.randrange(len(raw) + 1)
        to = min(len(raw), at + chance.choice([0, 0, 1, 2, 5, 30]))
        raw = raw[:at] + chance.choice([b"", *PIECES]) + raw[to:]
    assert judged(parse_manifest, raw) == judged(reference, raw)


HEAD = b'{"created":0,"delivery":"' + b"0" * 32 + b'","files":['
FILE = b'{"parts":[],"path":"%s","sha256":"' + EMPTY.encode() + b'","size":0}'
PART = b'{"index":%d,"sha256":"' + b"0" * 64 + b'","size":1}'


@pytest.mark.parametrize("head", [b"", HEAD, HEAD + b'{"parts":[', HEAD + b'{"parts":[],"path":"'])
@pytest.mark.parametrize(
    "unit",
    [
        b"[", b"{", b"[],", b"{},", b"[[]],", b'{"":0},', b'{"":{}},', b"0,", b"null,", b'"",',
        b"1", b'"', b'\\"', b"\\u0041", b"\\\\", b" ", b"\n", b"a", b"a/", b"\xf0\x9f\x98\x80",
        b"\xff", b"\x00", b"-", b".", b"e", b'"a":', b"[" * 300 + b"]" * 300 + b",",
    ],
)  # fmt: skip
def test_no_repetition_costs_more_memory_than_its_own_size(head: bytes, unit: bytes) -> None:
    raw = head + unit * (2 * MIB // len(unit))
    tracemalloc.start()
    try:
        assert judged(parse_manifest, raw) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(raw)


def accepted(kind: str, size: int) -> bytes:
    """Return a manifest of about ``size`` bytes that takes as much memory as its kind can."""
    out, used, count = [], 0, 0
    while used < size:
        if kind == "parts":
            out.append(PART % count)
        elif kind == "files":
            out.append(FILE % (b"f%d" % count))
        elif kind == "folders":
            out.append(FILE % (b"%d/" % count + b"d/" * 4 + b"f"))
        else:  # a letter of four bytes makes every other one as large
            name = "/".join([f"{count}😀" + "D" * 230] * 15)
            out.append(FILE % name.encode())
        used, count = used + len(out[-1]) + 1, count + 1
    if kind == "parts":
        files = b'{"parts":[' + b",".join(out) + b'],"path":"x","sha256":null,"size":%d}' % count
        return HEAD + files + b'],"from":"a","sequence":1,"to":"b","total":%d,"v":1}' % count
    return HEAD + b",".join(out) + b'],"from":"a","sequence":1,"to":"b","total":0,"v":1}'


@pytest.mark.parametrize("kind", ["parts", "files", "folders", "wide"])
def test_a_manifest_that_is_taken_costs_a_few_times_its_size(kind: str) -> None:
    raw = accepted(kind, MIB // 2)
    tracemalloc.start()
    try:
        assert parse_manifest(raw).part_count() >= 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * len(raw)


@pytest.mark.parametrize("kind", ["parts", "files", "folders", "wide"])
def test_four_times_the_bytes_take_no_more_than_six_times_the_time(kind: str) -> None:
    taken = []
    for size in (MIB // 4, MIB):
        raw = accepted(kind, size)
        times = []
        for _ in range(3):
            begin = time.process_time()
            parse_manifest(raw)
            times.append(time.process_time() - begin)
        taken.append(min(times))
    assert taken[1] <= 6 * taken[0] + 0.02


@pytest.mark.slow
def test_more_files_parts_folders_or_bytes_than_allowed_are_refused() -> None:
    files = b",".join(FILE % (b"%d" % number) for number in range(MAX_FILES + 1))
    parts = b'{"parts":[' + b",".join(PART % number for number in range(200_001))
    folders = b",".join(FILE % (b"%d/" % number + b"d/" * 40 + b"f") for number in range(2500))
    long = HEAD + (FILE % b"x" + b",") * (MAX_MANIFEST // 100)
    for raw, why in ((files, "files"), (parts, "parts"), (folders, "folders"), (long, "")):
        with pytest.raises(SekishoError) as caught:
            parse_manifest(HEAD + raw if raw is not long else raw)
        assert why in caught.value.diagnostics()
