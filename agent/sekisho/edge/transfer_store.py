"""Where deliveries arrive: parts are held durably, a delivery appears whole or not at all.

    DIR/partial/<delivery>/manifest.json      announced
    DIR/partial/<delivery>/parts/<index>      held (a file's only part; a mark for one of several)
    DIR/partial/<delivery>/files/<number>     a file of several parts, written in place
    DIR/partial/<delivery>/assembling         all parts are held
    DIR/partial/<delivery>/tree/              the folder as it will be
    DIR/complete/<delivery>/                  the folder, after the journal took the entry
    DIR/manifests/<delivery>.json             what was completed, with its peer
    DIR/sequence/<from>--<to>.json            numbers seen

Every step is durable before the next one begins, and can be done again: a power cut in between
costs at most the part that was on its way (and may repeat a journal entry, never leave one out).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.edge.transfer_assembly import FILE_MODE, FOLDER_MODE, assemble, refuse
from sekisho.edge.transfer_files import sync_dir, write_whole
from sekisho.errors import SekishoError
from sekisho.transfer.header import Header
from sekisho.transfer.manifest import Entry, Manifest, Part, parse_manifest
from sekisho.transfer.sequence import Sequence, parse_sequence

Journal = Callable[[str, dict[str, Any]], int | None]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sends: the address of the connection, and the name the site gives it (None: any)."""

    address: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What the store takes.

    Attributes:
        delivery_bytes: largest delivery.
        partial: deliveries on their way at once, of all peers.
        spare_bytes: what stays free on the disk whatever comes.

    """

    delivery_bytes: int = 4 * 1024**4
    partial: int = 32
    spare_bytes: int = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part is written: ``path`` at ``offset``, to be held under ``held``."""

    header: Header
    folder: Path
    path: Path
    offset: int
    held: Path
    whole_file: bool


@dataclass(slots=True)
class _Open:
    """What the memory keeps of a delivery: where each part belongs, and which are not held."""

    manifest: Manifest
    raw: bytes
    peer: str
    parts: list[tuple[Entry, Part, int]]
    missing: set[int]
    complete: bool


