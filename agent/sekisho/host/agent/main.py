"""The host agent: journal, devices, modules, packet filter, files, listeners, activity, metrics.

``python3 -m sekisho.host.agent.main --policy /etc/sekisho/policy.json`` is what the unit runs.
SIGHUP reads the policy again; SIGTERM ends it with a sealed journal. A part that fails is counted,
told and tried again; only a journal that cannot be opened ends the agent (systemd starts it again).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sekisho import __version__
from sekisho.core.errors import SekishoError
from sekisho.host.agent.loop import Loop
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.reporter import Book, Paths, say
from sekisho.host.agent.table import PARTS, labels
from sekisho.host.enrol import load_key
from sekisho.host.journal.store import JournalWriter
from sekisho.host.metrics import Metrics
from sekisho.host.policy_store import Policy, PolicyStore
from sekisho.host.sdnotify import Notifier

RETRY_S = 30.0  # a part that could not start tries again


class Agent:
    """Makes the parts of the table and turns the loop."""

    def __init__(  # noqa: PLR0913 - the host, and the two clocks a test turns
        self,
        paths: Paths,
        policy: Path,
        host: str,
        notifier: Notifier,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        boot = (paths.proc / "sys/kernel/random/boot_id").read_text().strip()
        key = load_key(paths.etc / "host.key.pem")
        journal = JournalWriter.open(paths.state / "journal", host, boot, key)
        metrics = Metrics(labels() | {"version": (__version__,)})
        self._book = Book(journal, metrics, clock=clock, wall=wall)
        self._loop, self._notifier = Loop(self._failed, clock), notifier
        store = PolicyStore(policy, paths.state, host=host)
        self._common = Common(
            self._book, paths, host, journal, store, self._loop, notifier, self._give
        )
        self._parts = self._common.parts
        self._policy: Policy | None = None
        self._looks: list[tuple[str, Callable[[], None]]] = []

    # -- parts -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every part; one that cannot start is told, counted, and tried again."""
        for kind in PARTS:
            self._begin(kind)
        # Before READY: who looks right after a restart sees the whole agent.
        for name, look in self._looks:
            self._try(name, look)
        self._notifier.send(READY="1")

    def _begin(self, kind: type[Part]) -> None:
        if not self._try(kind.NAME, lambda: self._open(kind)):
            self._loop.after(kind.NAME, RETRY_S, lambda: self._begin(kind))

    def _open(self, kind: type[Part]) -> None:
        part = kind.of(self._common)
        part.start()
        part.watch(self._loop)
        self._parts[kind] = part
        if self._policy is not None:
            self._apply(part, self._policy)
        for number, (seconds, look) in enumerate(part.looks()):
            noted = self._noted(part.NAME, number, seconds, look)
            self._loop.every(part.NAME, seconds, noted)
            self._looks.append((part.NAME, noted))

    def _noted(
        self, name: str, number: int, seconds: float, look: Callable[[], None]
    ) -> Callable[[], None]:
        def noted() -> None:
            look()
            self._book.looked(name, number, seconds)

        return noted

    def _try(self, part: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the other parts go on all the same
            self._failed(part, error)
            return False
        return True

    def _failed(self, part: str, error: Exception) -> None:
        self._book.up(part, works=False)  # until its next look says otherwise
        self._book.failed(part, error)

    def _give(self, policy: Policy) -> None:
        """Give a new policy to every part; one that refuses it is told, the others take it."""
        self._policy = policy
        for part in self._parts.values():
            self._apply(part, policy)

    def _apply(self, part: Part, policy: Policy) -> None:
        self._try(part.NAME, lambda: part.apply(policy))

    def reload(self) -> None:
        """Read policy and certificates again (SIGHUP)."""
        now = str(int(self._book.clock() * 1e6))
        self._notifier.send(RELOADING="1", MONOTONIC_USEC=now, STATUS="reloading")
        for part in self._parts.values():
            self._try(part.NAME, part.reload)
        self._notifier.send(READY="1")

    # -- run and stop ------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until SIGTERM or SIGINT; SIGHUP reloads."""
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        asked: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda which, _frame: asked.append(which))
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

        def signalled() -> None:
            woken.recv(4096)
            while asked:
                if asked.pop(0) == signal.SIGHUP:
                    self.reload()
                else:
                    self._loop.stop()

        self._loop.reader("loop", woken, signalled)
        self.start()
        self._loop.run()

    def close(self) -> None:
        """Stop: what was read is written, the journal is sealed and closed."""
        self._notifier.send(STOPPING="1", STATUS="sealing the journal")
        for part in reversed(list(self._parts.values())):
            self._try(part.NAME, part.close)
        self._loop.close()


def main(argv: list[str] | None = None) -> int:
    """Run the agent until it is told to stop; 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog="sekisho-agent", description=__doc__)
    parser.add_argument("--policy", type=Path, default=Path("/etc/sekisho/policy.json"))
    parser.add_argument("--root", type=Path, help="another root for state and sockets (tests)")
    parser.add_argument("--host", default=os.uname().nodename.partition(".")[0])
    given = parser.parse_args(argv)
    paths = Paths()
    if given.root is not None:
        root: Path = given.root
        paths = Paths(
            etc=given.policy.parent,
            state=root / "var/lib/sekisho",
            run=root / "run/sekisho",
            root=root,
            audit_log=root / "var/log/audit/audit.log",
        )
        for folder in (paths.state, paths.run):
            folder.mkdir(parents=True, exist_ok=True)
    try:
        agent = Agent(paths, given.policy, given.host, Notifier(os.environ))
    except (SekishoError, OSError) as error:
        say(error.diagnostics() if isinstance(error, SekishoError) else str(error))
        return 1
    try:
        agent.run()
    finally:
        agent.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
