"""Whatever one peer does, in any order and with restarts between: the other's delivery arrives."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from examples import examples
from hostilepeer import (
    HOST,
    PEERS,
    A,
    B,
    Book,
    Clock,
    announce,
    announce_raw,
    deliver,
    disk,
    manifest_of,
    part_bytes,
    promise,
    push_bytes,
)
from sekisho.core.errors import SekishoError
from sekisho.host.transfer.store import Limits, Store
from sekisho.transfer.manifest import Manifest

MIB = 1024 * 1024
DISK = 64 * MIB
LIMITS = Limits(spare_bytes=MIB, spare_files=10)
FILES = [("甲/one", b"1" * 5000), ("two", b"2"), ("empty", b"")]


class Neighbours(RuleBasedStateMachine):
    """A does what it likes; B sends honestly and is never refused."""

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.root = Path(tempfile.mkdtemp(prefix="sekisho-", dir=memory))
        self.clock = Clock()
        self.book = Book(self.clock)
        self.patch = mock.patch("os.statvfs", disk(self.root, DISK))
        self.patch.start()
        self.ours: list[Manifest] = []
        self.numbers = {A: 0, B: 0}
        self.begun: tuple[Manifest, int, float] | None = None
        self.start()

    def start(self) -> None:
        self.store = Store(
            self.root, self.book, name=HOST, limits=LIMITS, peers=PEERS, clock=self.clock
        )

    def hostile(self, manifest: Manifest) -> None:
        with contextlib.suppress(SekishoError):
            announce(self.store, manifest, A)
            self.ours.append(manifest)

    def next(self) -> int:
        self.numbers[A] += 1
        return self.numbers[A]

    def stamp(self, one: Manifest) -> None:
        """Give the folders the time of our clock: the kernel's stands still meanwhile."""
        for path in (self.root / "partial" / one.delivery).glob("[mp]a*"):
            os.utime(path, (self.clock.now, self.clock.now))

    # -- what A does -------------------------------------------------------------------------

    @rule(times=st.integers(1, 40), size=st.integers(0, 8 * MIB))
    def a_announces_and_leaves(self, times: int, size: int) -> None:
        for _ in range(times):
            self.hostile(
                promise(size, secrets.token_hex(16), sender="hospital-a", sequence=self.next())
            )

    @rule(size=st.sampled_from([DISK // 2, DISK, 2**36, 2**42]))
    def a_promises_more_than_the_disk(self, size: int) -> None:
        self.hostile(
            promise(size, secrets.token_hex(16), sender="hospital-a", sequence=self.next())
        )

    @rule(number=st.sampled_from([0, 1, 1001, 5000, 2**31, 2**53, 2**60]))
    def a_leaps(self, number: int) -> None:
        with contextlib.suppress(SekishoError):
            one = promise(1, secrets.token_hex(16), sender="hospital-a", sequence=number)
            announce(self.store, one, A)
            self.numbers[A] = number

    @rule(path=st.sampled_from(["x/" * 63 + "y", "d" * 255, "/".join(["d" * 60] * 62), "../up"]))
    def a_names_the_impossible(self, path: str) -> None:
        self.hostile(
            manifest_of(
                [(path, b"x")], secrets.token_hex(16), sender="hospital-a", sequence=self.next()
            )
        )

    @rule(raw=st.sampled_from([b"[" * MIB, b"[]," * MIB, b'{"":0},' * MIB, b"9" * MIB, b"\xff"]))
    def a_sends_no_manifest(self, raw: bytes) -> None:
        with contextlib.suppress(SekishoError):
            announce_raw(self.store, raw, secrets.token_hex(16), A)

    @rule(raw=st.binary(max_size=200))
    def a_sends_anything(self, raw: bytes) -> None:
        with contextlib.suppress(SekishoError):
            push_bytes(self.store, raw, A)

    @rule(size=st.integers(1, 6 * MIB))
    def a_fills(self, size: int) -> None:
        files = [("f", bytes(size))]
        one = manifest_of(files, secrets.token_hex(16), sender="hospital-a", sequence=self.next())
        with contextlib.suppress(SekishoError, OSError):
            deliver(self.store, one, files, A)

    @precondition(lambda self: self.begun)
    @rule()
    def a_meddles(self) -> None:
        assert self.begun
        manifest, index, _ = self.begun
        with contextlib.suppress(SekishoError):
            announce(self.store, manifest, A)
        with contextlib.suppress(SekishoError, IndexError):
            push_bytes(self.store, part_bytes(manifest, FILES, index), A)

    # -- what happens to both ----------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 60, 3600, 6 * 3600]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.store.expire(self.clock.now)

    @rule()
    def it_starts_again(self) -> None:
        self.start()
        assert self.store.resume() == []

    # -- what B does -------------------------------------------------------------------------

    @rule()
    def b_delivers(self) -> None:
        self.numbers[B] += 1
        self.clock.now += 1.0  # nobody sends faster than one a second for ever
        one = manifest_of(
            FILES, secrets.token_hex(16), sender="hospital-b", sequence=self.numbers[B]
        )
        deliver(self.store, one, FILES, B)
        assert "missing" not in self.book.of("transfer.announced")[-1]
        shutil.rmtree(self.root / "complete" / one.delivery)  # an operator took it away

    @precondition(lambda self: self.begun is None)
    @rule()
    def b_begins(self) -> None:
        self.numbers[B] += 1
        self.clock.now += 1.0
        one = manifest_of(
            FILES, secrets.token_hex(16), sender="hospital-b", sequence=self.numbers[B]
        )
        announce(self.store, one, B)
        self.stamp(one)
        self.begun = (one, 0, self.clock.now)

    @precondition(lambda self: self.begun)
    @rule()
    def b_goes_on(self) -> None:
        assert self.begun
        one, index, news = self.begun
        if self.clock.now - news > LIMITS.idle_seconds:  # that is B's own fault
            self.begun = None
            return
        announce(self.store, one, B)  # as `sekisho send` does after an interruption
        push_bytes(self.store, part_bytes(one, FILES, index), B)
        self.stamp(one)
        self.begun = (one, index + 1, self.clock.now) if index + 1 < one.part_count() else None
        assert (self.begun is None) == (self.root / "complete" / one.delivery).exists()
        shutil.rmtree(self.root / "complete" / one.delivery, ignore_errors=True)

    @invariant()
    def a_has_its_share_and_no_more(self) -> None:
        mine = [
            path
            for path in (self.root / "partial").iterdir()
            if (path / "about.json").exists()
            and b"hospital-a" in (path / "about.json").read_bytes()
        ]
        assert len(mine) <= LIMITS.partial

    def teardown(self) -> None:
        self.patch.stop()
        shutil.rmtree(self.root)


TestNeighbours = Neighbours.TestCase
TestNeighbours.settings = settings(
    max_examples=examples(60),
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # each step syncs, beside other tests
)
