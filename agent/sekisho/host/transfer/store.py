"""Where deliveries arrive: parts are held durably, a delivery appears whole or not at all.

    DIR/partial/<delivery>/manifest.json      announced
    DIR/partial/<delivery>/parts/<index>      held (a file's only part; a mark for one of several)
    DIR/partial/<delivery>/files/<number>     a file of several parts, written in place
    DIR/partial/<delivery>/assembling         all parts are held
    DIR/partial/<delivery>/tree/              the folder as it will be
    DIR/complete/<delivery>/                  the folder, after the journal took the entry
    DIR/manifests/<delivery>.json             what was completed

Every step is durable before the next one begins, and can be done again: a power cut in between
costs at most the part that was on its way (and may repeat a journal entry, never leave one out).
Every limit is one peer's own (`sekisho.host.transfer.room`); no lock is held for all of them while
a manifest is read, the journal is asked or a folder is put together.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sekisho.core.errors import SekishoError
from sekisho.host.transfer.assembly import FILE_MODE, FOLDER_MODE, assemble, refuse
from sekisho.host.transfer.files import sync_dir, write_whole
from sekisho.host.transfer.index import count_parts, index_bytes, read_piece
from sekisho.host.transfer.room import Limits, size_of
from sekisho.host.transfer.shelf import About, Shelf, about
from sekisho.host.transfer.turns import Turns
from sekisho.host.transfer.waiting import Waiting
from sekisho.transfer.header import Header
from sekisho.transfer.manifest import Manifest, read_manifest

__all__ = ["Journal", "Limits", "Peer", "Place", "Store"]

Journal = Callable[[str, dict[str, Any]], int | None]
SMALL = 1024 * 1024  # bytes of a manifest that waits for no turn
LARGE_AT_ONCE = 1  # takes up to 200 MiB for a moment; two would not be ready sooner
CHUNK = 256 * 1024
PATH_MAX = 4095  # bytes of a path the kernel takes


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sends: the address of the connection, and the name the site gives it (None: any)."""

    address: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part is written: ``path`` at ``offset``, to be held under ``held``."""

    header: Header
    path: Path
    offset: int
    held: Path
    whole_file: bool


class Store:
    """One directory of deliveries. Thread-safe. ``name`` is this host's, None takes any ``to``.

    ``peers``: addresses that may send; for each of them room is kept. ``clock``: Unix seconds.
    """

    def __init__(  # noqa: PLR0913 - two things it needs, and options
        self,
        root: Path,
        journal: Journal,
        *,
        name: str | None = None,
        limits: Limits | None = None,
        peers: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root, self._journal, self._name = root, journal, name
        self._limits = limits or Limits()
        self._turns = Turns(LARGE_AT_ONCE)
        self.completed = 0  # deliveries since the start
        self._shelf = Shelf(root)
        self._waiting = Waiting(self._shelf, self._limits, peers, clock)
        tree = self._shelf.partial("0" * 32).absolute() / "tree"
        self._longest = PATH_MAX - len(os.fsencode(tree)) - 1

    def resume(self) -> list[str]:
        """Finish what a stop interrupted; return what could not be finished, in words."""
        troubles = list(self._shelf.troubles)
        for name in self._waiting.unfinished:
            with self._waiting.gate(name):
                if not (self._shelf.partial(name) / "manifest.json").exists():
                    shutil.rmtree(self._shelf.partial(name), ignore_errors=True)
        for name in self._waiting.names():
            found = self._waiting.get(name)
            try:
                if found is not None and found.leaving:
                    self._remove(name)
                else:
                    self.finish(name)
            except (SekishoError, OSError) as error:
                text = error.diagnostics() if isinstance(error, SekishoError) else str(error)
                troubles.append(f"{name}: {text}")
        return troubles

    # -- manifests ---------------------------------------------------------------------------

    def take_manifest(self, header: Header, raw: bytes, peer: Peer) -> None:
        """Announce a delivery from memory; see `take_manifest_from`."""
        self.take_manifest_from(header, io.BytesIO(raw), peer)

    def take_manifest_from(self, header: Header, stream: BinaryIO, peer: Peer) -> None:
        """Announce a delivery, durably; again with the same bytes is fine.

        Raises:
            SekishoError: malformed, not from this peer, not for this host, no room, too fast, given
                up before, a number that leaps, or the journal does not take the entry.
            OSError: the disk refused.

        """
        stream.seek(0)
        digest = hashlib.sha256()
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
        if digest.hexdigest() != header.sha256:
            raise refuse(header.delivery, "bytes with another digest", "what the header says")
        if not self._known(header, peer):
            self._waiting.pace(peer.address)
            large = header.size > SMALL
            turn: AbstractContextManager[None] = (
                self._turns.turn(peer.address) if large else nullcontext()
            )
            with turn, self._waiting.gate(header.delivery):
                if not self._known(header, peer):
                    self._announce(header, stream, peer)
        self.finish(header.delivery)

    def _known(self, header: Header, peer: Peer) -> bool:
        """Tell whether this very manifest was announced; SekishoError for another, or given up."""
        note, _ = self._note(header.delivery, peer)
        if note is None:
            return False
        if (note.sha256, note.peer) != (header.sha256, peer.address):
            raise refuse(header.delivery, "another manifest or peer", "the one announced")
        return True

    def _note(self, delivery: str, peer: Peer) -> tuple[About | None, Path]:
        """Return what is known of a delivery and where its index is; SekishoError: given up."""
        with self._waiting.lock:
            found = self._waiting.get(delivery)
            leaving = found is not None and found.leaving
            if leaving or self._shelf.is_given_up(delivery, peer.address):
                hint = "sekisho send --new begins another"
                raise refuse(delivery, "a delivery that was given up", "another one", hint)
            if found is not None:
                return found.note, self._shelf.partial(delivery) / "index"
        return self._shelf.done_about(delivery), self._shelf.done_index(delivery)

    def _announce(self, header: Header, stream: BinaryIO, peer: Peer) -> None:
        stream.seek(0)
        manifest = read_manifest(stream)
        if manifest.delivery != header.delivery:
            raise refuse(header.delivery, manifest.delivery, "the delivery of the header")
        if peer.name is not None and manifest.sender != peer.name:
            raise refuse(header.delivery, f"from {manifest.sender}", f"from {peer.name}")
        if self._name is not None and manifest.recipient != self._name:
            raise refuse(header.delivery, f"to {manifest.recipient}", f"to {self._name}")
        self._fits(manifest)
        note = about(manifest, header.sha256, peer.address, size_of(manifest, header.size))
        pair = f"{manifest.sender}--{manifest.recipient}"
        with self._waiting.gate(pair):
            after, repeated = self._shelf.sequence(pair, manifest.sequence)
            name, parts = manifest.delivery, manifest.part_count()
            while (other := self._waiting.reserve(name, note, parts)) is not None:
                self._give_up(other, f"makes room for {name}")
            try:
                entry = dict(note.entry)
                if after.missing:
                    entry["missing"] = list(after.missing[-20:])
                    entry["missing_count"] = len(after.missing)
                if repeated:
                    entry["sequence_repeated"] = True
                self._journal("transfer.announced", entry)
                self._shelf.keep_sequence(pair, after)
                self._begin(manifest, note, stream)
            except BaseException:
                self._waiting.forget(name)
                raise

    def _fits(self, manifest: Manifest) -> None:
        """Refuse what the store's file system cannot hold."""
        if manifest.total > self._limits.delivery_bytes:
            got = f"{manifest.total} bytes"
            raise refuse(manifest.delivery, got, f"at most {self._limits.delivery_bytes} bytes")
        name_max = os.pathconf(self.root, "PC_NAME_MAX")
        for number, entry in enumerate(manifest.files):
            length = len(entry.path.encode())
            part = max(len(part.encode()) for part in entry.path.split("/"))
            if length > self._longest or part > name_max:
                got = f"files[{number}]: a path of {length} bytes, its longest component {part}"
                expected = f"{self._longest} and {name_max} at most, as this store's disk has it"
                raise refuse(manifest.delivery, got, expected, "shorter names")

    def _begin(self, manifest: Manifest, note: About, stream: BinaryIO) -> None:
        folder = self._shelf.partial(manifest.delivery)
        for name in ("", "parts", "files"):
            (folder / name).mkdir(mode=FOLDER_MODE, exist_ok=True)
        write_whole(folder / "index", index_bytes(manifest), FILE_MODE)
        write_whole(folder / "about.json", note.to_bytes(), FILE_MODE)
        stream.seek(0)
        write_whole(folder / "manifest.json", stream.read(), FILE_MODE)
        sync_dir(folder.parent)
        self._waiting.begun(manifest.delivery, note)

    # -- parts -------------------------------------------------------------------------------

    @contextmanager
    def part(self, header: Header, peer: Peer) -> Iterator[Place | None]:
        """Give the place for a part, reserved for the caller; None when it is held already.

        Raises:
            SekishoError: no such delivery or part, another digest, busy, or no room.
            OSError: the disk refused.

        """
        note, index = self._note(header.delivery, peer)
        if note is None:
            raise refuse(header.delivery, "a part", "its manifest first")
        if note.peer != peer.address:
            raise refuse(header.delivery, f"peer {peer.address}", "the peer that announced it")
        count = count_parts(index)
        if header.index >= count:
            raise refuse(header.delivery, f"part {header.index}", f"0 to {count - 1}")
        piece = read_piece(index, header.index)
        if (piece.size, piece.sha256) != (header.size, header.sha256):
            raise refuse(
                header.delivery, f"part {header.index}", "the size and digest of the manifest"
            )
        folder = self._shelf.partial(header.delivery)
        held = folder / "parts" / str(header.index)
        path = held.with_suffix(".tmp") if piece.whole_file else folder / "files" / str(piece.file)
        if not self._waiting.take(header.delivery, header.index, piece.size):
            yield None
            return
        try:
            yield Place(header, path, piece.offset, held, piece.whole_file)
        finally:
            self._waiting.let_go(header.delivery, header.index)

    def hold(self, place: Place, fd: int) -> None:
        """Make a written and verified part durable and held; OSError when the disk refuses."""
        os.fsync(fd)
        if place.whole_file:
            place.path.replace(place.held)
        else:
            sync_dir(place.path.parent)
            place.held.touch(FILE_MODE)
        sync_dir(place.held.parent)
        self._waiting.held(place.header.delivery, place.header.index, place.header.size)

    # -- completion --------------------------------------------------------------------------

    def finish(self, delivery: str) -> bool:
        """Complete the delivery when every part is held; return whether it is complete.

        Raises:
            SekishoError: the journal refuses: the delivery stays partial, and is tried again.
            OSError: the disk refused.

        """
        with self._waiting.gate(delivery):
            found = self._waiting.get(delivery)
            if found is None or found.left or found.leaving:
                return found is None and self._shelf.done(delivery).exists()
            folder, target = self._shelf.partial(delivery), self.root / "complete" / delivery
            if not target.exists():
                assemble(folder)
                self._journal("transfer.received", found.note.entry)
                done = self._shelf.done(delivery)
                write_whole(done.with_suffix(".about.json"), found.note.to_bytes(), FILE_MODE)
                for name, path in (
                    ("index", self._shelf.done_index(delivery)),
                    ("manifest.json", done),
                ):
                    path.unlink(missing_ok=True)
                    path.hardlink_to(folder / name)
                sync_dir(done.parent)
                (folder / "tree").rename(target)
                sync_dir(target.parent)
            self._remove(delivery)
            with self._waiting.lock:
                self._shelf.completed(delivery, found.note)
                self.completed += 1
            return True

    def _remove(self, delivery: str) -> None:
        folder = self._shelf.partial(delivery)
        (folder / "manifest.json").unlink()  # first: what is left without it is swept away
        sync_dir(folder)
        shutil.rmtree(folder)
        sync_dir(folder.parent)
        self._waiting.forget(delivery)

    # -- giving up ---------------------------------------------------------------------------

    def expire(self, now: float) -> list[str]:
        """Give up deliveries without news for too long; return them. ``now``: Unix seconds.

        Raises:
            SekishoError: the journal does not take the entry: nothing more is given up.
            OSError: the disk refused.

        """
        late = self._waiting.late(now)
        for name in late:
            self._give_up(name, f"no news for {self._limits.idle_seconds:.0f} s")
        return late

    def _give_up(self, delivery: str, why: str) -> None:
        """Give a delivery up for good: its sender begins another one. Journalled before."""
        found = self._waiting.leave(delivery)
        if found is None:
            return
        try:
            entry = {**found.note.entry, "why": why, "parts_missing": found.left}
            self._journal("transfer.given-up", entry)
            with self._waiting.lock:
                self._shelf.give_up(delivery, found.note.peer)
        except BaseException:
            found.leaving = False
            raise
        self._remove(delivery)
