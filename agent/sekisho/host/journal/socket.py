"""The intake of events from this host's other services: a unix socket of whole messages.

The kernel says who is at the other end (SO_PEERCRED); that goes into the event, the sender has no
say in it. Everything is bounded, and by user: what one does with its places, its events and its
bytes costs no other user anything. Who may write nothing gets no place; who has all its places and
comes again loses the one that was silent longest; who is silent for `IDLE_S` is let go.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sekisho.core.errors import SekishoError
from sekisho.journal.intake import (
    MAX_MESSAGE,
    Submission,
    accepted,
    parse_submission,
    refused,
)

CLIENTS_PER_USER = 16
BACKLOG = 128  # connections the kernel holds until they are accepted, of all users
IDLE_S = 30.0  # a client sends its event and leaves
MESSAGES_PER_TURN = 32
RATE, BURST = 200.0, 1000.0  # events a second and user; what may come at once
#: The same in bytes. A quarter of what the journal holds for a slow disk before it refuses anybody.
BYTES_RATE, BYTES_BURST = 256.0 * 1024, 1024.0 * 1024

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, by the kernel's word."""

    pid: int
    uid: int
    gid: int


def peer_of(link: socket.socket) -> Peer:
    """Return who is at the other end of a unix socket."""
    return Peer(*_PEER.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)))


@dataclass(slots=True)
class _Bucket:
    at: float
    events: float = BURST
    octets: float = BYTES_BURST

    def take(self, size: int, now: float) -> bool:
        """Count an event of ``size`` bytes; False when there is no allowance for it now."""
        passed = max(0.0, now - self.at)
        self.events = min(BURST, self.events + passed * RATE)
        self.octets = min(BYTES_BURST, self.octets + passed * BYTES_RATE)
        self.at = now
        if self.events < 1 or self.octets < size:
            return False
        self.events -= 1
        self.octets -= size
        return True


@dataclass(slots=True)
class _Client:
    peer: Peer
    heard: float


@dataclass(frozen=True, slots=True)
class Rights:
    """Which kinds of event a user may write: prefixes by uid; uid 0 may write any.

    Without this line a service that was taken over could write any story into the journal.
    """

    by_uid: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def any(self, uid: int) -> bool:
        """Tell whether this user may write anything at all."""
        return uid == 0 or bool(self.by_uid.get(uid))

    def refusal(self, peer: Peer, kind: str) -> str | None:
        """Return why ``peer`` may not write ``kind``, or None when it may."""
        if peer.uid == 0 or kind.startswith(self.by_uid.get(peer.uid, ())):
            return None
        return f"uid {peer.uid} may not write events of kind {kind}"


class JournalSocket:
    """Listens at ``path``; the owner's loop calls `accept` and `serve` when there is something.

    ``forget`` is called with each client before it is closed, whatever the reason.
    """

    def __init__(  # noqa: PLR0913 - what is done with an event, a refusal, a client
        self,
        path: Path,
        *,
        gid: int,
        rights: Rights,
        append: Callable[[Submission, Peer], int],
        count_refused: Callable[[str], None],
        forget: Callable[[socket.socket], None] = lambda _: None,
    ) -> None:
        self.path = path
        self.rights = rights
        self._append = append
        self._count_refused = count_refused
        self._forget = forget
        self._buckets: dict[int, _Bucket] = {}
        self.clients: dict[socket.socket, _Client] = {}
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
        self._socket.listen(BACKLOG)

    def fileno(self) -> int:
        """Return the descriptor to wait on for new clients."""
        return self._socket.fileno()

    def accept(self, now: float = 0.0) -> socket.socket | None:
        """Take one new client; None when there is none, or it may write nothing (counted)."""
        try:
            client, _ = self._socket.accept()
        except OSError:
            return None
        peer = peer_of(client)
        mine = [one for one, held in self.clients.items() if held.peer.uid == peer.uid]
        if not self.rights.any(peer.uid):
            self._count_refused("clients")
            client.close()
            return None
        if len(mine) >= CLIENTS_PER_USER:
            self._count_refused("clients")
            self.drop(min(mine, key=lambda one: self.clients[one].heard))
        client.setblocking(False)
        self.clients[client] = _Client(peer, now)
        return client

    def drop_idle(self, now: float) -> None:
        """Let clients go that have said nothing for too long."""
        for client in [one for one, held in self.clients.items() if now - held.heard > IDLE_S]:
            self.drop(client)

    def serve(self, client: socket.socket, now: float) -> bool:
        """Answer a client's waiting messages, some at most; False when it is gone."""
        held = self.clients[client]
        for _ in range(MESSAGES_PER_TURN):
            try:
                raw = client.recv(MAX_MESSAGE + 1)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not raw:
                return False
            held.heard = now
            try:
                client.send(self._answer(raw, held.peer, now), socket.MSG_NOSIGNAL)
            except OSError:  # it does not read its answers: the event is kept, the client is not
                return False
        return True

    def _answer(self, raw: bytes, peer: Peer, now: float) -> bytes:
        bucket = self._buckets.setdefault(peer.uid, _Bucket(now))
        if not bucket.take(len(raw), now):
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
        if self.clients.pop(client, None) is not None:
            self._forget(client)
        client.close()

    def close(self) -> None:
        """Stop listening and let every client go."""
        for client in list(self.clients):
            self.drop(client)
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
