"""The intake of events from this host's other services: a unix socket of whole messages.

The kernel says who is at the other end (SO_PEERCRED); that goes into the event, the sender has no
say in it. Everything is bounded: clients, message size, messages a second and user.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sekisho.errors import SekishoError
from sekisho.journal.intake import (
    MAX_MESSAGE,
    Submission,
    accepted,
    parse_submission,
    refused,
)

MAX_CLIENTS = 64
MESSAGES_PER_TURN = 32
RATE, BURST = 200.0, 1000.0  # events a second and user; what may come at once

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, by the kernel's word."""

    pid: int
    uid: int
    gid: int


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float

    def take(self, now: float) -> bool:
        self.tokens = min(BURST, self.tokens + (now - self.at) * RATE)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(frozen=True, slots=True)
class Rights:
    """Which kinds of event a user may write: prefixes by uid; uid 0 may write any.

    Without this line a service that was taken over could write any story into the journal.
    """

    by_uid: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def refusal(self, peer: Peer, kind: str) -> str | None:
        """Return why ``peer`` may not write ``kind``, or None when it may."""
        if peer.uid == 0 or kind.startswith(self.by_uid.get(peer.uid, ())):
            return None
        return f"uid {peer.uid} may not write events of kind {kind}"


class JournalSocket:
    """Listens at ``path``; the owner's loop calls `accept` and `serve` when there is something."""

    def __init__(
        self,
        path: Path,
        *,
        gid: int,
        rights: Rights,
        append: Callable[[Submission, Peer], int],
        count_refused: Callable[[str], None],
    ) -> None:
        self.path = path
        self.rights = rights
        self._append = append
        self._count_refused = count_refused
        self._buckets: dict[int, _Bucket] = {}
        self.clients: dict[socket.socket, Peer] = {}
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        mask = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(mask)
        if path.stat().st_gid != gid:  # under systemd it is ours already; chown is filtered there
            os.chown(path, -1, gid)
        path.chmod(0o660)
        self._socket.listen(32)

    def fileno(self) -> int:
        """Return the descriptor to wait on for new clients."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """Take one new client; None when there is none, or too many already (counted)."""
        try:
            client, _ = self._socket.accept()
        except OSError:
            return None
        if len(self.clients) >= MAX_CLIENTS:
            self._count_refused("clients")
            client.close()
            return None
        client.setblocking(False)
        raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        self.clients[client] = Peer(*_PEER.unpack(raw))
        return client

    def serve(self, client: socket.socket, now: float) -> bool:
        """Answer a client's waiting messages, some at most; False when it is gone."""
        peer = self.clients[client]
        for _ in range(MESSAGES_PER_TURN):
            try:
                raw = client.recv(MAX_MESSAGE + 1)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not raw:
                return False
            try:
                client.send(self._answer(raw, peer, now), socket.MSG_NOSIGNAL)
            except OSError:  # it does not read its answers: the event is kept, the client is not
                return False
        return True

    def _answer(self, raw: bytes, peer: Peer, now: float) -> bytes:
        bucket = self._buckets.setdefault(peer.uid, _Bucket(BURST, now))
        if not bucket.take(now):
            self._count_refused("rate")
            return refused(SekishoError("too many events; slow down and send this one again"))
        try:
            asked = parse_submission(raw)
            why = self.rights.refusal(peer, asked.kind)
            if why is not None:
                raise SekishoError(why)  # noqa: TRY301 - one place that answers with a refusal
            return accepted(self._append(asked, peer))
        except SekishoError as error:
            self._count_refused("event")
            return refused(error)

    def drop(self, client: socket.socket) -> None:
        """Forget a client."""
        self.clients.pop(client, None)
        client.close()

    def close(self) -> None:
        """Stop listening and let every client go."""
        for client in list(self.clients):
            self.drop(client)
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
