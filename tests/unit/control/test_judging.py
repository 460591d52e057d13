"""A hostile host's facts are parsed and judged in a process with limits, and cost no other host."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sekisho.catalogue.compiled import compile_catalogue, from_json
from sekisho.catalogue.model import Verdict
from sekisho.control.catalogue_files import load_sources, parse_sources
from sekisho.control.judging.hosts import PLACES, Judging, bundle_judge
from sekisho.core.canonical import canonical
from sekisho.evidence.bundle import make_bundle
from sekisho.evidence.report import (
    AuditRun,
    HostRecord,
    OverBudgetError,
    judge_host,
    judge_run,
    needed_probes,
)
from sekisho.evidence.scope import Scope
from sekisho.evidence.verification import Stored, Trust, verify
from sekisho.facts.answer import Answer, host_nonce
from sekisho.facts.wire import (
    HEADER_BYTES,
    MAX_RAW_VALUES,
    Packed,
    Request,
    WireError,
    decode_response,
    encode_response,
)
from siteworld import host_policy

pytestmark = pytest.mark.process
SOURCES = load_sources(Path(__file__).resolve().parents[3] / "hardening")
CATALOGUE = parse_sources(SOURCES)
COMPILED = compile_catalogue(SOURCES)
PROBES = needed_probes(CATALOGUE)
SEEDS = json.loads(
    (Path(__file__).resolve().parents[2] / "golden/outcomes.json").read_text(encoding="utf-8")
)
ASK = Request("ab" * 24, PROBES)
HOSTS = ("core-1", "gate-in", "evil")
POLICIES = {name: host_policy("core-1", host=name) for name in HOSTS}
PATIENT = 120.0


def facts(**more: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "milliseconds": 5,
        "probes": {name: SEEDS[name] for name in PROBES} | more,
    }


def answer(raw: dict[str, Any]) -> bytes:
    return encode_response(ASK, "sekisho 0.1.0", raw)[HEADER_BYTES:]


def framed(inner: bytes) -> bytes:
    """Return an answer with a right digest around facts that `canonical` would not make."""
    raw = b'{"probes":{"%s":%s}}' % (PROBES[0].encode(), inner)
    told = hashlib.sha256(raw).hexdigest().encode()
    body = b'{"collector":"x","digest":"%s","nonce":"%s","raw":%s,"schema":1}'
    return zlib.compress(body % (told, ASK.nonce.encode(), raw), 9)


def environment(text: str) -> dict[str, Any]:
    entry = {"mode": 0o644, "uid": 0, "gid": 0, "kind": "file", "text": text}
    return facts(preload={"files": {"files": {"/etc/environment": entry}}})


@pytest.fixture(scope="module")
def judging() -> Iterator[Judging]:
    with Judging(COMPILED, None) as running:
        yield running


def test_an_honest_answer_is_judged_as_in_one_process(judging: Judging) -> None:
    body = answer(facts())
    found = judging.reader(POLICIES)(body, ASK, "core-1", PATIENT)
    here = decode_response(body, ASK)
    record = HostRecord("core-1", here.raw, POLICIES["core-1"])
    assert found.findings == judge_host(CATALOGUE, record, None)
    assert {finding.verdict for finding in found.findings or ()} > {Verdict.ERROR}
    assert isinstance(found.raw, Packed)
    assert found.raw.value() == here.raw
    assert (found.digest, found.collector) == (here.digest, here.collector)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (framed(b"[" + b"[]," * (8 << 20) + b"[]]"), "unpacks to more than"),  # 98 KB, then 2.5 GB
        (framed(b"[" + b'{"":0},' * (3 << 20) + b"{}]"), "unpacks to more than"),
        (framed(b"[" + b"[]," * MAX_RAW_VALUES + b"[]]"), "more than 250000 values"),
        (framed(b'{"a":' * 40_000 + b"1" + b"}" * 40_000), "nested deeper"),
        (framed(b"[" * 900 + b"]" * 900), "nested deeper"),
        (b"\x00" * 100_000, "garbled"),
    ],
)
def test_an_answer_too_large_in_any_way_is_refused_before_it_is_parsed(
    judging: Judging, body: bytes, told: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WireError, match=told):
        judging.reader(POLICIES)(body, ASK, "evil", PATIENT)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_host_that_takes_too_long_ends_at_its_own_deadline(judging: Judging) -> None:
    text = "".join(f"LD_A{number}=x\n" for number in range(900_000))
    started = time.monotonic()
    with pytest.raises(OverBudgetError, match=r"took more than 0\.2 s"):
        judging.reader(POLICIES)(answer(environment(text)), ASK, "evil", 0.2)
    assert time.monotonic() - started < 30
    assert judging.reader(POLICIES)(answer(facts()), ASK, "core-1", PATIENT).findings


#: Enough for an honest answer, not for a million and a half lines.
SMALL = 160 << 20


def test_a_host_that_takes_too_much_memory_is_told_and_the_next_is_judged() -> None:
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    text = "".join(f"LD_{number}=\n".translate(letters) for number in range(1_500_000))
    with Judging(COMPILED, None, size=SMALL) as judging:
        read = judging.reader(POLICIES)
        try:
            found = read(answer(environment(text)), ASK, "evil", PATIENT).findings or ()
        except OverBudgetError as told:
            assert "memory" in str(told) or "MemoryError" in str(told)  # noqa: PT017
        else:  # the memory went out under one reader, and it said so
            assert any("MemoryError" in finding.observed for finding in found)
        assert read(answer(facts()), ASK, "core-1", PATIENT).findings


class Counted:
    """A semaphore that remembers how many were inside at once."""

    def __init__(self, held: threading.BoundedSemaphore) -> None:
        self.held, self.inside, self.most = held, 0, 0

    def __enter__(self) -> None:
        self.held.acquire()
        self.inside += 1
        self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        self.inside -= 1
        self.held.release()


def test_hostile_hosts_hold_no_other_thread_and_no_more_than_their_places(
    judging: Judging,
) -> None:
    body = answer(environment("".join(f"LD_A={n}\n" for n in range(600_000))))
    longest, stop = [0.0], threading.Event()
    places = Counted(judging._places)

    def honest() -> None:
        last = time.thread_time()
        while not stop.wait(0.01):
            now = time.thread_time()  # of this thread: what the other processes take is not seen
            longest[0] = max(longest[0], now - last)
            last = now

    def hostile(number: int) -> None:
        with contextlib.suppress(OverBudgetError):
            judging.reader(POLICIES)(body, ASK, HOSTS[number % 3], 3.0)

    judging._places = places  # type: ignore[assignment] # only counts
    before = time.process_time()
    watcher = threading.Thread(target=honest)
    watcher.start()
    threads = [threading.Thread(target=hostile, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    judging._places = places.held
    assert 0 < places.most <= PLACES
    # 16 hosts, each a second and more of parsing: none of it is done in this process.
    assert time.process_time() - before < 4


def test_a_judging_process_that_was_killed_is_started_again(judging: Judging) -> None:
    assert judging._process is not None
    judging._process.kill()
    judging._process.wait()
    assert judging.reader(POLICIES)(answer(facts()), ASK, "core-1", PATIENT).findings


#: This tool's own catalogue is the one that the bundles here are judged by.
OWN = Trust(catalogue=from_json(COMPILED, "catalogue.json"))


def bundle(raw: dict[str, Any]) -> dict[str, bytes]:
    nonce = "0" * 64
    answer = Answer(host_nonce(nonce, "core-1"))
    run = AuditRun(
        mode="ssh", site="lab", profile=None, started="2026-01-01T00:00:00Z",
        finished="2026-01-01T00:00:01Z", tool="sekisho test", nonce=nonce,
        scope=Scope(
            hosts=("core-1",), items=tuple(one.id for one in CATALOGUE.items),
            checks=tuple(one.id for one in CATALOGUE.checks),
        ),
        hosts=(HostRecord("core-1", raw, POLICIES["core-1"], collector="sekisho test",
                          answer=answer),),
    )  # fmt: skip
    made = make_bundle(CATALOGUE, COMPILED, run, judge_run(CATALOGUE, run))
    return dict(made.files) | {"MANIFEST.json": made.manifest}


def test_a_bundle_is_judged_in_the_limited_process_to_the_same_bytes() -> None:
    stored = Stored(bundle(facts()))
    here = verify(stored, tool="sekisho test", trust=OWN)
    apart = verify(stored, tool="sekisho test", trust=OWN, judging=bundle_judge)
    assert here.judged is not None
    assert apart.judged is not None
    assert apart.judged == here.judged
    assert (apart.broken, apart.unknown) == (here.broken, here.unknown)


def test_packed_facts_are_written_into_a_bundle_as_parsed_ones() -> None:
    parsed = AuditRun(
        mode="ssh", site="lab", profile=None, started="a", finished="b", tool="t",
        hosts=(HostRecord("core-1", facts(), POLICIES["core-1"]),),
    )  # fmt: skip
    judged = judge_run(CATALOGUE, parsed)
    packed = replace(parsed, hosts=(replace(parsed.hosts[0], raw=Packed.of(canonical(facts()))),))
    assert (
        make_bundle(CATALOGUE, COMPILED, packed, judged).files
        == make_bundle(CATALOGUE, COMPILED, parsed, judged).files
    )


def test_facts_of_a_bundle_that_cannot_be_judged_within_limits_are_could_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sekisho.control.judging.hosts.BUNDLE_SECONDS", 0.001)
    stored = Stored(bundle(facts()))
    found = verify(stored, tool="sekisho test", trust=OWN, judging=bundle_judge)
    assert found.exit_code == 2
    assert any("facts/core-1.json cannot be judged" in one for one in found.unknown)
