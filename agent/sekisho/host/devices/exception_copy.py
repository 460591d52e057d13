"""The one way to touch an excepted disk: copy named files in or out, each one journalled.

The disk is mounted in a mount namespace of this process alone, nosuid, nodev and noexec (and
read-only for ``in``): nobody else ever sees a file system, and it ends with the process. Names,
sizes and SHA-256 are in the journal before a file is where it was meant to go; what the journal
does not take does not cross.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.safe_files import Folder, Pinned, UnsafeError
from sekisho.host import boot_clock
from sekisho.host.devices import admit as usb_admit
from sekisho.host.devices import exception_state as state
from sekisho.host.devices import exception_wall as wall
from sekisho.host.devices.exception_state import Open
from sekisho.local.secret_files import secret_ids, withheld

FILE_SYSTEMS = ("vfat", "ext4")  # ext4 also reads ext2 and ext3; every other parser stays shut
MAX_FILES = 10_000
MAX_DEPTH = 16
_CHUNK = 1024 * 1024
_NEWNS = 0x20000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REC, _PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000
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
    Folder.open(str(target), make=0o700).close()
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
    are not followed: they are journalled as left out. Every step is by an open handle: whoever
    owns a folder on the way may move things about, and leads root's hand nowhere by it.

    Raises:
        SekishoError: the journal does not take it, the window is over, a file is there already,
            a link is on the way.

    """
    try:
        yield from _copy(opened, source, target, tell)
    except UnsafeError as bad:
        where = printable(str(bad.filename), 200)
        raise _refuse(where, bad.strerror or "", "a place below the one named") from None


def _copy(opened: Open, source: Path, target: Path, tell: Tell) -> Iterator[Crossed]:
    reads = opened.exception.direction == "in"
    kept = secret_ids()
    count = 0
    # On the disk, links that seem to be root's are whoever made the disk's: none is followed.
    with (
        Folder.open(str(source.parent), links=not reads) as above,
        _into(target, links=reads) as (base, new_name),
    ):
        for folder, found, relative in _files(above, source.name, source.name, 0):
            count += 1
            if count > MAX_FILES:
                raise _refuse(str(source), f"more than {MAX_FILES} files", "fewer at a time")
            data = {"order": opened.id, "direction": opened.exception.direction, "name": relative}
            if found is None:
                tell("exception.left-out", data)
                continue
            why = None if reads else withheld(folder, found, kept)
            if why is not None:
                raise _refuse(printable(found.path, 200), why, "a file that may leave the host")
            with _place(base, new_name or relative) as (place, name):
                if place.stat(name) is not None:
                    there = printable(f"{place.path}/{name}", 200)
                    raise _refuse(there, "a file that is there already", "a new name")
                cross = _in if reads else _out
                size, sha256 = cross(found, place, name, data, tell, opened)
                arrived = target if new_name else target / relative
            yield Crossed(str(arrived), size, sha256)
    if not count:
        raise _refuse(str(source), "no file", "a file, or a folder with files")


@contextlib.contextmanager
def _into(target: Path, *, links: bool) -> Iterator[tuple[Folder, str | None]]:
    """Give the folder to copy into; and the new file's name, when the target is no folder."""
    try:
        opened, name = Folder.open(str(target), links=links), None
    except (FileNotFoundError, UnsafeError) as bad:
        if bad.errno not in {errno.ENOENT, errno.ENOTDIR}:
            raise
        opened, name = Folder.open(str(target.parent), links=links), target.name
    with opened:
        yield opened, name


@contextlib.contextmanager
def _place(base: Folder, relative: str) -> Iterator[tuple[Folder, str]]:
    """Give the folder of a path below ``base``, made where it is missing, and the last name."""
    *folders, name = relative.split("/")
    with contextlib.ExitStack() as stack:
        for part in folders:
            base = stack.enter_context(base.make(part, 0o755))
        yield base, name


def _files(
    folder: Folder, name: str, relative: str, depth: int
) -> Iterator[tuple[Folder, Pinned | None, str]]:
    with folder.pin(name) as found:
        if stat.S_ISREG(found.info.st_mode):
            yield folder, found, relative
            return
        if not stat.S_ISDIR(found.info.st_mode) or depth >= MAX_DEPTH:
            yield folder, None, relative
            return
    with folder.sub(name) as inner:
        for entry in inner.names():
            if entry != "lost+found":
                yield from _files(
                    inner, entry, f"{relative}/{entry}" if depth else entry, depth + 1
                )


def _stream(found: Pinned, opened: Open, take: Callable[[bytes], object]) -> tuple[int, str]:
    """Read a file to its end; returns its length and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with os.fdopen(found.open(), "rb") as stream:
        while chunk := stream.read(_CHUNK):
            _within(opened)
            digest.update(chunk)
            size += len(chunk)
            take(chunk)
    return size, digest.hexdigest()


def _identity(handle: int) -> dict[str, Any]:
    """Return which inode it is, as the journal says it."""
    info = os.fstat(handle)
    device = f"{os.major(info.st_dev)}:{os.minor(info.st_dev)}"
    return {"device": device, "inode": info.st_ino}


def _within(opened: Open) -> None:
    still = state.read_open()
    if still is None or still.id != opened.id or opened.over(time.time(), boot_clock.boottime()):
        raise _refuse(opened.id, "an exception that is over", "one that is open")


def _in(  # noqa: PLR0913, PLR0917 - what one file's way in needs
    found: Pinned, place: Folder, name: str, data: dict[str, Any], tell: Tell, opened: Open
) -> tuple[int, str]:
    """Copy from the disk: beside its place first, under its name once the journal has it."""
    fresh = f".{name[:150]}.{secrets.token_hex(8)}.sekisho-part"
    handle = place.create(fresh)
    try:
        with os.fdopen(handle, "wb") as stream:
            size, sha256 = _stream(found, opened, stream.write)
            os.fchown(stream.fileno(), place.info.st_uid, place.info.st_gid)
            os.fchmod(stream.fileno(), 0o640)
            stream.flush()
            os.fsync(stream.fileno())
            where = {"place": f"{place.real_path()}/{name}", **_identity(stream.fileno())}
            tell("exception.file", {**data, **where, "size": size, "sha256": sha256})
            place.link(stream.fileno(), name)  # never over another file
    finally:
        place.unlink(fresh, missing_ok=True)
    return size, sha256


def _out(  # noqa: PLR0913, PLR0917 - as above
    found: Pinned, place: Folder, name: str, data: dict[str, Any], tell: Tell, opened: Open
) -> tuple[int, str]:
    """Copy to the disk: journalled first, written after, and what was written is compared."""
    size, sha256 = _stream(found, opened, lambda _chunk: None)
    said = {**data, "place": found.real_path(), **_identity(found.handle)}
    tell("exception.file", {**said, "size": size, "sha256": sha256})
    with os.fdopen(place.create(name), "wb") as stream:
        written = _stream(found, opened, stream.write)
        stream.flush()
        os.fsync(stream.fileno())
    if written != (size, sha256):
        place.unlink(name)
        tell("exception.file", {**said, "size": written[0], "sha256": written[1], "removed": True})
        where = printable(found.path, 200)
        raise _refuse(where, "a file that changed meanwhile", "one at rest")
    return size, sha256
