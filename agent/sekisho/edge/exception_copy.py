"""The one way to touch an excepted disk: copy named files in or out, each one journalled.

The disk is mounted in a mount namespace of this process alone, nosuid, nodev and noexec (and
read-only for ``in``): nobody else ever sees a file system, and it ends with the process. Names,
sizes and SHA-256 are in the journal before a file is where it was meant to go; what the journal
does not take does not cross.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.edge import exception_state as state
from sekisho.edge import exception_wall as wall
from sekisho.edge import usb_admit
from sekisho.edge.exception_state import Open
from sekisho.errors import Problem, SekishoError, printable

FILE_SYSTEMS = ("vfat", "ext4")  # ext4 also reads ext2 and ext3; every other parser stays shut
MAX_FILES = 10_000
MAX_DEPTH = 16
_CHUNK = 1024 * 1024
_NEWNS = 0x20000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REC, _PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
Tell = Callable[[str, dict[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Crossed:
    """One file that crossed: where it went, how long it is, its SHA-256."""

    name: str
    size: int
    sha256: str


def _refuse(where: str, got: str, expected: str) -> SekishoError:
    return SekishoError("nothing more is copied", (Problem(where, "", got, expected, "6-iii-c"),))


def mount(opened: Open, run: Path = state.RUN) -> Path:
    """Mount the excepted disk for this process alone and return where.

    Raises:
        SekishoError: the device is not attached, is not read-only though it must be, or holds no
            file system of `FILE_SYSTEMS`.

    """
    found = usb_admit.fitting(opened.exception)
    if len(found) != 1:
        raise _refuse("the device", f"{len(found)} such devices in use", "it, plugged in, once")
    names = wall.disks(found[0])
    reads = opened.exception.direction == "in"
    for name in names:
        if reads and not wall.read_only(name):
            raise _refuse(name, "a disk that can be written", "a read-only one")
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_NEWNS) or library.mount(b"none", b"/", None, _REC | _PRIVATE, None):
        raise OSError(ctypes.get_errno(), "no mount namespace of its own")
    target = run / "medium"
    target.mkdir(mode=0o700, exist_ok=True)
    flags = _NOSUID | _NODEV | _NOEXEC | (_RDONLY if reads else 0)
    options = {"vfat": b"utf8=1,umask=077", "ext4": b"noload" if reads else None}
    for name in reversed(names):  # partitions before the disk
        node, place = os.fsencode(f"/dev/{name}"), os.fsencode(target)
        for kind in FILE_SYSTEMS:
            done = library.mount(node, place, kind.encode(), flags, options[kind])
            if done == 0:
                return target
    raise _refuse(", ".join(names), "no file system we read", " or ".join(FILE_SYSTEMS))


def copy(opened: Open, source: Path, target: Path, tell: Tell) -> Iterator[Crossed]:
    """Copy regular files, one or a folder's, and yield each that arrived.

    ``source`` and ``target`` are on the disk and on the machine, whichever way it goes; ``tell``
    journals (kind, data) and raises when the journal does not take it. Links and special files
    are not followed: they are journalled as left out.

    Raises:
        SekishoError: the journal does not take it, the window is over, a file is there already.

    """
    reads = opened.exception.direction == "in"
    count = 0
    for path, relative in _files(source):
        count += 1
        if count > MAX_FILES:
            raise _refuse(str(source), f"more than {MAX_FILES} files", "fewer at a time")
        data = {"order": opened.id, "direction": opened.exception.direction, "name": relative}
        if path is None:
            tell("exception.left-out", data)
            continue
        place = target / relative if target.is_dir() else target
        # A link in the folder of either side would lead root's hand out of it.
        home = (target if target.is_dir() else target.parent).resolve()
        if not place.parent.resolve().is_relative_to(home):
            raise _refuse(str(place), "a link that leads away", "a place below the one named")
        if place.exists() or place.is_symlink():
            raise _refuse(str(place), "a file that is there already", "a new name")
        if reads:
            yield _in(path, place, data, tell, opened)
        else:
            yield _out(path, place, data, tell, opened)
    if not count:
        raise _refuse(str(source), "no file", "a file, or a folder with files")


def _files(source: Path, depth: int = 0, below: str = "") -> Iterator[tuple[Path | None, str]]:
    info = source.lstat()
    name = below or source.name
    if stat.S_ISREG(info.st_mode):
        yield source, name
    elif stat.S_ISDIR(info.st_mode) and depth < MAX_DEPTH:
        for entry in sorted(source.iterdir()):
            if entry.name != "lost+found":
                inner = f"{below}/{entry.name}" if below else entry.name
                yield from _files(entry, depth + 1, inner)
    else:
        yield None, name


def _stream(path: Path, opened: Open, take: Callable[[bytes], object]) -> tuple[int, str]:
    """Read a file to its end; returns its length and SHA-256."""
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            _within(opened)
            digest.update(chunk)
            size += len(chunk)
            take(chunk)
    return size, digest.hexdigest()


def _within(opened: Open) -> None:
    still = state.read_open()
    if still is None or still.id != opened.id or opened.over(time.time(), state.boottime()):
        raise _refuse(opened.id, "an exception that is over", "one that is open")


def _in(path: Path, place: Path, data: dict[str, Any], tell: Tell, opened: Open) -> Crossed:
    """Copy from the disk: beside its place first, under its name once the journal has it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    owner = place.parent.stat()
    fresh = place.with_name(f".{place.name[:200]}.sekisho-part")
    handle = os.open(fresh, _FRESH, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            size, sha256 = _stream(path, opened, stream.write)
            os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
            os.fchmod(stream.fileno(), 0o640)
            stream.flush()
            os.fsync(stream.fileno())
        tell("exception.file", {**data, "place": str(place), "size": size, "sha256": sha256})
        os.link(fresh, place, follow_symlinks=False)  # never over another file
    finally:
        fresh.unlink(missing_ok=True)
    return Crossed(str(place), size, sha256)


def _out(path: Path, place: Path, data: dict[str, Any], tell: Tell, opened: Open) -> Crossed:
    """Copy to the disk: journalled first, written after, and what was written is compared."""
    size, sha256 = _stream(path, opened, lambda _chunk: None)
    tell("exception.file", {**data, "place": str(path), "size": size, "sha256": sha256})
    place.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, _FRESH, 0o600)
    with os.fdopen(handle, "wb") as stream:
        written = _stream(path, opened, stream.write)
        stream.flush()
        os.fsync(stream.fileno())
    if written != (size, sha256):
        place.unlink()
        again = {**data, "place": str(path), "size": written[0], "sha256": written[1]}
        tell("exception.file", {**again, "removed": True})
        raise _refuse(printable(str(path), 200), "a file that changed meanwhile", "one at rest")
    return Crossed(str(place), size, sha256)
