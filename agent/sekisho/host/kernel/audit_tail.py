"""Follow the audit log over rotation, truncation and restarts, and lose nothing in silence.

The cursor says up to where everything is safe in the journal. It is written only after the
journal holds the entries: a crash between the two repeats entries, never skips one. What cannot be
read any more (rotated away, truncated) becomes a `Gap`.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sekisho.activity.pipeline import Activity, Checkpoint, Entry
from sekisho.activity.records import MAX_LINE
from sekisho.activity.serials import Gap
from sekisho.core.files import write_atomic
from sekisho.core.text import is_number
from sekisho.host.kernel.audit_cursor import (
    Identity,
    boot_id_now,
    identity_of,
    lines_of,
    read_cursor,
)

CHUNK = 256 * 1024
_NETLINK_AUDIT = 9
_AUDIT_GET = 1000
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2


@dataclass(slots=True)
class _Batch:
    """Lines given out but not committed: where each of them begins."""

    first: int
    identity: Identity
    offset: int
    lengths: list[int]


class AuditFollower:
    """Gives out the lines of the log from where the cursor stands.

    Args:
        path: the log as the daemon names it (``/var/log/audit/audit.log``; rotated: ``.1`` …).
        cursor_path: where to keep the cursor, in a directory only root can write to.
        boot_id: the kernel's boot id; None reads it. Serials restart with it.

    """

    def __init__(self, path: Path, cursor_path: Path, *, boot_id: str | None = None) -> None:
        self.path = path
        self.cursor_path = cursor_path
        self.boot_id = boot_id_now() if boot_id is None else boot_id
        self.resume: Checkpoint | None = None
        self.behind = False
        self.missing = False
        self._gaps: list[Gap] = []
        self._handle = -1
        self._identity: Identity | None = None
        self._offset = 0  # of the first byte not yet given out
        self._rest = b""
        self._skipping = False
        self._given = 0
        self._batches: deque[_Batch] = deque()
        self._written: bytes | None = None
        self._open_first()

    def close(self) -> None:
        """Close the log; the cursor stays as committed."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def take_gaps(self) -> list[Gap]:
        """Return what could not be read, since the last call."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def poll(self, max_lines: int = 4000) -> Iterator[bytes]:
        """Return new whole lines with their newline, at most about ``max_lines``."""
        return iter(self._poll(max_lines))

    def _poll(self, max_lines: int) -> list[bytes]:
        lines: list[bytes] = []
        self.behind = False
        while len(lines) < max_lines:
            if self._handle < 0 and not self._open_current():
                break
            # Look first, read after: once the name points elsewhere, the old file is final.
            replaced = self._replaced()
            info = os.fstat(self._handle)
            if info.st_size < self._offset + len(self._rest):
                self._gap("truncated", -1, info.st_size, self._offset, "the log became shorter")
                self._restart_file()
                continue
            data = os.pread(self._handle, CHUNK, self._offset + len(self._rest))
            if data:
                lines += self._split(data)
                self._identify()
                self.behind = len(data) == CHUNK
                continue
            if not replaced:
                break
            lines += self._split(b"\n") if self._rest else []
            self._next_file()
        else:
            self.behind = True
        return lines

    def _split(self, data: bytes) -> list[bytes]:
        buffer = self._rest + data
        end = buffer.rfind(b"\n") + 1
        lines = buffer[:end].splitlines(keepends=True) if b"\r" not in buffer else lines_of(buffer)
        self._rest = buffer[end:]
        start = self._offset
        if self._skipping and lines:
            start += len(lines.pop(0))
            self._skipping = False
        if self._skipping:
            self._offset += len(self._rest)
            self._rest = b""
            return []
        if lines:
            assert self._identity is not None  # noqa: S101 - opened before it is read
            lengths = [len(line) for line in lines]
            self._batches.append(_Batch(self._given, self._identity, start, lengths))
            self._given += len(lines)
        self._offset += end
        if len(self._rest) > MAX_LINE:
            # No record: given out once so that it is counted, the rest of it is skipped.
            lines.append(self._rest)
            assert self._identity is not None  # noqa: S101
            self._batches.append(
                _Batch(self._given, self._identity, self._offset, [len(self._rest)])
            )
            self._given += 1
            self._offset += len(self._rest)
            self._rest = b""
            self._skipping = True
        return lines

    def commit(self, checkpoint: Checkpoint) -> None:
        """Write down that everything before ``checkpoint`` is safe. Atomic and on disk."""
        identity, offset = self._position(checkpoint.lines)
        if identity is None:
            return
        cursor = {
            "schema": 1,
            "device": identity.device,
            "inode": identity.inode,
            "fingerprint": identity.fingerprint,
            "offset": offset,
            "boot": self.boot_id,
            "serial": checkpoint.serial,
            "done": list(checkpoint.done),
        }
        data = json.dumps(cursor, sort_keys=True).encode() + b"\n"
        if data != self._written:
            write_atomic(self.cursor_path, data, prefix=".cursor-")
            self._written = data

    def _position(self, line: int) -> tuple[Identity | None, int]:
        while self._batches and self._batches[0].first + len(self._batches[0].lengths) <= line:
            self._batches.popleft()
        if not self._batches:
            return self._identity, self._offset
        batch = self._batches[0]
        return batch.identity, batch.offset + sum(batch.lengths[: max(0, line - batch.first)])

    # --- which file ------------------------------------------------------------------------

    def _open_first(self) -> None:
        cursor = read_cursor(self.cursor_path)
        if cursor is None:
            self._gap("no-cursor", -1, None, None, "begins at the start of the current log")
            self._open_current()
            return
        wanted = Identity(cursor["device"], cursor["inode"], cursor["fingerprint"])
        same_boot = cursor["boot"] == self.boot_id
        self.resume = Checkpoint(0, tuple(cursor["done"]), cursor["serial"] if same_boot else None)
        offset = cursor["offset"]
        for candidate in self._files():
            if not self._open(candidate):
                continue
            if self._identity == wanted or (
                # A log that was empty when its cursor was written has no first line yet.
                self._identity is not None
                and wanted.fingerprint == ""
                and (self._identity.device, self._identity.inode) == (wanted.device, wanted.inode)
            ):
                size = os.fstat(self._handle).st_size
                before = os.pread(self._handle, 1, offset - 1) if offset else b"\n"
                if size >= offset and before == b"\n":
                    self._offset = offset
                    return
                self._gap("truncated", -1, size, offset, "the log became shorter meanwhile")
                return
            self.close()
        self._gap("rotated-away", -1, offset, None, "the log read last is no longer there")
        for candidate in reversed(self._files()):
            if self._open(candidate):
                return

    def _files(self) -> list[Path]:
        """Return the log and its rotated ones, newest first."""
        rotated = []
        prefix = self.path.name + "."
        try:
            names = [entry.name for entry in self.path.parent.iterdir()]
        except OSError:
            names = []
        for name in names:
            number = name.removeprefix(prefix)
            if name.startswith(prefix) and is_number(number):
                rotated.append((int(number), self.path.parent / name))
        return [self.path, *(path for _, path in sorted(rotated))]

    def _open(self, path: Path) -> bool:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        self.close()
        self._handle = handle
        self._identity = None
        self._restart_file()
        return True

    def _open_current(self) -> bool:
        opened = self._open(self.path)
        self.missing = not opened
        return opened

    def _restart_file(self) -> None:
        self._offset, self._rest, self._skipping = 0, b"", False
        self._identity = identity_of(self._handle)

    def _identify(self) -> None:
        if self._identity is not None and self._identity.fingerprint == "":
            before, self._identity = self._identity, identity_of(self._handle)
            for batch in self._batches:
                if batch.identity == before:
                    batch.identity = self._identity

    def _replaced(self) -> bool:
        try:
            info = self.path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return True
        ours = os.fstat(self._handle)
        return (info.st_dev, info.st_ino) != (ours.st_dev, ours.st_ino)

    def _next_file(self) -> None:
        """Go to the file that was begun after the one just finished."""
        ours = os.fstat(self._handle)
        previous: Path | None = None
        for candidate in self._files():
            try:
                info = candidate.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if (info.st_dev, info.st_ino) == (ours.st_dev, ours.st_ino):
                if previous is None or not self._open(previous):
                    self.close()  # renamed, and the new log is not there yet
                return
            previous = candidate
        self._gap("rotated-away", -1, self._offset, None, "logs may have gone before being read")
        self.close()
        for candidate in reversed(self._files()):
            if self._open(candidate):
                return

    def _gap(
        self, reason: str, count: int, first: int | None, last: int | None, detail: str
    ) -> None:
        self._gaps.append(Gap(reason, count, 0, first, last, detail))


class ActivityTail:
    """The follower and the pipeline together: entries out, one commit when they are safe."""

    def __init__(self, follower: AuditFollower, activity: Activity) -> None:
        self.follower = follower
        self.activity = activity
        if follower.resume is not None:
            activity.resume(follower.resume)
        self._checkpoint: Checkpoint | None = None

    @property
    def behind(self) -> bool:
        """Whether more lines wait already."""
        return self.follower.behind

    def poll(self, now_ms: int, *, max_lines: int = 4000) -> list[Entry]:
        """Return the entries of what came since the last call."""
        lines = list(self.follower.poll(max_lines))
        entries = self.activity.feed(lines) if lines else self.activity.idle(now_ms)
        gaps = [
            self.activity.gap(Gap(gap.reason, gap.count, now_ms, gap.first, gap.last, gap.detail))
            for gap in self.follower.take_gaps()
        ]
        self._checkpoint = self.activity.checkpoint()
        return gaps + entries

    def commit(self) -> None:
        """Say that every entry given out so far is safe in the journal."""
        if self._checkpoint is not None:
            self.follower.commit(self._checkpoint)


@dataclass(frozen=True, slots=True)
class KernelStatus:
    """The kernel's audit as it is now (``auditctl -s``)."""

    enabled: int
    failure: int
    pid: int
    rate_limit: int
    backlog_limit: int
    lost: int
    backlog: int


