"""The receiver's store: whole or nothing, journalled or refused, whatever is pulled out when."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sekisho.core.errors import SekishoError
from sekisho.host.transfer.files import digest_files, find_files
from sekisho.host.transfer.receive import Pace, serve
from sekisho.host.transfer.store import Limits, Peer, Store
from sekisho.transfer.header import Header
from sekisho.transfer.manifest import Manifest

PEER = Peer("10.0.0.1", "left")
PACE = Pace(header_seconds=2, idle_seconds=2)
FILES = {"a": b"first", "empty": b"", "甲/big": b"0123456789" * 100, "甲/乙/c": b"last"}
PART = 300


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory where there is one: every step here is synced."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    place = memory / f"sekisho-{os.getpid()}-{tmp_path.name}"
    place.mkdir()
    yield place
    shutil.rmtree(place)


class Book(list[tuple[str, dict[str, Any]]]):
    """A journal that can refuse."""

    refusing = False

    def __call__(self, kind: str, data: dict[str, Any]) -> int:
        if self.refusing:
            raise SekishoError("the journal refuses")
        self.append((kind, data))
        return len(self)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self]


def source(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def manifest_of(root: Path, *, number: int = 1, delivery: str = "") -> Manifest:
    entries = digest_files(root, find_files(root), PART, lambda _: None)
    total = sum(entry.size for entry in entries)
    name = delivery or f"{number:032x}"
    return Manifest(name, number, "left", "right", 5, entries, total)


def push(store: Store, header: Header, raw: bytes, peer: Peer = PEER, pace: Pace = PACE) -> str:
    """Push one object over a socket pair as a sender would; return what the receiver did."""
    return push_bytes(store, header.line() + raw, peer, pace)


def push_bytes(store: Store, raw: bytes, peer: Peer = PEER, pace: Pace = PACE) -> str:
    ours, theirs = socket.socketpair()

    def send() -> None:
        with contextlib.suppress(OSError):
            ours.sendall(raw)
            ours.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return serve(theirs, peer, store, pace)
    finally:
        ours.close()
        sender.join()


def announce(store: Store, manifest: Manifest, peer: Peer = PEER) -> str:
    raw = manifest.to_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    return push(store, Header("manifest", manifest.delivery, 0, len(raw), digest), raw, peer)


def pieces(root: Path, manifest: Manifest) -> list[tuple[Header, bytes]]:
    return [
        (
            Header("part", manifest.delivery, part.index, part.size, part.sha256),
            (root / entry.path).read_bytes()[part.offset : part.offset + part.size],
        )
        for entry, part in manifest.parts()
    ]


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()
    }


def test_a_delivery_appears_whole_with_its_last_part(tmp_path: Path) -> None:
    root, book = source(tmp_path), Book()
    store = Store(tmp_path / "store", book, name="right")
    manifest = manifest_of(root)
    announce(store, manifest)
    for header, raw in pieces(root, manifest):
        assert list((tmp_path / "store/complete").iterdir()) == []
        push(store, header, raw)
    assert tree(tmp_path / "store/complete" / manifest.delivery) == FILES
    assert list((tmp_path / "store/partial").iterdir()) == []
    assert book.kinds() == ["transfer.announced", "transfer.received"]
    entry = book[1][1]
    assert (entry["from"], entry["to"], entry["peer"]) == ("left", "right", "10.0.0.1")
    assert (entry["files"], entry["bytes"]) == (4, manifest.total)
    assert entry["manifest_sha256"] == hashlib.sha256(manifest.to_bytes()).hexdigest()
    modes = {one.stat().st_mode & 0o777 for one in (tmp_path / "store/complete").rglob("*")}
    assert all(mode & 0o027 == 0 or mode == 0o750 for mode in modes)


def test_everything_sent_again_is_answered_as_held_and_journalled_once(tmp_path: Path) -> None:
    root, book = source(tmp_path), Book()
    store = Store(tmp_path / "store", book)
    manifest = manifest_of(root)
    for round_ in range(3):
        announce(store, manifest)
        for header, raw in pieces(root, manifest):
            said = push(store, header, raw)
            assert ("held already" in said) == (round_ > 0)
        store = Store(tmp_path / "store", book)  # the service started again
        assert store.resume() == []
    assert book.kinds() == ["transfer.announced", "transfer.received"]


def test_a_delivery_the_journal_does_not_take_is_refused_until_it_does(tmp_path: Path) -> None:
    root, book = source(tmp_path), Book()
    store = Store(tmp_path / "store", book)
    manifest = manifest_of(root)
    book.refusing = True
    with pytest.raises(SekishoError, match="journal refuses"):
        announce(store, manifest)
    assert list((tmp_path / "store/partial").iterdir()) == []
    book.refusing = False
    announce(store, manifest)
    *most, last = pieces(root, manifest)
    for header, raw in most:
        push(store, header, raw)
    book.refusing = True
    with pytest.raises(SekishoError, match="journal refuses"):
        push(store, *last)
    assert list((tmp_path / "store/complete").iterdir()) == []
    with pytest.raises(SekishoError, match="journal refuses"):
        announce(store, manifest)
    assert Store(tmp_path / "store", book).resume() != []
    book.refusing = False
    push(store, *last)
    assert tree(tmp_path / "store/complete" / manifest.delivery) == FILES


def hostile(change: Callable[[Header, bytes], bytes]) -> Callable[[Header, bytes], bytes]:
    return change


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("another byte", lambda header, raw: header.line() + b"X" + raw[1:]),
        ("too short", lambda header, raw: header.line() + raw[:-1]),
        ("nothing", lambda header, _: header.line()),
        ("too long", lambda header, raw: header.line() + raw + b"X"),
        ("no line", lambda _, raw: raw),
        ("no bytes", lambda *_: b""),
        ("half a line", lambda header, _: header.line()[:40]),
        ("a long line", lambda *_: b"x" * 100_000),
        ("http", lambda *_: b"GET / HTTP/1.0\r\n\r\n"),
        ("other size", lambda header, raw: replace(header, size=len(raw) - 1).line() + raw[:-1]),
        ("no such part", lambda header, raw: replace(header, index=99).line() + raw),
        (
            "other digest",
            lambda header, raw: (
                replace(header, sha256=hashlib.sha256(raw[::-1]).hexdigest()).line() + raw[::-1]
            ),
        ),
        ("no such delivery", lambda header, raw: replace(header, delivery="f" * 32).line() + raw),
    ],
)
def test_a_hostile_part_is_refused_and_the_true_one_still_taken(
    tmp_path: Path, name: str, make: Callable[[Header, bytes], bytes]
) -> None:
    root = source(tmp_path)
    store = Store(tmp_path / "store", Book())
    manifest = manifest_of(root)
    announce(store, manifest)
    for header, raw in pieces(root, manifest):
        with pytest.raises(SekishoError) as caught:
            push_bytes(store, make(header, raw))
        assert caught.value.problems, name
        assert list((tmp_path / "store/complete").iterdir()) == []
        push(store, header, raw)
    assert tree(tmp_path / "store/complete" / manifest.delivery) == FILES


def test_manifests_from_to_and_by_the_wrong_ones_are_refused(tmp_path: Path) -> None:
    root = source(tmp_path)
    store = Store(tmp_path / "store", Book(), name="right")
    manifest = manifest_of(root)
    for wrong in (
        replace(manifest, sender="other"),
        replace(manifest, recipient="other"),
        replace(manifest, total=0),
    ):
        with pytest.raises(SekishoError):
            announce(store, wrong)
    announce(store, manifest)
    with pytest.raises(SekishoError):  # the same delivery with other content
        announce(store, replace(manifest, created=6))
    with pytest.raises(SekishoError):  # from another address
        announce(store, manifest, Peer("10.0.0.9", "left"))
    header, raw = pieces(root, manifest)[0]
    with pytest.raises(SekishoError):
        push(store, header, raw, Peer("10.0.0.9", "left"))
    raw = manifest.to_bytes()
    with pytest.raises(SekishoError):  # digest of the header is not that of the bytes
        push(store, Header("manifest", manifest.delivery, 0, len(raw), "0" * 64), raw)


def test_a_missing_and_a_repeated_number_stand_in_the_journal(tmp_path: Path) -> None:
    root, book = source(tmp_path), Book()
    store = Store(tmp_path / "store", book)
    for number, delivery in ((1, "1"), (4, "4"), (3, "3"), (4, "5")):
        announce(store, manifest_of(root, number=number, delivery=delivery * 32))
    told = [data.get("missing") for _, data in book]
    assert told == [None, [2, 3], [2], [2]]
    assert [data.get("sequence_repeated") for _, data in book] == [None, None, None, True]


def test_what_has_no_room_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    root = source(tmp_path)
    manifest = manifest_of(root)
    for limits in (
        Limits(delivery_bytes=manifest.total - 1),
        Limits(partial=0),
        Limits(spare_bytes=2**60),
    ):
        with pytest.raises(SekishoError):
            announce(Store(tmp_path / "store", Book(), limits=limits), manifest)
    announce(Store(tmp_path / "store", Book(), limits=Limits(partial=1)), manifest)


def test_a_silent_and_a_slow_sender_are_let_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", Book())
    pace = Pace(header_seconds=0.2, idle_seconds=0.2)
    for first in (b"", b"{"):
        ours, theirs = socket.socketpair()
        ours.sendall(first)
        with pytest.raises(SekishoError):
            serve(theirs, PEER, store, pace)
        ours.close()
    root = source(tmp_path)
    manifest = manifest_of(root)
    announce(store, manifest)
    header, raw = pieces(root, manifest)[0]
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            ours.sendall(header.line())
            for byte in raw * 1000:
                ours.sendall(bytes([byte]))
                if stop.wait(0.1):
                    return

    dripper = threading.Thread(target=drip)
    dripper.start()
    slow = Pace(header_seconds=0.5, idle_seconds=0.3, bytes_per_second=1_000_000)
    with pytest.raises(SekishoError, match="refused"):
        serve(theirs, PEER, store, slow)
    stop.set()
    ours.close()
    dripper.join()


def test_a_large_part_whose_sender_falls_silent_or_leaves_is_let_go(tmp_path: Path) -> None:
    root = tmp_path / "src"
    root.mkdir()
    (root / "big").write_bytes(os.urandom(6_000_000))
    entries = digest_files(root, find_files(root), 2**30, lambda _: None)
    manifest = Manifest("1" * 32, 1, "left", "right", 5, entries, 6_000_000)
    store = Store(tmp_path / "store", Book())
    announce(store, manifest)
    ((header, raw),) = pieces(root, manifest)
    pace = Pace(header_seconds=1, idle_seconds=0.3)
    with pytest.raises(SekishoError):
        push_bytes(store, header.line() + raw[:5_000_000], pace=pace)  # leaves
    ours, theirs = socket.socketpair()
    sender = threading.Thread(
        target=ours.sendall, args=(header.line() + raw[:5_000_000],), daemon=True
    )
    sender.start()
    with pytest.raises(SekishoError, match="refused"):
        serve(theirs, PEER, store, pace)
    sender.join(5)
    ours.close()
    push(store, header, raw)
    assert tree(tmp_path / "store/complete" / manifest.delivery) == {"big": raw}


class PowerCut(BaseException):
    """Everything stops here."""


class Fuse:
    """Lets so many changes of the disk through, then cuts: before or after the last one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.count = -1, 0
        for owner, name in (
            (os, "fsync"),
            (os, "ftruncate"),
            (os, "pwrite"),
            (Path, "mkdir"),
            (Path, "rename"),
            (Path, "replace"),
            (Path, "touch"),
            (Path, "unlink"),
            (shutil, "rmtree"),
        ):
            monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **keywords: Any) -> Any:
            self.count += 1
            if self.left == 0:
                raise PowerCut
            self.left -= 1
            return real(*args, **keywords)

        return step


