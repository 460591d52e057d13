"""The journal's one writer: numbered, chained, sealed, group-committed.

The plan: ``append`` puts the line into the file at once (a killed agent loses nothing) and a
background thread brings it to the disk within the window (a power cut loses at most that).
``durable=True`` waits for the disk. What could not be written is counted and, as soon as the disk
takes records again, told by a record of its own: the journal may have losses, never silent ones.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sekisho.core.errors import SekishoError, printable
from sekisho.host.journal.disk import Disk, not_durable, refusal, take_lock
from sekisho.host.journal.options import Options, Stats, unix_ms
from sekisho.host.journal.recovery import mark_reported, recover
from sekisho.journal.intake import check_public_kind
from sekisho.journal.records import SEAL, Origin, check_kind, encode_data, make_line
from sekisho.journal.seals import Head, fingerprint, head_bytes, seal_data
from sekisho.journal.verification import segment_name
from sekisho.local.journal_files import HEAD_FILE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

Clock = Callable[[], int]


class JournalWriter:
    """The only writer of one journal directory. Thread-safe. Make it with ``open``."""

    def __init__(  # noqa: PLR0913, PLR0917 - open() gathers what belongs together
        self,
        directory: Path,
        origin: Origin,
        key: EllipticCurvePrivateKey,
        clock: Clock,
        options: Options,
        disk: Disk,
        lock_fd: int,
    ) -> None:
        self._directory, self._origin, self._key = directory, origin, key
        self._key_name = fingerprint(key.public_key())
        self._clock, self._options, self._disk, self._lock_fd = clock, options, disk, lock_fd
        self._stats = Stats()
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._fd, self._size = -1, 0
        self._n, self._prev = 0, ""
        self._damaged = False  # bytes of a failed write may stand behind _size
        self._unsynced: list[bytes] = []
        self._unsynced_size = 0
        self._untold_lost = 0
        self._seal_due = 0.0  # monotonic; 0: nothing to seal
        self._head: Head | None = None
        self._head_raw = b""
        self._urgent = self._idle = False  # idle: the background thread sleeps until woken
        self._closing = False
        self._thread: threading.Thread | None = None

    @classmethod
    def open(  # noqa: PLR0913 - the writer's whole configuration
        cls,
        directory: Path,
        host: str,
        boot: str,
        key: EllipticCurvePrivateKey,
        clock: Clock = unix_ms,
        *,
        options: Options | None = None,
        disk: Disk | None = None,
    ) -> Self:
        """Open the journal in ``directory``, repair a torn tail and report what was found.

        Raises:
            SekishoError: another writer has it, or the disk refuses.

        """
        origin = Origin(host, boot)
        try:
            lock_fd = take_lock(directory)
            try:
                writer = cls(
                    directory, origin, key, clock, options or Options(), disk or Disk(), lock_fd
                )
                with writer._lock:
                    writer._begin()
            except BaseException:
                os.close(lock_fd)
                raise
        except OSError as error:
            raise refusal("the journal cannot be opened", directory, error) from error
        return writer

    def _begin(self) -> None:
        found = recover(self._disk, self._directory, self._origin.host, self._key.public_key())
        self._n, self._prev = found.n, found.prev
        try:
            if found.segment is not None:
                self._fd, self._size = self._disk.open(found.segment), found.size
            for kind, data in found.reports:
                self._put(kind, encode_data(data))
                self._stats.repaired += kind == "journal.repaired"
                self._stats.broken += kind == "journal.broken"
            self._put("journal.opened", encode_data({"v": 1, "key": self._key_name}))
            if found.n:  # what a killed writer left unsealed keeps the promise, too
                self._put_seal()
            self._sync()
            mark_reported(self._disk, found)
        except BaseException:
            if self._fd >= 0:
                os.close(self._fd)
            raise
        if self._options.background:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()

    @property
    def stats(self) -> Stats:
        """A copy of the counters."""
        with self._lock:
            return replace(self._stats)

    @property
    def head(self) -> bytes:
        """The last signed head as written to ``head.json``; empty before the first seal."""
        with self._lock:
            return self._head_raw

    def append(self, kind: str, data: dict[str, Any], *, durable: bool = False) -> int:
        """Write one record and return its number; ``durable`` waits until the disk has it.

        Raises:
            SekishoError: the event is malformed (counted ``refused``), the disk does not take it
                (counted ``lost``), or it was written but the disk did not confirm in time.

        """
        try:
            check_public_kind(check_kind(kind))
            raw = encode_data(data)
        except SekishoError:
            with self._lock:
                self._stats.refused += 1
            raise
        with self._lock:
            self._check_open()
            try:
                self._seal_when_due()  # first: no record may stand too long behind the last seal
                self._tell_losses()
                self._put(kind, raw)
            except OSError as error:
                self._count_lost(error)
                raise refusal("the event was not journalled", self._directory, error) from error
            n = self._n
            if n - self._stats.sealed_n >= self._options.seal_records:
                self._try_seal()
            if durable:
                self._await_durable(n)
            elif self._idle:
                self._wake.notify_all()
        return n

    def flush(self) -> None:
        """Bring everything written so far to the disk; SekishoError when it refuses."""
        with self._lock:
            self._check_open()
            self._await_durable(self._n)

    def seal(self) -> bytes:
        """Seal now, write ``head.json`` and return the signed head, to be kept elsewhere."""
        with self._lock:
            self._check_open()
            try:
                self._tell_losses()
                self._put_seal()
            except OSError as error:
                self._stats.write_errors += 1
                raise refusal("the journal was not sealed", self._directory, error) from error
            self._await_durable(self._n)
            self._save_head()
            return self._head_raw

    def close(self) -> None:
        """Seal, write the head and let go. A second call does nothing."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._closing = False
            try:
                self.seal()
            finally:
                self._closing = True
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1
                os.close(self._lock_fd)

    # -- below: called with the lock held ----------------------------------------------------

    def _check_open(self) -> None:
        if self._closing:
            raise SekishoError("the journal is closed")

    def _count_lost(self, error: OSError) -> None:
        self._stats.lost += 1
        self._stats.write_errors += 1
        self._stats.last_error = printable(str(error))
        self._untold_lost += 1

    def _tell_losses(self) -> None:
        if self._untold_lost:
            data = {"count": self._untold_lost, "error": self._stats.last_error}
            self._put("journal.lost", encode_data(data))
            self._untold_lost = 0

    def _put(self, kind: str, data: bytes, t: int | None = None) -> None:
        """Write the next record at the end of the chain, or leave the chain as it was (OSError)."""
        if self._unsynced_size > self._options.unsynced_bytes:
            self._sync()  # the disk has been refusing: one more chance, then refuse too
        n = self._n + 1
        t = self._clock() if t is None else t
        line, name = make_line(self._origin, n, t, kind, data, self._prev)
        if self._fd < 0 or self._size + len(line) > self._options.segment_bytes:
            self._next_segment(n)
        self._cut_damage()
        try:
            self._disk.write_all(self._fd, line, self._size)
        except OSError:
            self._damaged = True
            raise
        self._size += len(line)
        self._unsynced.append(line)
        self._unsynced_size += len(line)
        self._n, self._prev = n, name
        self._stats.last_n = n
        self._stats.appended += 1
        if not self._seal_due:
            self._seal_due = time.monotonic() + self._options.seal_seconds

    def _cut_damage(self) -> None:
        """Cut off what a failed write may have left behind the last sound record."""
        if self._damaged:
            self._disk.truncate(self._fd, self._size)
            self._damaged = False

    def _next_segment(self, n: int) -> None:
        """Begin the segment of record ``n``. The old one is whole on the disk before."""
        if self._fd >= 0:
            self._cut_damage()
            self._sync()
        path = self._directory / segment_name(n)
        fd = self._disk.open(path, create=True)
        try:
            if os.fstat(fd).st_size:
                raise FileExistsError(errno.EEXIST, "the next segment is there already", str(path))
            self._disk.sync_dir(self._directory)
        except OSError:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = fd, 0

    def _put_seal(self) -> None:
        n, t = self._n + 1, self._clock()
        place = Head(self._origin.host, n, t, self._prev)
        data = seal_data(self._key, self._key_name, place)
        self._put(SEAL, encode_data(data), t)
        self._stats.seals += 1
        self._stats.sealed_n = n
        self._seal_due = 0.0
        self._head = Head(self._origin.host, n, t, self._prev)

    def _try_seal(self) -> None:
        """Seal, or count that the disk refused and try again in a second or at the next record."""
        try:
            self._put_seal()
        except OSError as error:
            self._stats.write_errors += 1
            self._stats.last_error = printable(str(error))
            self._seal_due = time.monotonic() + 1.0

    def _sync(self) -> None:
        """Bring the segment to the disk here and now. OSError when it refuses."""
        if self._fd < 0 or self._stats.synced_n == self._n:
            return
        self._synced(self._n, len(self._unsynced), self._disk.sync_error(self._fd))

    def _synced(self, n: int, lines: int, error: OSError | None) -> None:
        """Account for a sync of the first ``lines`` waiting lines, up to record ``n``."""
        self._stats.syncs += 1
        if error is None:
            self._unsynced_size -= sum(len(line) for line in self._unsynced[:lines])
            del self._unsynced[:lines]
            self._stats.synced_n = max(self._stats.synced_n, n)
            self._wake.notify_all()
            return
        self._stats.sync_errors += 1
        self._stats.last_error = printable(str(error))
        # After a failed sync the kernel may have dropped the pages and call them clean: dirty
        # them again from memory, so that the next sync means what it says.
        waiting = b"".join(self._unsynced)
        self._disk.write_all(self._fd, waiting, self._size - len(waiting))
        self._wake.notify_all()
        raise error

    def _await_durable(self, n: int) -> None:
        if self._thread is None:
            try:
                self._sync()
            except OSError as error:
                raise not_durable(self._directory, n, str(error)) from error
            return
        errors = self._stats.sync_errors
        deadline = time.monotonic() + self._options.durable_seconds
        while self._stats.synced_n < n:
            self._urgent = True
            self._wake.notify_all()
            self._wake.wait(max(0.0, deadline - time.monotonic()))
            if self._stats.sync_errors > errors and self._stats.synced_n < n:
                raise not_durable(self._directory, n, self._stats.last_error)
            if time.monotonic() >= deadline and self._stats.synced_n < n:
                raise not_durable(
                    self._directory, n, f"no answer in {self._options.durable_seconds:g} s"
                )

    def _save_head(self) -> None:
        if self._head is None or self._head.n > self._stats.synced_n:
            return
        raw = head_bytes(self._key, self._key_name, self._head)
        try:
            self._disk.write_file(self._directory / HEAD_FILE, raw)
        except OSError as error:
            self._stats.write_errors += 1
            self._stats.last_error = printable(str(error))
            raise refusal("the journal's head was not kept", self._directory, error) from error
        self._head, self._head_raw = None, raw

    # -- the background thread ---------------------------------------------------------------

    def _run(self) -> None:
        window = self._options.window_ms / 1000
        pause = 0.0
        with self._lock:
            while not self._closing:
                waiting = self._stats.synced_n < self._n
                if not waiting:
                    self._urgent, self._idle = False, True
                    due = self._seal_due
                    self._wake.wait(max(0.0, due - time.monotonic()) if due else None)
                    self._idle = False
                elif not self._urgent or pause:
                    self._wait_window(max(window, pause))
                self._seal_when_due()
                if self._stats.synced_n < self._n:
                    pause = 0.0 if self._sync_outside_lock() else min(1.0, 2 * (pause or window))

    def _wait_window(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._closing and not self._urgent:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._wake.wait(left)

    def _seal_when_due(self) -> None:
        if self._seal_due and time.monotonic() >= self._seal_due:
            self._try_seal()

    def _sync_outside_lock(self) -> bool:
        """Sync while others append; return whether the disk confirmed."""
        n, lines = self._n, len(self._unsynced)
        self._urgent = False
        fd = os.dup(self._fd)  # a new segment may begin meanwhile and close the old one
        self._lock.release()
        try:
            error = self._disk.sync_error(fd)
            os.close(fd)
        finally:
            self._lock.acquire()
        if self._stats.synced_n >= n:
            return True  # a new segment began meanwhile and synced the old one
        try:
            self._synced(n, lines, error)
            self._save_head()
        except (OSError, SekishoError):
            return False
        return True
