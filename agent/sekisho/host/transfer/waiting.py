"""Deliveries on their way: what the memory knows of them, and which may join or has to leave."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sekisho.core.errors import SekishoError
from sekisho.core.text import is_number
from sekisho.host.transfer.assembly import refuse
from sekisho.host.transfer.index import count_parts, held_bytes
from sekisho.host.transfer.room import Limits, Room, Size
from sekisho.host.transfer.shelf import About, Shelf, read_about


@dataclass(slots=True)
class Delivery:
    """What the memory keeps of a delivery on its way; ``held`` is one byte a part."""

    note: About
    held: bytearray
    left: int
    unwritten: int
    news: float
    leaving: bool = False


class Waiting:
    """The deliveries on their way. Thread-safe: each method holds ``lock``, a reentrant one.

    ``clock``: Unix seconds. ``unfinished`` are folders that a stop left without a manifest.
    """

    def __init__(
        self, shelf: Shelf, limits: Limits, peers: frozenset[str], clock: Callable[[], float]
    ) -> None:
        self.lock = threading.RLock()
        self.unfinished: list[str] = []
        self._shelf, self._limits, self._clock = shelf, limits, clock
        self._room = Room(limits, peers)
        self._deliveries: dict[str, Delivery] = {}
        self._busy: dict[str, set[int]] = {}
        self._gates: dict[str, tuple[threading.RLock, int]] = {}
        for folder in sorted((shelf.root / "partial").iterdir()):
            self._load(folder)

    @contextmanager
    def gate(self, name: str) -> Iterator[None]:
        """Let one thread at a time do something with ``name``; nothing is kept of it afterwards."""
        with self.lock:
            gate, count = self._gates.get(name, (threading.RLock(), 0))
            self._gates[name] = (gate, count + 1)
        try:
            with gate:
                yield
        finally:
            with self.lock:
                gate, count = self._gates.pop(name)
                if count > 1:
                    self._gates[name] = (gate, count - 1)

    def _load(self, folder: Path) -> None:
        if not (folder / "manifest.json").exists():
            self.unfinished.append(folder.name)  # announced only to the memory
            return
        try:
            found = self._read(folder, read_about(folder / "about.json"))
        except (SekishoError, OSError, ValueError) as error:
            text = error.diagnostics() if isinstance(error, SekishoError) else str(error)
            self._shelf.troubles.append(f"{folder.name}: {text}")
            return
        found.leaving = self._shelf.is_given_up(folder.name, found.note.peer)
        self._deliveries[folder.name] = found

    def _read(self, folder: Path, note: About) -> Delivery:
        held = bytearray(count_parts(folder / "index"))
        if (folder / "assembling").exists():
            held = bytearray(b"\1" * len(held))
        else:
            for path in (folder / "parts").iterdir():
                if is_number(path.name) and int(path.name) < len(held):
                    held[int(path.name)] = 1
        news = max((folder / name).stat().st_mtime for name in ("manifest.json", "parts"))
        unwritten = max(0, note.size.bytes - held_bytes(folder / "index", held))
        return Delivery(note, held, held.count(0), unwritten, news)

    def names(self) -> list[str]:
        """Return the deliveries on their way."""
        with self.lock:
            return sorted(self._deliveries)

    def get(self, delivery: str) -> Delivery | None:
        """Return a delivery on its way."""
        with self.lock:
            return self._deliveries.get(delivery)

    def forget(self, delivery: str) -> None:
        """Let a delivery go: complete, or given up."""
        with self.lock:
            self._deliveries.pop(delivery, None)

    def begun(self, delivery: str, note: About) -> None:
        """Count what is on the disk of a delivery that was just announced."""
        found = self._read(self._shelf.partial(delivery), note)
        found.news = self._clock()
        with self.lock:
            self._deliveries[delivery] = found

    def pace(self, peer: str) -> None:
        """Count a new delivery of ``peer``; SekishoError when it announces too fast."""
        with self.lock:
            self._room.pace(peer, self._clock())

    # -- joining -----------------------------------------------------------------------------

    def reserve(self, name: str, note: About, parts: int) -> str | None:
        """Take a slot and room for a delivery; None when it has them.

        Otherwise the delivery of the same peer that has to leave first: the one heard of longest
        ago. The caller gives it up and asks again.

        Raises:
            SekishoError: there is no room, and nothing of this peer's that could make some.

        """
        peer, now = note.peer, self._clock()
        with self.lock:
            mine = [one for one in self._deliveries.values() if one.note.peer == peer]
            full = len(mine) >= self._limits.partial
            victim = self._oldest(peer, now - (0.0 if full else self._limits.grace_seconds))
            if full and victim is None:
                got = f"{len(mine)} deliveries on their way"
                hint = "send it again later"
                raise refuse(name, got, f"at most {self._limits.partial} of one peer", hint)
            if full:
                return victim
            try:
                self._room.check(peer, note.size, *self._disk())
            except SekishoError:
                if victim is None:
                    raise
                return victim
            unwritten = note.size.bytes
            self._deliveries[name] = Delivery(note, bytearray(parts), parts, unwritten, now)
            return None

    def _oldest(self, peer: str, before: float) -> str | None:
        found = [
            (one.news, name)
            for name, one in self._deliveries.items()
            if one.note.peer == peer and self._idle(name, before)
        ]
        return min(found)[1] if found else None

    def _disk(self) -> tuple[Size, dict[str, Size]]:
        """Return what is free and promised to nobody, and what each peer has."""
        disk = os.statvfs(self._shelf.root)
        free = disk.f_bavail * disk.f_frsize - self._limits.spare_bytes
        files = disk.f_favail - self._limits.spare_files if disk.f_files else 2**62
        used = self._shelf.taken()
        for one in self._deliveries.values():
            free -= one.unwritten
            files -= one.note.size.files
            used[one.note.peer] = used.get(one.note.peer, Size()) + one.note.size
        return Size(free, files), used

    # -- parts -------------------------------------------------------------------------------

    def take(self, delivery: str, index: int, size: int) -> bool:
        """Reserve a part that arrives; False when it is held, SekishoError when it may not."""
        with self.lock:
            found = self._deliveries.get(delivery)
            if found is None or found.held[index]:
                return False
            if found.leaving:
                raise refuse(delivery, "a part", "a delivery that was not given up")
            if index in self._busy.get(delivery, ()):
                raise refuse(delivery, f"part {index} twice at once", "once")
            disk = os.statvfs(self._shelf.root)
            free = disk.f_bavail * disk.f_frsize - self._limits.spare_bytes
            if size > free:
                expected = f"at most {max(0, free)} bytes of free disk"
                raise refuse(delivery, f"{size} bytes", expected)
            self._busy.setdefault(delivery, set()).add(index)
            return True

    def let_go(self, delivery: str, index: int) -> None:
        """End a part's arrival, however it ended."""
        with self.lock:
            busy = self._busy.pop(delivery, set()) - {index}
            if busy:
                self._busy[delivery] = busy

    def held(self, delivery: str, index: int, size: int) -> None:
        """Count a part as held."""
        with self.lock:
            found = self._deliveries.get(delivery)
            if found is not None and not found.held[index]:
                found.held[index] = 1
                found.left -= 1
                found.unwritten = max(0, found.unwritten - size)
                found.news = self._clock()

    # -- leaving -----------------------------------------------------------------------------

    def late(self, now: float) -> list[str]:
        """Return the deliveries without news for too long. ``now``: Unix seconds."""
        with self.lock:
            for one in self._deliveries.values():
                one.news = min(one.news, now)  # a clock that was ahead is no reason to wait
            before = now - self._limits.idle_seconds
            return [name for name in sorted(self._deliveries) if self._idle(name, before)]

    def leave(self, delivery: str) -> Delivery | None:
        """Mark a delivery as leaving: no part of it is taken any more; None when it has news."""
        with self.lock:
            found = self._deliveries.get(delivery)
            if found is None or not self._idle(delivery, found.news):
                return None
            found.leaving = True
            return found

    def _idle(self, delivery: str, before: float) -> bool:
        """Tell whether a delivery waits for parts, none arrives and it had no news since."""
        found = self._deliveries[delivery]
        working = delivery in self._busy or delivery in self._gates
        return bool(found.left) and not found.leaving and not working and found.news <= before
