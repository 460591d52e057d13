"""The journal part: how the journal stands, the first word in it and the last."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from sekisho import __version__
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.reporter import Book

if TYPE_CHECKING:
    from sekisho.host.journal.store import JournalWriter

MOST_UNSYNCED = 10_000  # records that the disk has not confirmed


class JournalPart(Part):
    """Shows the writer's counters; seals and closes the journal when the agent ends."""

    NAME = "journal"
    EVERY_S = 5.0

    def __init__(self, book: Book, journal: JournalWriter) -> None:
        self._book, self._journal = book, journal
        self._sealed, self._sealed_at = 0, 0

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, common.journal)

    def start(self) -> None:
        """Say that the agent started."""
        self._book.tell("agent.started", {"version": __version__, "pid": os.getpid()})

    def look(self) -> None:
        """Show what was written, lost and sealed."""
        metrics, stats = self._book.metrics, self._journal.stats
        if stats.sealed_n != self._sealed:
            self._sealed, self._sealed_at = stats.sealed_n, int(self._book.wall())
        for name, total in (
            ("sekisho_journal_records_total", stats.appended),
            ("sekisho_journal_lost_total", stats.lost),
            ("sekisho_journal_write_errors_total", stats.write_errors + stats.sync_errors),
            ("sekisho_journal_repaired_total", stats.repaired),
            ("sekisho_journal_broken_total", stats.broken),
        ):
            metrics.raise_to(name, total)
        metrics.set("sekisho_journal_last_number", stats.last_n)
        metrics.set("sekisho_journal_unsealed_records", stats.last_n - stats.sealed_n)
        metrics.set("sekisho_journal_last_seal_timestamp_seconds", self._sealed_at)
        self._book.up(self.NAME, works=stats.last_n - stats.synced_n < MOST_UNSYNCED)

    def close(self) -> None:
        """Say that the agent stops, seal, and close."""
        self._book.tell("agent.stopping", {"pid": os.getpid()})
        self._journal.close()