class Store:
    """One directory of deliveries. Thread-safe. ``name`` is this host's, None takes any ``to``."""

    def __init__(
        self, root: Path, journal: Journal, *, name: str | None = None, limits: Limits | None = None
    ) -> None:
        self.root, self._journal, self._name = root, journal, name
        self._limits = limits or Limits()
        self._lock = threading.RLock()
        self._parsing = threading.Lock()
        self._busy: set[tuple[str, int]] = set()
        self._gates: dict[str, threading.RLock] = {}
        self._open: dict[str, _Open] = {}
        self.completed = 0  # deliveries since the start
        for folder in ("partial", "complete", "manifests", "sequence"):
            (root / folder).mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        sync_dir(root)

    def resume(self) -> list[str]:
        """Finish what a stop interrupted; return what could not be finished, in words."""
        troubles = []
        for folder in sorted((self.root / "partial").iterdir()):
            if not (folder / "manifest.json").exists():
                shutil.rmtree(folder, ignore_errors=True)  # announced only to the memory
                continue
            try:
                self.finish(folder.name)
            except (SekishoError, OSError) as error:
                text = error.diagnostics() if isinstance(error, SekishoError) else str(error)
                troubles.append(f"{folder.name}: {text}")
        return troubles

    # -- manifests ---------------------------------------------------------------------------

    def take_manifest(self, header: Header, raw: bytes, peer: Peer) -> None:
        """Announce a delivery, durably; again with the same bytes is fine.

        Raises:
            SekishoError: malformed, not from this peer, not for this host, no room, or the
                journal does not take the entry.
            OSError: the disk refused.

        """
        if hashlib.sha256(raw).hexdigest() != header.sha256:
            raise refuse(header.delivery, "bytes with another digest", "what the header says")
        with self._parsing:  # a large one takes some hundred megabytes for a moment
            manifest = parse_manifest(raw)
        if manifest.delivery != header.delivery:
            raise refuse(header.delivery, manifest.delivery, "the delivery of the header")
        if peer.name is not None and manifest.sender != peer.name:
            raise refuse(header.delivery, f"from {manifest.sender}", f"from {peer.name}")
        if self._name is not None and manifest.recipient != self._name:
            raise refuse(header.delivery, f"to {manifest.recipient}", f"to {self._name}")
        with self._gate(manifest.delivery):
            known = self._opened(manifest.delivery)
            if known is None:
                with self._lock:
                    self._room(manifest)
                    self._announce(manifest, raw, peer)
            elif known.raw != raw or known.peer != peer.address:
                raise refuse(header.delivery, "another manifest or peer", "the one announced")
            self.finish(manifest.delivery)

    def _room(self, manifest: Manifest) -> None:
        limit = self._limits
        if manifest.total > limit.delivery_bytes:
            got = f"{manifest.total} bytes"
            raise refuse(manifest.delivery, got, f"at most {limit.delivery_bytes} bytes")
        waiting = sum(1 for _ in (self.root / "partial").iterdir())
        if waiting >= limit.partial:
            got = f"{waiting} deliveries on their way"
            raise refuse(manifest.delivery, got, f"at most {limit.partial}")
        self._space(manifest.delivery, manifest.total)

    def _space(self, delivery: str, size: int) -> None:
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize - self._limits.spare_bytes
        if size > free:
            raise refuse(delivery, f"{size} bytes", f"at most {max(0, free)} bytes of free disk")

    def _announce(self, manifest: Manifest, raw: bytes, peer: Peer) -> None:
        path = self.root / "sequence" / f"{manifest.sender}--{manifest.recipient}.json"
        before = parse_sequence(path.read_bytes()) if path.exists() else Sequence()
        after, repeated = before.take(manifest.sequence)
        entry = _about(manifest, raw, peer.address)
        if after.missing:
            entry["missing"] = list(after.missing[-20:])
            entry["missing_count"] = len(after.missing)
        if repeated:
            entry["sequence_repeated"] = True
        self._journal("transfer.announced", entry)
        write_whole(path, after.to_bytes(), FILE_MODE)
        folder = self.root / "partial" / manifest.delivery
        for name in ("", "parts", "files"):
            (folder / name).mkdir(mode=FOLDER_MODE, exist_ok=True)
        write_whole(folder / "peer", peer.address.encode(), FILE_MODE)
        write_whole(folder / "manifest.json", raw, FILE_MODE)
        sync_dir(folder.parent)

    # -- parts -------------------------------------------------------------------------------

    @contextmanager
    def part(self, header: Header, peer: Peer) -> Iterator[Place | None]:
        """Give the place for a part, reserved for the caller; None when it is held already.

        Raises:
            SekishoError: no such delivery or part, another digest, busy, or no room.

        """
        delivery = self._opened(header.delivery)
        if delivery is None:
            raise refuse(header.delivery, "a part", "its manifest first")
        if delivery.peer != peer.address:
            raise refuse(header.delivery, f"peer {peer.address}", "the peer that announced it")
        if header.index >= len(delivery.parts):
            raise refuse(header.delivery, f"part {header.index}", f"0 to {len(delivery.parts) - 1}")
        entry, part, number = delivery.parts[header.index]
        if (part.size, part.sha256) != (header.size, header.sha256):
            raise refuse(
                header.delivery, f"part {header.index}", "the size and digest of the manifest"
            )
        key = (header.delivery, header.index)
        place = self._place(header, entry, part, number)
        with self._lock:
            if header.index not in delivery.missing:
                yield_place = None
            elif key in self._busy:
                raise refuse(header.delivery, f"part {header.index} twice at once", "once")
            else:
                self._space(header.delivery, part.size)
                self._busy.add(key)
                yield_place = place
        try:
            yield yield_place
        finally:
            if yield_place is not None:
                with self._lock:
                    self._busy.discard(key)

    def _gate(self, delivery: str) -> threading.RLock:
        with self._lock:
            return self._gates.setdefault(delivery, threading.RLock())

    def _opened(self, delivery: str) -> _Open | None:
        """Return the delivery from memory, or from the disk; None when it was never announced."""
        with self._lock:
            if delivery in self._open:
                return self._open[delivery]
            folder = self.root / "partial" / delivery
            done = self.root / "manifests" / f"{delivery}.json"
            complete = not (folder / "manifest.json").exists()
            if complete and not done.exists():
                return None
            path = done if complete else folder / "manifest.json"
            owner = done.with_suffix(".peer") if complete else folder / "peer"
            raw = path.read_bytes()
            manifest = parse_manifest(raw)
            parts = [
                (entry, part, number)
                for number, entry in enumerate(manifest.files)
                for part in entry.parts
            ]
            missing: set[int] = set()
            if not complete and not (folder / "assembling").exists():
                held = {path.name for path in (folder / "parts").iterdir()}
                missing = {part.index for _, part, _ in parts if str(part.index) not in held}
            peer = owner.read_text("utf-8")
            while len(self._open) > self._limits.partial:
                self._open.pop(next(iter(self._open)))
            found = _Open(manifest, raw, peer, parts, missing, complete)
            self._open[delivery] = found
            return found

    def _place(self, header: Header, entry: Entry, part: Part, number: int) -> Place:
        folder = self.root / "partial" / header.delivery
        held = folder / "parts" / str(header.index)
        if len(entry.parts) == 1:
            return Place(header, folder, held.with_suffix(".tmp"), 0, held, whole_file=True)
        path = folder / "files" / str(number)
        return Place(header, folder, path, part.offset, held, whole_file=False)

    def hold(self, place: Place, fd: int) -> None:
        """Make a written and verified part durable and held; OSError when the disk refuses."""
        os.fsync(fd)
        if place.whole_file:
            place.path.replace(place.held)
        else:
            sync_dir(place.path.parent)
            place.held.touch(FILE_MODE)
        sync_dir(place.held.parent)
        with self._lock:
            delivery = self._opened(place.header.delivery)
            if delivery is not None:
                delivery.missing.discard(place.header.index)

    # -- completion --------------------------------------------------------------------------

    def finish(self, delivery: str) -> bool:
        """Complete the delivery when every part is held; return whether it is complete.

        Raises:
            SekishoError: the journal refuses: the delivery stays partial, and is tried again.
            OSError: the disk refused.

        """
        with self._gate(delivery):
            found = self._opened(delivery)
            if found is None or found.complete or found.missing:
                return found is not None and found.complete
            folder = self.root / "partial" / delivery
            target = self.root / "complete" / delivery
            if not target.exists():
                assemble(folder, found.manifest)
                self._journal("transfer.received", _about(found.manifest, found.raw, found.peer))
                done = self.root / "manifests" / f"{delivery}.json"
                write_whole(done.with_suffix(".peer"), found.peer.encode(), FILE_MODE)
                write_whole(done, found.raw, FILE_MODE)
                (folder / "tree").rename(target)
                sync_dir(target.parent)
            (folder / "manifest.json").unlink()  # first: what is left without it is swept away
            sync_dir(folder)
            shutil.rmtree(folder)
            sync_dir(folder.parent)
            with self._lock:
                for name in [key for key, one in self._open.items() if one.complete]:
                    del self._open[name]  # asked for again it is read again
                found.complete = True
                self.completed += 1
            return True


def _about(manifest: Manifest, raw: bytes, peer: str) -> dict[str, Any]:
    return {
        "delivery": manifest.delivery,
        "sequence": manifest.sequence,
        "from": manifest.sender,
        "to": manifest.recipient,
        "peer": peer,
        "created": manifest.created,
        "files": len(manifest.files),
        "bytes": manifest.total,
        "manifest_sha256": hashlib.sha256(raw).hexdigest(),
    }
