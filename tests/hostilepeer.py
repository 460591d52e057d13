"""A hostile peer and an honest one at the same receiver: what the tests of the hop are made of."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sekisho.core.errors import SekishoError
from sekisho.host.transfer.receive import Pace, serve
from sekisho.host.transfer.store import Peer, Store
from sekisho.transfer.header import Header
from sekisho.transfer.manifest import EMPTY, Entry, Manifest, Part, digest_of

PACE = Pace(header_seconds=2, idle_seconds=2)
A, B = Peer("10.0.0.1", "hospital-a"), Peer("10.0.0.2", "hospital-b")
PEERS = frozenset({A.address, B.address})
HOST = "inbound-1"


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Book(list[tuple[str, dict[str, Any]]]):
    """The journal as the agent's socket gives it to one user: 1,000 at once, then 200 a second."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock, self._tokens, self._at = clock, 1000.0, clock.now

    def __call__(self, kind: str, data: dict[str, Any]) -> int:
        now = self._clock()
        self._tokens = min(1000.0, self._tokens + max(0.0, now - self._at) * 200.0) - 1
        self._at = now
        if self._tokens < 0:
            self._tokens = 0.0
            raise SekishoError("too many events; slow down and send this one again")
        self.append((kind, data))
        return len(self)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for one, data in self if one == kind]


def disk(root: Path, size: int) -> Any:
    """Return a statvfs of a disk of ``size`` bytes that holds ``root`` alone."""

    def statvfs(_: Any) -> Any:
        used = sum(
            os.lstat(os.path.join(folder, name)).st_blocks * 512
            for folder, names, files in os.walk(root)
            for name in [*names, *files]
        )
        free = max(0, size - used) // 4096
        return SimpleNamespace(f_bavail=free, f_frsize=4096, f_files=10**6, f_favail=10**6)

    return statvfs


def entries_of(files: Iterable[tuple[str, bytes]], part: int = 2**20) -> tuple[Entry, ...]:
    """Return the manifest's entries of files in memory."""
    found, index = [], 0
    for path, data in files:
        pieces = [data[at : at + part] for at in range(0, len(data), part)]
        parts = tuple(
            Part(index + number, number * part, len(raw), hashlib.sha256(raw).hexdigest())
            for number, raw in enumerate(pieces)
        )
        index += len(parts)
        found.append(Entry(path, len(data), digest_of(parts), parts))
    return tuple(found)


def manifest_of(
    files: Iterable[tuple[str, bytes]], delivery: str, *, sender: str, sequence: int = 1
) -> Manifest:
    entries = entries_of(files)
    total = sum(entry.size for entry in entries)
    return Manifest(delivery, sequence, sender, HOST, 1, entries, total)


def promise(size: int, delivery: str, *, sender: str, sequence: int = 1) -> Manifest:
    """Return a manifest of one file whose bytes nobody has."""
    parts, at = [], 0
    while at < size:
        length = min(2**30, size - at)
        parts.append(Part(len(parts), at, length, f"{len(parts) + 1:064x}"))
        at += length
    entry = Entry("big", size, digest_of(parts) if parts else EMPTY, tuple(parts))
    return Manifest(delivery, sequence, sender, HOST, 1, (entry,), size)


def push_bytes(store: Store, raw: bytes, peer: Peer, pace: Pace = PACE) -> str:
    """Push bytes over a socket pair as a sender would; return what the receiver did."""
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


def announce(store: Store, manifest: Manifest, peer: Peer) -> str:
    return announce_raw(store, manifest.to_bytes(), manifest.delivery, peer)


def announce_raw(store: Store, raw: bytes, delivery: str, peer: Peer) -> str:
    header = Header("manifest", delivery, 0, len(raw), hashlib.sha256(raw).hexdigest())
    return push_bytes(store, header.line() + raw, peer)


def part_bytes(manifest: Manifest, files: Iterable[tuple[str, bytes]], index: int) -> bytes:
    """Return header and bytes of one part."""
    content = dict(files)
    for entry, part in manifest.parts():
        if part.index == index:
            raw = content[entry.path][part.offset : part.offset + part.size]
            return Header("part", manifest.delivery, index, part.size, part.sha256).line() + raw
    raise IndexError(index)


def deliver(store: Store, manifest: Manifest, files: list[tuple[str, bytes]], peer: Peer) -> None:
    """Send a whole delivery; SekishoError when anything of it is refused."""
    announce(store, manifest, peer)
    for index in range(manifest.part_count()):
        push_bytes(store, part_bytes(manifest, files, index), peer)
    got = store.root / "complete" / manifest.delivery
    assert {
        str(one.relative_to(got)): one.read_bytes() for one in got.rglob("*") if one.is_file()
    } == dict(files)
