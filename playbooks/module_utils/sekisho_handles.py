# SPDX-License-Identifier: GPL-2.0-or-later
"""Mounts and processes of others, acted on by what the kernel holds them by.

A mount point's path and a process's number say what they mean at that moment only: whoever owns a
folder above may put another in its place, and a number is given again. A name is its owner's word:
a process calls itself whatever it likes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import re
import signal
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils import sekisho_safe_files as safe
from ansible.module_utils.sekisho_text import is_number, lines_of

#: linux/mount.h
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_O_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_UNIT = re.compile(r"/([A-Za-z0-9:_.\\@-]+\.(?:service|socket|scope))$")
_SOCKET = re.compile(r"socket:\[([0-9]+)\]", re.ASCII)


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo.

    Attributes:
        number: the kernel's, unique while it is mounted.
        point: where it is mounted; bytes that are no UTF-8 as lone surrogates.
        kind: the type of the file system.
        options: the mount's own and its file system's.

    """

    number: int
    point: str
    kind: str
    options: frozenset[str]


def mounts(table: str = "/proc/self/mountinfo") -> list[Mount]:
    """Return what is mounted, in the kernel's order: of several at one point the topmost last."""
    found = []
    for line in lines_of(text_of(table)):
        left, _, right = line.partition(" - ")
        number, _, _, _, point, own, *_ = left.split(" ")
        kind, _, whole = right.split(" ", 2)
        options = frozenset(own.split(",")) | frozenset(whole.split(","))
        found.append(Mount(int(number), _unescaped(point), kind, options))
    return found


def _unescaped(name: str) -> str:
    """Return a name of the kernel's tables: blanks and backslashes stand there as octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)


def text_of(path: str) -> str:
    """Return a table of the kernel's; names in it may be of any bytes."""
    return Path(path).read_text(encoding="utf-8", errors="surrogateescape")


def matching(pattern: str) -> list[str]:
    """Return the paths that fit a pattern, sorted; hidden files and dangling links are among them.

    They are names only: what is done to one is done by a handle.
    """
    return sorted(glob.glob(pattern, include_hidden=True))  # noqa: PTH207 - Path.glob passes dangling links over


def unmount(mount: Mount) -> None:
    """Take one mount away, and what is mounted on it; what holds it open has it until it ends.

    Its folder is reached name by name and held open, no link is followed, and what is there must be
    this very mount.

    Raises:
        OSError: another mount is there, or over it; a link is on the way; the kernel refuses.

    """
    folder, name = os.path.split(mount.point)
    with safe.Folder.open(folder, links=False) as parent:
        handle = os.open(name, _O_PLACE, dir_fd=parent.handle)
        try:
            held = _mount_number(handle)
        finally:
            os.close(handle)
        if held != mount.number:
            raise OSError(errno.ESTALE, "another mount is there, or over it", mount.point)
        # By its name in the folder that is held: a handle of the mount itself would keep it busy.
        place = os.fsencode(f"/proc/self/fd/{parent.handle}/{name}")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(place, _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), mount.point)


def _mount_number(handle: int) -> int:
    for line in lines_of(text_of(f"/proc/self/fdinfo/{handle}")):
        key, _, value = line.partition(":")
        if key == "mnt_id":
            return int(value)
    raise OSError(errno.ENOSYS, "the kernel does not tell the mount of a handle")


class Process:
    """A process held by its pidfd: whatever it was asked, and whoever has its number later.

    Attributes:
        number: its process id.
        uid: its user (effective).
        name: what it calls itself.
        unit: systemd's unit that it runs in; "" for none.

    """

    def __init__(self, number: int) -> None:
        """Hold it; `ProcessLookupError` when it is gone."""
        self.number = number
        self._handle = os.pidfd_open(number)
        try:
            folder = f"/proc/{number}"
            self.uid = Path(folder).stat().st_uid
            self.name = text_of(f"{folder}/comm").strip()
            unit = _UNIT.search(text_of(f"{folder}/cgroup").strip())
            self.unit = unit[1] if unit else ""
            self.signal(0)  # still there: so all this was read of it, and of no successor
        except OSError as bad:
            self.close()
            raise ProcessLookupError(errno.ESRCH, "it is gone", str(number)) from bad

    def sockets(self) -> frozenset[int]:
        """Return the inode numbers of the sockets it holds; `ProcessLookupError` when it ended."""
        try:
            found = frozenset(_sockets(f"/proc/{self.number}"))
        except FileNotFoundError:
            found = frozenset()
        self.signal(0)
        return found

    def signal(self, number: int) -> None:
        """Send it a signal; `ProcessLookupError` when it has ended."""
        signal.pidfd_send_signal(self._handle, number)

    def close(self) -> None:
        """Let it go."""
        os.close(self._handle)


def _sockets(folder: str) -> Iterator[int]:
    for link in Path(folder, "fd").iterdir():
        try:
            found = _SOCKET.fullmatch(str(link.readlink()))
        except OSError:  # shut meanwhile
            continue
        if found:
            yield int(found[1])


def processes() -> Iterator[Process]:
    """Yield every process, held; who is given one closes it."""
    for entry in sorted(Path("/proc").iterdir()):
        if is_number(entry.name):
            with contextlib.suppress(ProcessLookupError):
                yield Process(int(entry.name))


def holders(wanted: Collection[int]) -> Iterator[tuple[Process, frozenset[int]]]:
    """Yield each process that has one of some sockets (inode numbers), and which it has.

    Who is given one closes it. Not ss's word for it: the name in there is the process's own, and
    may hold another's number.
    """
    for process in processes():
        try:
            has = process.sockets() & frozenset(wanted)
        except ProcessLookupError:
            has = frozenset()
        if has:
            yield process, has
        else:
            process.close()
