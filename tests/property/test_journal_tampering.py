"""Thousands of generated tamperings: each must be found, and at its record."""

from __future__ import annotations

import functools
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.core.errors import SekishoError
from sekisho.journal.intake import parse_submission
from sekisho.journal.records import (
    Origin,
    encode_data,
    genesis,
    make_line,
    parse_line,
    skim_line,
)
from sekisho.journal.report import Report
from sekisho.journal.seals import (
    MAX_UNSEALED,
    MAX_UNSEALED_MS,
    Head,
    fingerprint,
    head_bytes,
    parse_head,
    seal_data,
)
from sekisho.journal.verification import Segment, segment_name, verify

KEY = ec.generate_private_key(ec.SECP384R1())
OTHER = ec.generate_private_key(ec.SECP384R1())
NAME = fingerprint(KEY.public_key())
ORIGIN = Origin("core-1", "b0")
RECORDS, SEAL_EVERY, PER_SEGMENT = 60, 10, 17

Files = list[tuple[str, list[bytes]]]


def chain(
    lines: list[tuple[str, dict[str, object]]], prev: str, n: int, key: object
) -> list[bytes]:
    """Write records from ``n`` on; kind "seal" is signed with ``key``."""
    out = []
    for kind, data in lines:
        body = data
        t = 1_000 + n * 7
        if kind == "seal":
            body = seal_data(key, NAME, Head("core-1", n, t, prev))  # type: ignore[arg-type]
        raw, prev = make_line(ORIGIN, n, t, kind, encode_data(body), prev)
        out.append(raw)
        n += 1
    return out


def content() -> list[tuple[str, dict[str, object]]]:
    return [
        ("seal", {})
        if i % SEAL_EVERY == 0
        else ("e.x", {"i": i, "who": "青木", "argv": ["a", "b"]})
        for i in range(1, RECORDS + 1)
    ]


@functools.cache
def sound() -> tuple[tuple[bytes, ...], bytes]:
    lines = chain(content(), genesis("core-1"), 1, KEY)
    last = parse_line(lines[-1])
    return tuple(lines), head_bytes(KEY, NAME, Head("core-1", last.n, last.t, last.hash))


def split(lines: list[bytes]) -> Files:
    """Cut lines into segments as the writer did (the names stay with the original numbers)."""
    return [
        (segment_name(start + 1), lines[start : start + PER_SEGMENT])
        for start in range(0, len(lines), PER_SEGMENT)
    ]


def judge(files: Files, head: bytes | None = None, own: bytes | None = None) -> Report:
    found = (Segment(name, lines) for name, lines in files)
    return verify(found, KEY.public_key(), head, own=own)


