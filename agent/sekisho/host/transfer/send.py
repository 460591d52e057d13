"""One connection of the one-way hop, the sending end.

The object is pushed with sendfile; the only answer is how the connection ends. An orderly close
means stored (or held already: it may come before everything is sent); a reset means refused;
silence means that nobody can tell, and the object is sent again.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sekisho.core.errors import SekishoError, printable
from sekisho.transfer.header import Header

CHUNK = 4 * 1024 * 1024
#: A reset read late shows as a pipe without a reader, or as a socket that is no longer connected.
_RESETS = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}


class Outcome(Enum):
    """What is known about an object after one try."""

    STORED = "stored"
    REFUSED = "refused"
    UNKNOWN = "could not tell"


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one try, and why in words."""

    outcome: Outcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, and how long to wait (seconds)."""

    address: str
    port: int
    connect_seconds: float = 10.0
    stall_seconds: float = 60.0

    def answer_seconds(self, size: int) -> float:
        """Return how long the receiver may take to verify and store ``size`` bytes."""
        return 60.0 + size / (10 * 1024 * 1024)


def send_bytes(target: Target, header: Header, raw: bytes) -> Result:
    """Send an object from memory; see `send_span`."""

    def body(link: _Link) -> None:
        link.bytes(raw)

    return _try(target, header, body)


def send_span(
    target: Target, header: Header, fd: int, offset: int, progress: Callable[[int], None]
) -> Result:
    """Send ``header.size`` bytes of the file ``fd`` from ``offset``; ``progress`` gets bytes.

    Raises:
        SekishoError: the file became shorter meanwhile; the connection was reset.

    """

    def body(link: _Link) -> None:
        link.file(fd, offset, header.size, progress)

    return _try(target, header, body)


class _EndedError(Exception):
    """The receiver ended the connection; carries what that means."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.why)
        self.result = result


def _try(target: Target, header: Header, body: Callable[[_Link], None]) -> Result:
    try:
        connection = socket.create_connection(
            (target.address, target.port), timeout=target.connect_seconds
        )
    except OSError as error:
        if error.errno in _RESETS:  # taken by the kernel, reset by the receiver at once
            return _meaning(error)
        return Result(Outcome.UNKNOWN, f"no connection: {printable(str(error))}")
    with connection:
        link = _Link(connection, target)
        try:
            link.bytes(header.line())
            body(link)
            connection.shutdown(socket.SHUT_WR)
            return link.answer(target.answer_seconds(header.size))
        except _EndedError as ended:
            return ended.result
        except BlockingIOError:
            return Result(Outcome.UNKNOWN, f"no progress in {target.stall_seconds:g} s")
        except OSError as error:
            return _meaning(error)
        except SekishoError:
            # Not a whole object: the receiver must not take an orderly end for one.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            raise


def _meaning(error: OSError) -> Result:
    if error.errno in _RESETS:
        return Result(Outcome.REFUSED, "the receiver refused it (connection reset)")
    return Result(Outcome.UNKNOWN, printable(str(error)))


class _Link:
    """A connection on which nothing may come back."""

    def __init__(self, connection: socket.socket, target: Target) -> None:
        connection.setblocking(True)
        limit = struct.pack("ll", int(target.stall_seconds), 1)  # struct timeval
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._socket, self._target = connection, target
        self._poll = select.poll()

    def _wait(self, *, seconds: float, writing: bool) -> None:
        """Wait until bytes can go out; raise when the other end did anything at all."""
        events = select.POLLIN | select.POLLRDHUP | (select.POLLOUT if writing else 0)
        self._poll.register(self._socket, events)
        end = time.monotonic() + seconds
        ready = self._poll.poll(max(0.0, end - time.monotonic()) * 1000)
        if not ready:
            raise _EndedError(Result(Outcome.UNKNOWN, f"no progress in {seconds:g} s"))
        if ready[0][1] & ~select.POLLOUT:
            self._ended()

    def _ended(self) -> None:
        """Read how the connection ended. Bytes from the receiver are a breach of the one way."""
        got = self._socket.recv(64)
        if got:
            text = f"the receiver sent bytes back ({len(got)} seen): not a one-way hop"
            raise _EndedError(Result(Outcome.REFUSED, text))
        raise _EndedError(Result(Outcome.STORED))

    def bytes(self, raw: bytes) -> None:
        """Send all of ``raw``."""
        view = memoryview(raw)
        while view:
            self._wait(seconds=self._target.stall_seconds, writing=True)
            view = view[self._socket.send(view[:CHUNK]) :]

    def file(self, fd: int, offset: int, size: int, progress: Callable[[int], None]) -> None:
        """Send ``size`` bytes of a file, without copying them through this process."""
        end = offset + size
        while offset < end:
            # A look at the other end, then one long call that waits in the kernel.
            self._wait(seconds=self._target.stall_seconds, writing=True)
            count = os.sendfile(self._socket.fileno(), fd, offset, min(CHUNK, end - offset))
            if count == 0:
                raise SekishoError("a file became shorter while it was sent")
            offset += count
            progress(count)

    def answer(self, seconds: float) -> Result:
        """Wait for the end of the connection and say what it means."""
        try:
            self._wait(seconds=seconds, writing=False)
        except _EndedError as ended:
            return ended.result
        return Result(Outcome.UNKNOWN, "the connection did something unknown")
