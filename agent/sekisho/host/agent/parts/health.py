"""The part `loop`: how the agent itself is, for the metrics, for systemd and in agent.json."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sekisho import __version__
from sekisho.core.canonical import canonical, digest
from sekisho.core.files import write_atomic
from sekisho.host.agent.loop import Loop
from sekisho.host.agent.part import Common, Look, Part
from sekisho.host.agent.reporter import HEALTH_EVERY_S, Book, Paths
from sekisho.nft.readback import normalise
from sekisho.policy.host_policy import HostPolicy

if TYPE_CHECKING:
    from sekisho.host.journal.store import JournalWriter
    from sekisho.host.sdnotify import Notifier


class HealthPart(Part):
    """Shows what the agent uses, which of its parts work, and that it is alive."""

    NAME = "loop"

    def __init__(  # noqa: PLR0913, PLR0917 - what it tells of, and to whom
        self,
        book: Book,
        paths: Paths,
        host: str,
        journal: JournalWriter,
        loop: Loop,
        notifier: Notifier,
    ) -> None:
        self._book, self._paths, self._host = book, paths, host
        self._journal, self._loop, self._notifier = journal, loop, notifier
        self._rules_digest = ""

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(
            common.book, common.paths, common.host, common.journal, common.loop, common.notifier
        )

    def start(self) -> None:
        """Show when the agent started."""
        now = int(self._book.wall())
        self._book.metrics.set("sekisho_agent_start_timestamp_seconds", now)

    def policy(self, policy: HostPolicy) -> None:
        """Remember which rules a new policy wants."""
        self._rules_digest = digest(normalise(policy.nftables.value()))

    def reload(self) -> None:
        """Show what came of it."""
        self.look()

    def looks(self) -> tuple[Look, ...]:
        """Return the look, and the sign of life when systemd wants one."""
        health: Look = (HEALTH_EVERY_S, self.look)
        if self._notifier.interval_s is None:
            return (health,)
        return (health, (self._notifier.interval_s, self._alive))

    def _alive(self) -> None:
        self._notifier.send(WATCHDOG="1")

    def look(self) -> None:
        """Show how the agent itself is."""
        metrics, now = self._book.metrics, int(self._book.wall())
        usage = resource.getrusage(resource.RUSAGE_SELF)
        metrics.set("sekisho_agent_heartbeat_timestamp_seconds", now)
        metrics.set("sekisho_agent_resident_bytes", _resident(self._paths.proc))
        metrics.set("sekisho_agent_lag_seconds", round(self._loop.lag_s, 3))
        metrics.raise_to("sekisho_agent_cpu_seconds_total", usage.ru_utime + usage.ru_stime)
        self._book.up(self.NAME, works=True)
        serial, stats = int(metrics.get("sekisho_policy_serial")), self._journal.stats
        state = {
            "schema": 1,
            "version": __version__,
            "host": self._host,
            "pid": os.getpid(),
            "at": now,
            "policy_serial": serial,
            "rules_digest": self._rules_digest,
            "policy_refused": bool(metrics.get("sekisho_policy_fallback")),
            "parts": self._book.parts(),
            "journal": {"last": stats.last_n, "sealed": stats.sealed_n, "lost": stats.lost},
            "resident_bytes": int(metrics.get("sekisho_agent_resident_bytes")),
        }
        write_atomic(self._paths.run / "agent.json", canonical(state) + b"\n", 0o644)
        policy = f"policy {serial}" if serial else "NO POLICY"
        self._notifier.send(STATUS=f"{policy}, journal at {stats.last_n}")


def _resident(proc: Path) -> int:
    pages = int((proc / "self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
