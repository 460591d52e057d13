"""The journal's hands: every write to its directory goes through here, to be failed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError, printable


class Disk:
    """The real disk. A test puts a failing one in its place; nothing else writes the journal."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open for writing (``create``: make it when missing); returns a descriptor."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags | (os.O_CREAT if create else 0), 0o600)

    def write(self, fd: int, data: bytes, offset: int) -> int:
        """Write at ``offset``; returns how many bytes were taken."""
        return os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Bring the file's data to the disk."""
        os.fdatasync(fd)

    def sync_error(self, fd: int) -> OSError | None:
        """Sync; return the error instead of raising it."""
        try:
            self.sync(fd)
        except OSError as error:
            return error
        return None

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        os.ftruncate(fd, size)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, replacing ``new``."""
        old.replace(new)

    def sync_dir(self, path: Path) -> None:
        """Bring the directory's names to the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def write_all(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``; OSError when the disk takes no more."""
        view = memoryview(data)
        while view:
            taken = self.write(fd, bytes(view), offset)
            if taken == 0:
                raise OSError(28, "the disk took no bytes")
            view = view[taken:]
            offset += taken

    def write_file(self, path: Path, data: bytes) -> None:
        """Put a whole file in place, durably: a reader sees the old one or the new one."""
        temporary = path.with_name(f".{path.name}.tmp")
        fd = self.open(temporary, create=True)
        try:
            self.truncate(fd, 0)
            self.write_all(fd, data, 0)
            self.sync(fd)
        finally:
            os.close(fd)
        self.rename(temporary, path)
        self.sync_dir(path.parent)


def take_lock(directory: Path) -> int:
    """Return the descriptor that holds the journal's lock; the directory is made when missing.

    Raises:
        SekishoError: another writer holds it.
        OSError: the disk refused.

    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        problem = Problem(str(directory), "lock", "held by another process", "one writer")
        raise SekishoError("the journal has another writer", (problem,)) from error
    return fd


def refusal(what: str, directory: Path, error: OSError) -> SekishoError:
    """Return the error a reader gets when the disk refuses."""
    problem = Problem(str(directory), "", printable(str(error)), "a disk that takes records")
    return SekishoError(what, (problem,))


def not_durable(directory: Path, n: int, why: str) -> SekishoError:
    """Return the error for a record that is written but not confirmed by the disk."""
    problem = Problem(str(directory), f"n={n}", why, "the disk's confirmation")
    return SekishoError("the record is written but not known to be on the disk", (problem,))