def test_the_untouched_journal_is_whole() -> None:
    lines, head = sound()
    report = judge(split(list(lines)), head)
    assert (report.exit_code, report.records, report.seals) == (0, RECORDS, RECORDS // SEAL_EVERY)
    assert report.sealed_to == RECORDS


numbers = st.integers(1, RECORDS)
many = settings(
    max_examples=examples(1500),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
some = settings(max_examples=examples(300), deadline=None, database=None)


@many
@given(n=numbers, at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found_in_its_line(n: int, at: int, bit: int) -> None:
    lines = list(sound()[0])
    line = bytearray(lines[n - 1])
    line[at % len(line)] ^= 1 << bit
    raw = b"".join([*lines[: n - 1], bytes(line), *lines[n:]])
    files, rest = [], raw.splitlines(keepends=True)
    # A flip may make or unmake a newline: cut the stream as a reader of the files would.
    rest = [piece + b"\n" for piece in raw.split(b"\n")[:-1]]
    if not raw.endswith(b"\n"):
        rest.append(raw.split(b"\n")[-1])
    before = 0
    for name, part in split(lines):
        count = len(part)
        if before <= n - 1 < before + count:
            count += len(rest) - len(lines)
        files.append((name, rest[before : before + count]))
        before += count
    report = judge(files)
    assert report.exit_code == 1
    first = report.findings[0]
    assert first.segment == segment_name((n - 1) // PER_SEGMENT * PER_SEGMENT + 1)
    assert first.line == (n - 1) % PER_SEGMENT + 1
    assert first.n == n


@some
@given(n=numbers)
def test_every_deleted_record_is_missed_at_its_place(n: int) -> None:
    lines, head = sound()
    files = split(list(lines))
    del files[(n - 1) // PER_SEGMENT][1][(n - 1) % PER_SEGMENT]
    report = judge(files, head)
    assert report.exit_code == 1
    if n == RECORDS:
        assert report.head == "beyond"
    else:
        found = [finding for finding in report.findings if finding.what == "missing"]
        assert found[0].n == n
        assert judge(files).exit_code == 1  # found without a head as well


@some
@given(n=numbers, at=st.integers(0, RECORDS), forged=st.booleans())
def test_every_inserted_record_is_found(n: int, at: int, *, forged: bool) -> None:
    lines = list(sound()[0])
    if forged:  # fits the chain before it
        prev = parse_line(lines[at - 1]).hash if at else genesis("core-1")
        extra = make_line(ORIGIN, at + 1, 5, "e.x", encode_data({"forged": True}), prev)[0]
    else:  # a copy of another record
        extra = lines[n - 1]
    report = judge([(segment_name(1), [*lines[:at], extra, *lines[at:]])])
    if forged and at == RECORDS:  # appended behind the last seal: only a seal or head can tell
        assert report.sealed_to == RECORDS
        assert report.last_n == RECORDS + 1
        return
    assert report.exit_code == 1
    assert at + 1 <= report.findings[0].line <= at + 2


@some
@given(a=numbers, b=numbers)
def test_every_swap_is_found_at_the_first_of_the_two(a: int, b: int) -> None:
    lines = list(sound()[0])
    if a == b:
        return
    a, b = sorted((a, b))
    lines[a - 1], lines[b - 1] = lines[b - 1], lines[a - 1]
    report = judge([(segment_name(1), lines)])
    assert report.exit_code == 1
    assert min(finding.line for finding in report.findings if finding.line) == a


@some
@given(n=st.integers(0, RECORDS - 1))
def test_every_truncation_is_found_with_the_head_and_never_called_complete_without(n: int) -> None:
    lines, head = sound()
    files = split(list(lines[:n]))
    report = judge(files, head)
    assert (report.exit_code, report.head) == (1, "beyond")
    assert f"n={n};" in report.completeness_text
    without = judge(files)
    assert without.exit_code == 2
    assert "no outside head" in without.completeness_text


@some
@given(n=numbers, cut=st.integers(1, 10_000))
def test_a_cut_inside_a_record_is_found_without_any_head(n: int, cut: int) -> None:
    lines = list(sound()[0][:n])
    lines[-1] = lines[-1][: -(1 + cut % (len(lines[-1]) - 1))]
    report = judge(split(lines))
    assert report.exit_code == 1
    assert (report.findings[0].what, report.findings[0].n) == ("torn", n)


@some
@given(n=numbers)
def test_a_record_rewritten_with_its_own_hash_breaks_the_link(n: int) -> None:
    lines, head = sound()
    old = parse_line(lines[n - 1])
    new = make_line(ORIGIN, n, old.t, "e.x", encode_data({"rewritten": True}), old.prev)[0]
    report = judge([(segment_name(1), [*lines[: n - 1], new, *lines[n:]])], head)
    assert report.exit_code == 1
    first = report.findings[0]
    assert first.n in {n, n + 1}
    assert first.what == ("link" if n < RECORDS else "head")


@some
@given(n=numbers, key=st.sampled_from(["other", "replay", "none"]))
def test_a_chain_rewritten_to_its_end_fails_at_the_next_seal_or_the_head(n: int, key: str) -> None:
    lines, head = sound()
    todo = content()[n - 1 :]
    if todo[0][0] != "seal":
        todo[0] = ("e.x", {"rewritten": True})
    elif n == RECORDS:
        return
    else:
        todo[1] = ("e.x", {"rewritten": True})
    if key == "none":
        todo = [entry if entry[0] != "seal" else ("e.x", {}) for entry in todo]
    prev = parse_line(lines[n - 2]).hash if n > 1 else genesis("core-1")
    new = chain(todo, prev, n, OTHER)
    if key == "replay":  # the old seals' data under new hashes
        new, chained = [], prev
        for offset, (kind, data) in enumerate(todo):
            body = parse_line(lines[n - 1 + offset]).data if kind == "seal" else data
            t = parse_line(lines[n - 1 + offset]).t
            raw, chained = make_line(ORIGIN, n + offset, t, kind, encode_data(body), chained)
            new.append(raw)
    report = judge([(segment_name(1), [*lines[: n - 1], *new])], head)
    assert report.exit_code == 1
    seals = [finding for finding in report.findings if finding.what == "seal"]
    if key != "none":
        assert seals
        assert seals[0].n in range(n, n + 2 * SEAL_EVERY)
    assert report.head == "contradicts"
    assert report.sealed_to < n + 1


@some
@given(segment=st.integers(0, (RECORDS - 1) // PER_SEGMENT))
def test_a_lost_segment_is_named(segment: int) -> None:
    lines, head = sound()
    files = split(list(lines))
    del files[segment]
    report = judge(files, head)
    assert report.exit_code == 1
    assert report.findings[0].n in {segment * PER_SEGMENT + 1, RECORDS}


@some
@given(a=st.integers(0, 3), b=st.integers(0, 3))
def test_swapped_segment_files_are_found(a: int, b: int) -> None:
    files = split(list(sound()[0]))
    if a == b:
        return
    files[a], files[b] = (files[a][0], files[b][1]), (files[b][0], files[a][1])
    assert judge(files).exit_code == 1


def test_a_long_stretch_without_seals_is_a_breach() -> None:
    lines = chain([("e", {})] * 5000, genesis("core-1"), 1, KEY)
    report = judge([(segment_name(1), lines)])
    assert [finding.what for finding in report.findings] == ["unsealed"]


def unsigned(times: list[int], n: int = RECORDS) -> list[bytes]:
    """Return the sound journal's first ``n`` records and behind them records that nobody signed."""
    lines = list(sound()[0][:n])
    last = parse_line(lines[-1])
    prev = last.hash
    for offset, t in enumerate(times, 1):
        body = encode_data({"user": "innocent", "i": offset})
        raw, prev = make_line(ORIGIN, n + offset, last.t + t, "login", body, prev)
        lines.append(raw)
    return lines


#: Times (ms behind the last seal) of records without a signature, and what may be said of them.
ENDS: dict[str, tuple[list[int], str]] = {
    "none": ([], "pass"),
    "one": ([5], "pass"),
    "as many as the writer leaves": ([1] * MAX_UNSEALED, "pass"),
    "one more": ([1] * (MAX_UNSEALED + 1), "error"),
    "four thousand": (list(range(4000)), "error"),
    "as long as the writer waits": ([0, 30_000, MAX_UNSEALED_MS], "pass"),
    "longer": ([0, MAX_UNSEALED_MS + 1], "error"),
    "longer, in the wrong order": ([MAX_UNSEALED_MS + 1, 0], "error"),
    "longer, in between": ([0, MAX_UNSEALED_MS + 1, 1], "error"),
    "days": ([day * 86_400_000 for day in range(9)], "error"),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("heads", ["none", "outside", "own", "both"])
def test_an_unsigned_end_is_believed_within_the_writers_promise_only(name: str, heads: str) -> None:
    times, expected = ENDS[name]
    head = sound()[1]
    outside = head if heads in {"outside", "both"} else None
    own = head if heads in {"own", "both"} else None
    report = judge([(segment_name(1), unsigned(times))], outside, own)
    assert (report.integrity, report.unproven, report.proven_to) == (expected, len(times), RECORDS)
    assert bool(report.unproven_text) == (expected == "error")
    assert report.exit_code == (2 if expected == "error" or outside is None else 0)


def test_a_seal_behind_it_makes_a_long_end_believable_again() -> None:
    lines = unsigned([day * 86_400_000 for day in range(9)])
    last = parse_line(lines[-1])
    place = Head("core-1", last.n + 1, last.t, last.hash)
    data = encode_data(seal_data(KEY, NAME, place))
    lines.append(make_line(ORIGIN, place.n, place.t, "seal", data, place.hash)[0])
    report = judge([(segment_name(1), lines)], sound()[1])
    assert (report.exit_code, report.unproven, report.proven_to) == (0, 0, place.n)
    assert report.completeness_text.startswith(f"complete up to n={RECORDS}")


def test_records_without_any_signature_are_not_the_hosts() -> None:
    report = judge([(segment_name(1), chain([("e", {})] * 3, genesis("core-1"), 1, KEY))])
    assert (report.integrity, report.exit_code) == ("error", 2)
    assert "no valid signature at all" in report.unproven_text


@some
@given(kept=st.integers(1, RECORDS - 1), at=st.integers(1, RECORDS - 1), forged=st.integers(0, 90))
def test_the_own_head_convicts_whatever_head_is_given(kept: int, at: int, forged: int) -> None:
    """Cut behind the head that was carried away, replaced by records that nobody signed."""
    lines = sound()[0]
    carried = parse_line(lines[min(kept, at) - 1])
    outside = head_bytes(KEY, NAME, Head("core-1", carried.n, carried.t, carried.hash))
    end = unsigned([1] * forged, kept)
    report = judge([(segment_name(1), end)], outside, own=sound()[1])
    assert report.head in {"inside", "matches"}
    assert report.own_head == ("beyond" if len(end) < RECORDS else "contradicts")
    assert report.exit_code == 1
    assert [finding.what for finding in report.findings] == ["head"]


@some
@given(own=st.binary(max_size=5000))
def test_a_head_beside_the_journal_that_is_none_is_a_breach(own: bytes) -> None:
    lines, head = sound()
    report = judge(split(list(lines)), head, own)
    assert (report.own_head, report.exit_code) == ("refused", 1)
    assert report.findings[0].text.startswith("head.json beside the journal: ")


def test_a_clock_set_back_is_no_tampering() -> None:
    prev, lines = genesis("core-1"), []
    for n, t in enumerate([100, 50, 60, 10], 1):
        raw, prev = make_line(ORIGIN, n, t, "e", b"{}", prev)
        lines.append(raw)
    report = judge([(segment_name(1), lines)], head_bytes(KEY, NAME, Head("core-1", 4, 10, prev)))
    assert (report.exit_code, report.clock_back) == (0, 2)


def test_a_head_of_another_key_or_host_proves_nothing() -> None:
    lines, _ = sound()
    last = parse_line(lines[-1])
    files = split(list(lines))
    other = head_bytes(OTHER, NAME, Head("core-1", last.n, last.t, last.hash))
    assert (judge(files, other).head, judge(files, other).exit_code) == ("refused", 2)
    foreign = head_bytes(KEY, NAME, Head("core-2", last.n, last.t, last.hash))
    assert (judge(files, foreign).head, judge(files, foreign).exit_code) == ("contradicts", 1)


def test_an_empty_journal_is_not_a_pass() -> None:
    assert judge([]).exit_code == 2
    assert judge([], sound()[1]).exit_code == 1


@some
@given(raw=st.binary(max_size=400))
def test_any_bytes_are_judged_without_a_crash(raw: bytes) -> None:
    report = judge([(segment_name(1), raw.splitlines(keepends=True))])
    assert report.exit_code in {1, 2}
    assert skim_line(raw) is None
    with pytest.raises(SekishoError):
        parse_head(raw, KEY.public_key())
    with pytest.raises(SekishoError):
        parse_submission(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@some
@given(data=st.dictionaries(st.text(max_size=12), json_values, max_size=6), t=st.integers(0, 2**53))
def test_any_data_comes_back_as_it_went_in(data: dict[str, object], t: int) -> None:
    raw, name = make_line(ORIGIN, 1, t, "e", encode_data(data), genesis("core-1"))
    record = parse_line(raw)
    link = skim_line(raw)
    assert link is not None
    assert (record.data, record.t, record.hash, link.hash) == (data, t, name, name)
    assert json.loads(raw)["data"] == data
