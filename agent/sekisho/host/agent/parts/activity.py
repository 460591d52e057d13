"""The activity part: the audit log into the journal, at least once, with every loss counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from sekisho.activity.pipeline import DETECTION, Activity, Entry
from sekisho.activity.watched import KINDS
from sekisho.core.errors import SekishoError
from sekisho.host.agent.part import Common, Look, Part
from sekisho.host.agent.reporter import Book, Paths
from sekisho.host.kernel.audit_tail import ActivityTail, AuditFollower, kernel_status
from sekisho.policy.host_policy import HostPolicy

if TYPE_CHECKING:
    from sekisho.host.journal.store import JournalWriter

POLL_EVERY_S = 1.0
ASK_KERNEL_EVERY_S = 10.0
COMMIT_EVERY_S = 5.0  # what a crash repeats; each commit costs a sync of the disk
STOPPED = "6-iv-b.audit-stopped"  # the log itself cannot tell that nobody writes it any more
LINES_PER_TURN = 1000  # so that a flood of audit records cannot hold the loop up


class ActivityPart(Part):
    """Polls the log, journals what it says, moves the cursor once that is on the disk."""

    NAME = "activity"
    CHECKS = tuple(f"6-iv-b.{slug}" for slug in KINDS)

    def __init__(
        self, book: Book, paths: Paths, journal: JournalWriter, soon: Callable[[], None]
    ) -> None:
        self._book, self._paths, self._journal, self._soon = book, paths, journal, soon
        self._activity: Activity | None = None
        self._tail: ActivityTail | None = None
        self._waits_for: int | None = None  # the journal record that must be safe first
        self._seen: dict[str, int] = {}
        self._next_commit = 0.0
        self._taken = True  # so that an audit that is off at the start is told
        self._people: dict[int, str] = {}
        self._administrators: set[str] = set()

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        # What is left goes on at once, when the others had their turn.
        poll, after = lambda: common.part(cls).poll(), common.after(cls)
        return cls(common.book, common.paths, common.journal, lambda: after(0.0, poll))

    def looks(self) -> tuple[Look, ...]:
        """Return the look at the log, and the question to the kernel."""
        return ((POLL_EVERY_S, self.poll), (ASK_KERNEL_EVERY_S, self.ask_kernel))

    def policy(self, policy: HostPolicy) -> None:
        """Take the people of a new policy; the log goes on where it was."""
        accounts = policy.accounts.items()
        self._people = {entry.uid: name for name, entry in accounts}
        self._administrators = {n for n, entry in accounts if entry.role == "administrator"}
        if self._tail is not None:
            self._commit(wait=True)
        self._reopen()

    def _reopen(self) -> None:
        """Go on from the cursor, as after a restart."""
        if self._tail is not None:
            self._tail.follower.close()
        self._waits_for, self._seen = None, {}
        self._activity = Activity(people=self._people, administrators=self._administrators)
        follower = AuditFollower(self._paths.audit_log, self._paths.state / "cursor.json")
        self._tail = ActivityTail(follower, self._activity)

    def poll(self) -> None:
        """Take what the log holds, some at most."""
        if self._tail is None or self._activity is None:
            self._book.up("activity", works=False)
            return
        self._commit()
        now_ms = int(self._book.wall() * 1000)
        try:
            for entry in self._tail.poll(now_ms, max_lines=LINES_PER_TURN):
                self._write(entry)
        except Exception:
            # The journal did not take it, or a defect of ours: the cursor is still before it.
            self._reopen()
            raise
        self._count()
        self._book.up("activity", works=not self._tail.follower.missing)
        if self._tail.behind:
            self._soon()

    def _write(self, entry: Entry) -> None:
        number = self._journal.append(entry.kind, entry.data)
        self._waits_for = number
        if entry.kind == DETECTION:
            found = entry.data
            self._book.count_detection(found["id"], found["severity"], found["when"] / 1000)

    def _commit(self, *, wait: bool = False) -> None:
        """Move the cursor over what the journal has on the disk; ``wait`` for all of it."""
        if self._tail is None or (not wait and self._book.clock() < self._next_commit):
            return
        if self._waits_for is not None:
            if wait:
                self._journal.flush()
            elif self._journal.stats.synced_n < self._waits_for:
                return
            self._waits_for = None
        self._tail.commit()
        self._next_commit = self._book.clock() + COMMIT_EVERY_S

    def ask_kernel(self) -> None:
        """Ask the kernel how many records it lost."""
        if self._activity is None:
            return
        try:
            status = kernel_status()
        except OSError as error:
            raise SekishoError(f"the kernel does not tell of audit: {error.strerror}") from None
        self._book.metrics.raise_to("sekisho_audit_lost_total", status.lost)
        self._book.metrics.set("sekisho_audit_enabled", int(status.enabled > 0))
        self._book.metrics.set("sekisho_audit_daemon", int(status.pid > 0))
        taken = status.enabled > 0 and status.pid > 0
        if self._taken and not taken:
            what = (
                "no daemon takes the kernel's audit records"
                if status.enabled
                else ("the kernel's audit is switched off")
            )
            self._book.detect(STOPPED, "alert", what, {"audit_pid": status.pid})
        self._taken = taken
        self._book.metrics.set("sekisho_audit_backlog", status.backlog)
        for entry in self._activity.kernel(status.lost, int(self._book.wall() * 1000)):
            self._write(entry)

    def _count(self) -> None:
        if self._activity is None:
            return
        counters, metrics = self._activity.counters, self._book.metrics
        for name, keys in (
            ("sekisho_activity_events_total", ("events",)),
            ("sekisho_activity_commands_total", ("commands",)),
            ("sekisho_activity_malformed_total", ("malformed", "overlong", "unreadable")),
            ("sekisho_audit_gaps_total", ("gap_events", "rotated_away")),
        ):
            total = sum(counters.get(key, 0) for key in keys)
            before = self._seen.get(name, 0)
            if total > before:
                metrics.add(name, by=total - before)
            self._seen[name] = total
        if self._activity.newest_ms:
            metrics.set(
                "sekisho_activity_newest_timestamp_seconds", self._activity.newest_ms // 1000
            )

    def close(self) -> None:
        """Give out what is still open and move the cursor: the last act before the journal ends."""
        if self._tail is None:
            return
        for entry in self._tail.poll(int(self._book.wall() * 1000), max_lines=LINES_PER_TURN):
            self._write(entry)
        self._commit(wait=True)
        self._tail.follower.close()
