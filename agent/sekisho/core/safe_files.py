"""Files in folders that others own: every step by an open handle, and no link of others followed.

Root that acts by a path in somebody's folder acts wherever that person says at that moment: one
renameat2(RENAME_EXCHANGE) puts a link in the place of what was examined. Here a path is walked one
name at a time from the root directory, each folder is held open (openat with O_NOFOLLOW), and
whatever is changed is changed through its handle or by its name relative to a handle.

A link is followed only where root alone can have made it: in a folder that is root's, and so are
all above it. What is not a regular file is never opened: a FIFO, a device or a socket is a finding.

The one file for agent, helpers and, by ``playbooks/module_utils``, Ansible's modules: standard
library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from typing import Self

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40
_KINDS = {
    stat.S_IFREG: "a file", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}  # fmt: skip


class UnsafeError(OSError):
    """What is at a path must not be used; the message says what it is."""

    def __init__(self, path: str, got: str, number: int = errno.ELOOP) -> None:
        super().__init__(number, got, path)


def kind_of(info: os.stat_result) -> str:
    """Return what an inode is, in words."""
    return _KINDS.get(stat.S_IFMT(info.st_mode), "of no known kind")


def _roots_alone(info: os.stat_result) -> bool:
    """Return whether nobody but root (and this process's own user) can change a folder's names."""
    writers = info.st_mode & (0o002 if info.st_gid == 0 else 0o022)
    return info.st_uid in {0, os.geteuid()} and not writers


def _plain(name: str) -> str:
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise UnsafeError(name, "no plain file name", errno.EINVAL)
    return name


def _absolute(path: str) -> str:
    return path if path.startswith("/") else os.path.join(os.getcwd(), path)


class _Held:
    """An inode held by a handle; ``info`` is what it was when it was taken."""

    def __init__(self, handle: int, path: str) -> None:
        self.handle, self.path = handle, path
        self.info = os.fstat(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the handle go."""
        os.close(self.handle)

    @property
    def _way(self) -> str:
        return f"/proc/self/fd/{self.handle}"

    def real_path(self) -> str:
        """Return the path the kernel knows the inode by now."""
        return os.readlink(self._way)

    def set_mode(self, mode: int) -> None:
        """Set the mode of this inode; a link has none."""
        if stat.S_ISLNK(self.info.st_mode):
            raise UnsafeError(self.path, "a symbolic link")
        os.chmod(self._way, mode)

    def set_owner(self, uid: int, gid: int) -> None:
        """Set owner and group of this inode, a link's own included."""
        os.chown(self._way, uid, gid)


class Pinned(_Held):
    """One inode of any kind, by a handle that opens nothing: what is done hits no other."""

    def expect(self, judged: os.stat_result) -> None:
        """Raise `UnsafeError` unless this is the inode that was examined, of the same owner."""
        for one in ("st_dev", "st_ino", "st_uid"):
            if getattr(self.info, one) != getattr(judged, one):
                raise UnsafeError(self.path, "not what was examined any more", errno.ESTALE)
        if kind_of(self.info) != kind_of(judged):
            raise UnsafeError(self.path, "not what was examined any more", errno.ESTALE)

    def target(self) -> str:
        """Return the target of a symbolic link."""
        return os.readlink("", dir_fd=self.handle)

    def open(self, flags: int = os.O_RDONLY) -> int:
        """Return an open handle of a regular file; nothing else is ever opened."""
        if not stat.S_ISREG(self.info.st_mode):
            raise UnsafeError(self.path, f"{kind_of(self.info)}, not a file", errno.EINVAL)
        return os.open(self._way, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)

    def read(self, limit: int) -> bytes:
        """Return the content, at most ``limit`` bytes; `UnsafeError` when it is longer."""
        handle = self.open()
        try:
            data = read_up_to(handle, limit + 1)
        finally:
            os.close(handle)
        if len(data) > limit:
            raise UnsafeError(self.path, f"larger than {limit} bytes", errno.EFBIG)
        return data


class Folder(_Held):
    """An open folder; names in it are reached relative to its handle.

    ``path`` is its real path at the time; ``alone`` whether it and all above it are root's alone.
    """

    def __init__(self, handle: int, path: str, *, alone: bool) -> None:
        super().__init__(handle, path)
        self.alone = alone and _roots_alone(self.info)

    @classmethod
    def open(cls, path: str, *, links: bool = True, make: int | None = None) -> Folder:
        """Open a folder by its path, name by name.

        Args:
            path: absolute, or taken from the working directory.
            links: follow links that root alone can have made; else none at all.
            make: mode of the folders that are missing, which are then made.

        Raises:
            UnsafeError: a link that somebody else than root can have made, or too many.
            OSError: as for any other open.

        """
        held = [cls(os.open("/", _FOLDER), "/", alone=True)]
        todo = _absolute(path).split("/")[::-1]
        hops = _MAX_LINKS if links else 0
        try:
            while todo:
                name = todo.pop()
                if name == ".." and len(held) > 1:
                    held.pop().close()
                if name in {"", ".", ".."}:
                    continue
                try:
                    held.append(held[-1]._step(name, make))
                except UnsafeError:
                    target = held[-1]._roots_link(name, hops)
                    hops -= 1
                    while target.startswith("/") and len(held) > 1:
                        held.pop().close()
                    todo += reversed(target.split("/"))
            return held.pop()
        finally:
            for folder in held:
                folder.close()

    def _join(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def _step(self, name: str, make: int | None) -> Folder:
        try:
            return self.sub(name)
        except FileNotFoundError:
            if make is None:
                raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, make, dir_fd=self.handle)
        return self.sub(name)

    def _roots_link(self, name: str, hops: int) -> str:
        """Return the target of a link that may be followed."""
        try:
            target = os.readlink(name, dir_fd=self.handle)
        except OSError:
            raise UnsafeError(self._join(name), "no directory", errno.ENOTDIR) from None
        if not self.alone or hops <= 0:
            raise UnsafeError(self._join(name), "a symbolic link")
        return target

    def sub(self, name: str) -> Folder:
        """Open a folder in this one; a link to one is none."""
        try:
            handle = os.open(_plain(name), _FOLDER, dir_fd=self.handle)
        except NotADirectoryError:
            text = "no directory, or a link in the place of one"
            raise UnsafeError(self._join(name), text, errno.ENOTDIR) from None
        return Folder(handle, self._join(name), alone=self.alone)

    def enter(self, name: str) -> Folder:
        """Open a folder in this one, also by a link that root alone can have made."""
        try:
            return self.sub(name)
        except UnsafeError:
            self._roots_link(name, _MAX_LINKS)
            return Folder.open(self._join(name))

    def make(self, name: str, mode: int = 0o700) -> Folder:
        """Open a folder in this one, made with ``mode`` when it is missing."""
        return self._step(_plain(name), mode)

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Give a handle by which the folder can be listed, locked and synced."""
        handle = os.open(".", _LIST, dir_fd=self.handle)
        try:
            yield handle
        finally:
            os.close(handle)

    def names(self) -> list[str]:
        """Return the names in the folder, sorted."""
        with self.opened() as handle:
            return sorted(os.listdir(handle))

    def stat(self, name: str) -> os.stat_result | None:
        """Return what a name is, a link itself; None when it is not there."""
        try:
            return os.stat(_plain(name), dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def pin(self, name: str) -> Pinned:
        """Hold what a name is at this moment, a link itself."""
        return Pinned(os.open(_plain(name), _PIN, dir_fd=self.handle), self._join(name))

    def follow(self, name: str) -> tuple[Folder, Pinned]:
        """Hold what a name leads to by links that root alone can have made, and its folder.

        A link of others is held itself. The caller closes both.
        """
        here, hops = Folder(os.dup(self.handle), self.path, alone=self.alone), 0
        try:
            while True:
                pinned = here.pin(name)
                if not stat.S_ISLNK(pinned.info.st_mode) or not here.alone or hops > _MAX_LINKS:
                    return here, pinned
                with pinned:
                    target = os.path.join(here.path, pinned.target())
                there = Folder.open(os.path.dirname(target.rstrip("/")) or "/")
                here.close()
                here, name, hops = there, os.path.basename(target.rstrip("/")), hops + 1
        except BaseException:
            here.close()
            raise

    def read(self, name: str, limit: int) -> bytes:
        """Return a regular file's content, at most ``limit`` bytes."""
        with self.pin(name) as pinned:
            return pinned.read(limit)

    def create(self, name: str, mode: int = 0o600) -> int:
        """Make a new file and return its handle; `FileExistsError` when any such name is there."""
        return os.open(_plain(name), _FRESH, mode, dir_fd=self.handle)

    def write(
        self, name: str, data: bytes, mode: int, owner: tuple[int, int] | None = None
    ) -> None:
        """Put a file in the place of whatever has its name, whole and durably."""
        fresh = f".{_plain(name)[:100]}.{secrets.token_hex(8)}.sekisho"
        handle = self.create(fresh)
        try:
            try:
                if owner is not None:
                    os.fchown(handle, *owner)
                os.fchmod(handle, mode)
                write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            self.rename(fresh, name)
        except BaseException:
            self.unlink(fresh, missing_ok=True)
            raise
        self.sync()

    def unlink(self, name: str, *, missing_ok: bool = False) -> None:
        """Take a name away that is no folder's."""
        with contextlib.suppress(*([FileNotFoundError] if missing_ok else [])):
            os.unlink(_plain(name), dir_fd=self.handle)

    def remove_tree(self, name: str) -> None:
        """Take a folder away with all below it; no link is followed."""
        shutil.rmtree(_plain(name), dir_fd=self.handle)

    def rename(self, name: str, new: str, to: Folder | None = None) -> None:
        """Rename within this folder, or into another; what has the new name goes."""
        target = self.handle if to is None else to.handle
        os.rename(_plain(name), _plain(new), src_dir_fd=self.handle, dst_dir_fd=target)

    def link(self, handle: int, name: str) -> None:
        """Give an open file a name here; `FileExistsError` when any such name is there."""
        os.link(f"/proc/self/fd/{handle}", _plain(name), dst_dir_fd=self.handle)

    def symlink(self, target: str, name: str) -> None:
        """Make a symbolic link."""
        os.symlink(target, _plain(name), dir_fd=self.handle)

    def sync(self) -> None:
        """Bring the folder's names to the disk."""
        with self.opened() as handle:
            os.fsync(handle)


@contextlib.contextmanager
def beside(path: str, *, make: int | None = None) -> Iterator[tuple[Folder, str]]:
    """Give the open folder of a path and the path's last name; see `Folder.open`."""
    folder, name = os.path.split(_absolute(path).rstrip("/"))
    with Folder.open(folder, make=make) as opened:
        yield opened, _plain(name)


@contextlib.contextmanager
def pinned(path: str) -> Iterator[Pinned]:
    """Hold what is at a path, a link itself; see `Folder.open`."""
    with beside(path) as (folder, name), folder.pin(name) as found:
        yield found


def read_up_to(handle: int, size: int) -> bytes:
    """Return at most ``size`` bytes from an open file."""
    # No buffer larger than the file: for one of /proc/sys the kernel fills it with zeros.
    step = max(4096, os.fstat(handle).st_size + 1)
    data = b""
    while len(data) < size and (chunk := os.read(handle, min(step, size - len(data)))):
        data += chunk
    return data


def write_all(handle: int, data: bytes) -> None:
    """Write all of ``data``."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def set_aside(path: str, shelf: str) -> None:
    """Move what is at a path to a folder that only root reaches; the path is its name there.

    Across file systems, files, folders and links are made anew there; the rest is taken away.
    """
    stamp = f"{time.time_ns()}"
    new = stamp + os.fsdecode(os.fsencode(path.replace("/", "%"))[len(stamp) - 255 :])
    with Folder.open(shelf, make=0o700) as kept, beside(path) as (folder, name):
        kept.set_mode(0o700)
        try:
            folder.rename(name, new, to=kept)
        except OSError as bad:
            if bad.errno != errno.EXDEV:
                raise
            _carry(folder, name, kept, new)


def _carry(folder: Folder, name: str, to: Folder, new: str) -> None:
    with folder.pin(name) as found:
        if stat.S_ISLNK(found.info.st_mode):
            to.symlink(found.target(), new)
        elif stat.S_ISREG(found.info.st_mode):
            source, copy = found.open(), to.create(new)
            try:
                while chunk := os.read(source, 1024 * 1024):
                    write_all(copy, chunk)
                os.fsync(copy)
            finally:
                os.close(source)
                os.close(copy)
        elif stat.S_ISDIR(found.info.st_mode):
            with folder.sub(name) as inner, to.make(new) as made:
                for one in inner.names():
                    _carry(inner, one, made, one)
            folder.remove_tree(name)
            return
    folder.unlink(name)
