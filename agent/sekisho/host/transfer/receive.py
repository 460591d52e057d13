"""One connection of the one-way hop, the receiving end.

Nothing is ever sent: the answer is how the connection ends. An orderly close says *stored and
verified, durably*; a reset says *refused*. Linger 0 is set from the first moment, so that a crash
of this process, too, ends in a reset: only `_confirm` can make it an orderly close.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from sekisho.core.errors import Problem, SekishoError
from sekisho.host.transfer.store import Peer, Place, Store
from sekisho.transfer.header import MAX_HEADER, Header, parse_header

BUFFER = 1024 * 1024
BUFFERS = 6
SMALL = 4 * BUFFER  # below this a second thread costs more than it gains
WRITEBACK = 64 * 1024 * 1024
_RESET = struct.pack("ii", 1, 0)
_ORDERLY = struct.pack("ii", 0, 0)


@dataclass(frozen=True, slots=True)
class Pace:
    """How slow a sender may be: seconds for the header and between bytes, bytes a second."""

    header_seconds: float = 10.0
    idle_seconds: float = 30.0
    bytes_per_second: int = 16 * 1024

    def deadline(self, size: int) -> float:
        """Return the seconds an object of ``size`` bytes may take."""
        return self.idle_seconds + size / self.bytes_per_second


def refuse_by_default(link: socket.socket) -> None:
    """Let every close of this socket (and of those it accepts) be a reset."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


class _Reader:
    """Reads a connection against a deadline."""

    def __init__(self, link: socket.socket, pace: Pace) -> None:
        self._link, self._pace = link, pace
        self._end = time.monotonic() + pace.header_seconds
        self._rest = b""

    def allow(self, size: int) -> None:
        self._end = time.monotonic() + self._pace.deadline(size)

    def into(self, view: memoryview) -> int:
        """Read what is there, at least one byte; 0 at the end. SekishoError when too slow."""
        if self._rest:
            count = min(len(view), len(self._rest))
            view[:count] = self._rest[:count]
            self._rest = self._rest[count:]
            return count
        left = min(self._end - time.monotonic(), self._pace.idle_seconds)
        if left <= 0:
            raise _gone("a sender too slow", "bytes in time")
        try:
            self._link.settimeout(left)
            return self._link.recv_into(view)
        except TimeoutError as error:
            raise _gone("a silent sender", "bytes in time") from error
        except OSError as error:
            raise _gone(str(error), "a connection to its end") from error

    def fill(self, view: memoryview) -> int:
        """Read until ``view`` is full, the sender ends or is too slow; one system call if it can.

        Fewer calls mean fewer changes of thread: on a busy machine they are what costs.
        """
        done = 0
        while done < len(view):
            rest = view[done:]
            count = self.into(rest) if self._rest else self._wait_all(rest)
            if count == 0:
                break
            done += count
        return done

    def _wait_all(self, view: memoryview) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise _gone("a sender too slow", "bytes in time")
        wait = min(left, self._pace.idle_seconds)
        limit = struct.pack("ll", int(wait), int(wait % 1 * 1e6) + 1)  # struct timeval
        try:
            self._link.settimeout(None)
            self._link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            return self._link.recv_into(view, len(view), socket.MSG_WAITALL)
        except BlockingIOError as error:
            raise _gone("a silent sender", "bytes in time") from error
        except OSError as error:
            raise _gone(str(error), "a connection to its end") from error

    def header(self) -> bytes:
        """Return the first line; what came behind it is kept for the body."""
        raw = b""
        chunk = memoryview(bytearray(MAX_HEADER))
        while b"\n" not in raw:
            count = self.into(chunk)
            if count == 0 or len(raw) + count > MAX_HEADER:
                raise _gone(f"{len(raw) + count} bytes without a line", "a header line")
            raw += chunk[:count]
        line, _, self._rest = raw.partition(b"\n")
        return line + b"\n"

    def end(self) -> None:
        """Insist that the sender has nothing more to say."""
        if self.into(memoryview(bytearray(1))):
            raise _gone("more bytes than the header says", "the end")


def _gone(got: str, expected: str) -> SekishoError:
    return SekishoError("the object is refused", (Problem("connection", "", got, expected),))


