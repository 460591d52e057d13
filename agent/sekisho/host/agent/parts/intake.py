"""The intake part: events of this host's other services into the journal."""

from __future__ import annotations

import grp
import pwd
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from sekisho.core.errors import SekishoError, printable
from sekisho.host.agent.loop import Loop
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.parts.files import FilesPart
from sekisho.host.agent.parts.policy import PolicyPart
from sekisho.host.agent.reporter import Book, Paths
from sekisho.host.journal.socket import JournalSocket, Peer, Rights
from sekisho.journal.intake import Submission

if TYPE_CHECKING:
    from sekisho.host.journal.store import JournalWriter

GROUP = "sekisho"
#: Users of other services → kinds of event they may write.
WRITERS = {"sekisho-receive": ("transfer.",)}
#: Kinds that are the agent's own words, whoever asks.
OWN = ("agent.", "policy.", "rules.", "network.", "files.", "activity.")
AGREE = "agent.agree"


class IntakePart(Part):
    """Owns the socket; ``agree`` is called with root's reason and returns how many files differ."""

    NAME = "intake"
    EVERY_S = 5.0

    def __init__(
        self, book: Book, paths: Paths, journal: JournalWriter, agree: Callable[[str], int]
    ) -> None:
        self._book, self._paths, self._journal, self._agree = book, paths, journal, agree
        self._socket: JournalSocket | None = None

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""

        def agree(why: str) -> int:
            common.part(PolicyPart).look()  # a play has just written it
            return common.part(FilesPart).agree(why)

        return cls(common.book, common.paths, common.journal, agree)

    def watch(self, loop: Loop) -> None:
        """Open the socket and have ``loop`` serve it."""
        self._paths.run.mkdir(mode=0o755, exist_ok=True)
        rights = {uid: kinds for name, kinds in WRITERS.items() if (uid := _uid(name)) is not None}
        intake = JournalSocket(
            self._paths.run / "journal.sock",
            gid=_gid(GROUP),
            rights=Rights(rights),
            append=self.take,
            count_refused=lambda why: self._book.metrics.add("sekisho_agent_dropped_total", why),
            forget=loop.forget,
        )
        self._socket, clock = intake, self._book.clock

        def welcome() -> None:
            client = intake.accept(clock())
            if client is not None:
                loop.reader(self.NAME, client, lambda: serve(client))

        def serve(client: socket.socket) -> None:
            # Dropped meanwhile, in the same turn of the loop: for its user's next client.
            if client in intake.clients and not intake.serve(client, clock()):
                intake.drop(client)

        loop.reader(self.NAME, intake, welcome)

    def look(self) -> None:
        """Let clients go that have said nothing for too long."""
        if self._socket is not None:
            self._socket.drop_idle(self._book.clock())
        self._book.up(self.NAME, works=self._socket is not None)

    def take(self, asked: Submission, peer: Peer) -> int:
        """Keep one event with the kernel's word on its sender; SekishoError when it may not be."""
        sender = {"pid": peer.pid, "uid": peer.uid, "gid": peer.gid}
        if asked.kind == AGREE and peer.uid == 0:
            changed = self._agree(printable(asked.data.get("why", ""), 200))
            return self._journal.append("agent.agreed", {"changed": changed, "_from": sender})
        if asked.kind.startswith(OWN):
            raise SekishoError(f"events of kind {asked.kind} are the agent's own")
        return self._journal.append(asked.kind, {**asked.data, "_from": sender})

    def close(self) -> None:
        """Let every client go."""
        if self._socket is not None:
            self._socket.close()


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:  # without the package's group the socket is root's alone
        return 0


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