@pytest.mark.parametrize("journal_late", [False, True])
def test_a_power_cut_at_any_step_leaves_a_delivery_whole_or_absent_and_it_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, journal_late: bool
) -> None:
    root = source(tmp_path)
    manifest = manifest_of(root)
    fuse = Fuse(monkeypatch)
    step = 0
    while True:
        place = tmp_path / f"store-{step}"
        book = Book()
        held: set[int] = set()
        fuse.left = step
        try:
            store = Store(place, book)
            store.resume()
            announce(store, manifest)
            for header, raw in pieces(root, manifest):
                push(store, header, raw)
                held.add(header.index)
            finished = True
        except PowerCut:
            finished = False
        fuse.left = -1
        if finished:
            break
        for folder in (place / "complete").glob("*"):
            assert tree(folder) == FILES, step
        if journal_late:  # after the cut the journal is away for a while
            book.refusing = True
            for trouble in Store(place, book).resume():
                assert "journal" in trouble, (step, trouble)
            book.refusing = False
        after = Store(place, book)
        assert after.resume() == [], step
        announce(after, manifest)
        for header, raw in pieces(root, manifest):
            said = push(after, header, raw)
            assert header.index not in held or "held already" in said, step
        assert tree(place / "complete" / manifest.delivery) == FILES, step
        assert "transfer.received" in book.kinds(), step
        assert list((place / "partial").iterdir()) == [], step
        shutil.rmtree(place)
        step += 1
    assert step > 60