def serve(link: socket.socket, peer: Peer, store: Store, pace: Pace) -> str:
    """Take one object from ``link`` and close it; return what was done, in words.

    Raises:
        SekishoError: refused; the connection has ended in a reset.
        OSError: the disk refused; the same.

    """
    with link:
        refuse_by_default(link)
        reader = _Reader(link, pace)
        header = parse_header(reader.header())
        reader.allow(header.size)
        if header.kind == "manifest":
            with _spool(reader, header.size, store.root) as stream:
                store.take_manifest_from(header, stream, peer)
            _confirm(link)
            return f"manifest of {header.delivery}"
        with store.part(header, peer) as place:
            if place is None:
                store.finish(header.delivery)
                _confirm(link)
                with contextlib.suppress(SekishoError):
                    _drain(reader, header.size)
                return f"part {header.index} of {header.delivery}: held already"
            _take_part(reader, place, store)
        done = store.finish(header.delivery)
        _confirm(link)
        return f"part {header.index} of {header.delivery}" + (": complete" if done else "")


def _confirm(link: socket.socket) -> None:
    """Say *stored*: from here on the connection ends in an orderly way."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY)
    link.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def _spool(reader: _Reader, size: int, folder: Path) -> Iterator[BinaryIO]:
    """Give the object's bytes as a file without a name: many large ones at once fit no memory."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        view = memoryview(bytearray(min(size, BUFFER)))
        done = 0
        while done < size:
            count = reader.into(view[: min(len(view), size - done)])
            if count == 0:
                raise _gone(f"{done} bytes", f"{size} bytes")
            stream.write(view[:count])
            done += count
        reader.end()
        yield stream


def _body(reader: _Reader, size: int) -> bytes:
    raw = bytearray(size)
    view = memoryview(raw)
    got = 0
    while got < size:
        count = reader.into(view[got:])
        if count == 0:
            raise _gone(f"{got} bytes", f"{size} bytes")
        got += count
    return bytes(raw)


def _drain(reader: _Reader, size: int) -> None:
    """Read on what a sender sends before it sees that the part is held already."""
    view = memoryview(bytearray(BUFFER))
    while size >= 0 and (count := reader.into(view)):
        size -= count


def _take_part(reader: _Reader, place: Place, store: Store) -> None:
    header = place.header
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(place.path, flags, 0o640)
    try:
        if place.whole_file:
            os.ftruncate(fd, 0)
        digest = _stream(reader, fd, place.offset, header)
        reader.end()
        _compare(digest, header)
        store.hold(place, fd)
    except BaseException:
        if place.whole_file:
            place.path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _compare(digest: str, header: Header) -> None:
    if digest != header.sha256:
        raise _gone("bytes with another digest", f"SHA-256 {header.sha256}")


def _stream(reader: _Reader, fd: int, offset: int, header: Header) -> str:
    """Write the part's bytes at ``offset`` and return their SHA-256; they are copied once."""
    if header.size <= SMALL:
        raw = _body(reader, header.size)
        _write(fd, memoryview(raw), offset)
        return hashlib.sha256(raw).hexdigest()
    digest = hashlib.sha256()
    with _Behind(digest.update) as hasher, _Writeback(fd) as writeback:
        done = 0
        while done < header.size:
            whole = hasher.buffer()
            view = whole[: min(len(whole), header.size - done)]
            count = reader.fill(view)
            if count < len(view):
                raise _gone(f"{done + count} bytes", f"{header.size} bytes")
            _write(fd, view[:count], offset + done)
            hasher.give(whole, count)
            done += count
            writeback.written(count)
    return digest.hexdigest()


def _write(fd: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


class _Behind:
    """Runs ``work`` on buffers in their order, in a thread behind the one that fills them."""

    def __init__(self, work: Callable[[memoryview], None]) -> None:
        self._work = work
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        for _ in range(BUFFERS):
            self._free.put(memoryview(bytearray(BUFFER)))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def buffer(self) -> memoryview:
        return self._free.get()

    def give(self, view: memoryview, count: int) -> None:
        self._full.put((view, count))

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            view, count = item
            self._work(view[:count])
            self._free.put(view)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._full.put(None)
        self._thread.join()


class _Writeback:
    """Brings a long file to the disk while it arrives, so that the last sync is short."""

    def __init__(self, fd: int) -> None:
        self._fd, self._waiting = fd, 0
        self._error: OSError | None = None
        self._more: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def written(self, count: int) -> None:
        self._waiting += count
        if self._waiting >= WRITEBACK:
            self._waiting = 0
            self._more.put(item=True)

    def _run(self) -> None:
        while self._more.get():
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._error = (
                    error  # the kernel tells a failed write once: the last sync would pass
                )
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._more.put(item=False)
        self._thread.join()
        if self._error is not None:
            raise self._error