def parse_status(message: bytes) -> KernelStatus:
    """Return the status of a netlink reply; OSError when the kernel refused."""
    length, kind = struct.unpack_from("=IH", message) if len(message) >= 16 else (0, 0)
    if kind == _NLMSG_ERROR and len(message) >= 20:
        (code,) = struct.unpack_from("=i", message, 16)
        raise OSError(-code, os.strerror(-code))
    if kind != _AUDIT_GET or length < 48 or len(message) < 48:
        raise OSError("the kernel's answer about audit is garbled")
    values = struct.unpack_from("=8I", message, 16)  # mask, then what KernelStatus names
    return KernelStatus(*values[1:])


def kernel_status(timeout_s: float = 2.0) -> KernelStatus:
    """Ask the kernel; needs CAP_AUDIT_CONTROL. OSError when refused or not answered."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_AUDIT) as link:
        link.settimeout(timeout_s)
        link.bind((0, 0))
        link.send(struct.pack("=IHHII", 16, _AUDIT_GET, _NLM_F_REQUEST, 1, 0))
        for _ in range(16):
            message = link.recv(65536)
            if len(message) >= 6 and struct.unpack_from("=H", message, 4)[0] in (
                _AUDIT_GET,
                _NLMSG_ERROR,
            ):
                return parse_status(message)
    raise OSError("the kernel gave no answer about audit")
