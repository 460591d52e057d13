"""Lines of the audit log in, journal entries out: parse, join, name, detect, count. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sekisho.activity.detector import Detection, Detector
from sekisho.activity.events import Command, command_of, is_exec, name_of, parse_syscall
from sekisho.activity.join import Event, Joiner
from sekisho.activity.quick import ORDINARY, RECORDS, command_at_once
from sekisho.activity.records import UNSET, Record, decode
from sekisho.activity.serials import Gap

COMMAND = "activity.command"
SESSION = "activity.session"
DETECTION = "activity.detection"
GAP = "activity.gap"

_SESSIONS = {b"USER_LOGIN": "login", b"USER_START": "start", b"USER_END": "end"}
#: Told only when they failed: Debian's sshd leaves log-ins to PAM, which says no USER_LOGIN.
_FAILURES = frozenset((b"USER_AUTH", b"USER_ACCT", b"USER_ERR", b"USER_LOGIN"))
_NO_SUCH_FILE = -2


class Entry(NamedTuple):
    """One entry for the journal: its kind and plain JSON values without floats."""

    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where to go on after a restart.

    Attributes:
        lines: how many lines, from the first fed, need not be read again.
        done: ids of the events that later lines belong to and that are already given out.
        serial: number of the newest event, to see what was missed in between.

    """

    lines: int
    done: tuple[str, ...]
    serial: int | None


class Activity:
    """The whole way from lines to entries.

    Args:
        people: account by uid, of the site's policy.
        administrators: accounts that may act as root.
        resume: the checkpoint of an earlier run in the same boot of the kernel, or None.
        timeout_ms: see `Joiner`.

    """

    def __init__(
        self,
        *,
        people: Mapping[int, str],
        administrators: Collection[str],
        resume: Checkpoint | None = None,
        timeout_ms: int = 5000,
    ) -> None:
        self.people = dict(people)
        self._detector = Detector(people=self.people, administrators=administrators)
        self._joiner = Joiner(timeout_ms=timeout_ms, ordinary=(ORDINARY, RECORDS))
        self._counts: Counter[str] = Counter()
        self.detected: Counter[str] = Counter()
        self._kernel_lost: int | None = None
        self._idle_since: tuple[int, int] | None = None  # lines seen, when
        if resume is not None:
            self.resume(resume)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from an earlier run: what was given out is not given out again."""
        self._joiner.skip(id_.encode("ascii", "replace") for id_ in checkpoint.done)
        self._joiner.serials.high = checkpoint.serial

    def feed(self, lines: Iterable[bytes]) -> list[Entry]:
        """Take lines in the log's order; return the entries of every event that is complete."""
        entries: list[Entry] = []
        left = lines if isinstance(lines, list) else list(lines)
        while left:
            before = self._joiner.lines
            try:
                for event in self._joiner.feed(left):
                    self._event(event, entries)
                break
            except Exception as bad:  # noqa: BLE001 - one line must not cost its neighbours
                entries.append(self._unread("a line", bad))
                left = left[max(1, self._joiner.lines - before) :]
        self._gaps(entries)
        return entries

    def _unread(self, what: str, bad: Exception, event: str = "") -> Entry:
        """Return the entry of something that could not be read: a gap that names itself."""
        at = f"{event}: " if event else ""
        detail = f"{at}{what} could not be read ({type(bad).__name__})"
        return self.gap(Gap("unreadable", 1, self._joiner.newest_ms, detail=detail))

    def idle(self, now_ms: int) -> list[Entry]:
        """Return the entries of events whose end has not come while the log stood still."""
        joiner = self._joiner
        if self._idle_since is None or self._idle_since[0] != joiner.lines:
            self._idle_since = (joiner.lines, now_ms)
            return []
        if abs(now_ms - self._idle_since[1]) < joiner.timeout_ms:
            return []
        return self.flush()

    def flush(self) -> list[Entry]:
        """Return the entries of everything still open: nothing more will come."""
        entries: list[Entry] = []
        for event in self._joiner.flush():
            self._event(event, entries)
        self._gaps(entries)
        return entries

    def gap(self, gap: Gap) -> Entry:
        """Return the entry of a gap that the follower noticed."""
        self._counts[f"gap_{gap.reason}"] += abs(gap.count)
        return Entry(
            GAP,
            {
                "event": f"{gap.ms}/{gap.reason}/{gap.first}/{gap.last}",
                "when": gap.ms,
                "reason": gap.reason,
                "count": gap.count,
                "first": gap.first,
                "last": gap.last,
                "detail": gap.detail,
            },
        )

    def kernel(self, lost: int, now_ms: int) -> list[Entry]:
        """Take the kernel's own count of lost records; return a gap when it grew.

        The first value after a start is reported when it is not 0: nobody else did.
        """
        before = self._kernel_lost
        self._kernel_lost = lost
        grown = lost if before is None or lost < before else lost - before
        if grown == 0:
            return []
        return [self.gap(Gap("kernel-lost", grown, now_ms, detail=f"the kernel lost {grown}"))]

    def checkpoint(self) -> Checkpoint:
        """Return where a restart has to go on once everything given out is safe."""
        lines = self._joiner.settled_lines
        return Checkpoint(
            lines,
            tuple(decode(id_) for id_ in self._joiner.done_after(lines)),
            self._joiner.serials.high,
        )

    @property
    def newest_ms(self) -> int:
        """The kernel's time of the newest event, milliseconds since the epoch; 0 before any."""
        return self._joiner.newest_ms

    @property
    def counters(self) -> dict[str, int]:
        """Everything counted since the start, for the metrics."""
        joiner, counts = self._joiner, self._counts
        return {
            "lines": joiner.lines,
            "malformed": joiner.malformed,
            "overlong": joiner.overlong,
            "events": counts["events"],
            "incomplete": joiner.incomplete,
            "late": joiner.late,
            "dropped_records": joiner.dropped_records,
            "commands": counts["commands"],
            "not_found": counts["not_found"],
            "sessions": counts["sessions"],
            "detections": counts["detections"],
            "unreadable": counts["gap_unreadable"],
            "gap_events": counts["gap_serial"],
            "kernel_lost": counts["gap_kernel-lost"],
            "rotated_away": counts["gap_rotated-away"],
            "kernel_restarts": joiner.serials.restarts,
        }

    def _event(self, event: Event, entries: list[Entry]) -> None:
        """Add the entries of one event; one that cannot be read is an entry that says so."""
        self._counts["events"] += 1
        try:
            self._read(event, entries)
        except Exception as bad:  # noqa: BLE001 - whatever a hostile record makes of the parsers
            types = ",".join(dict.fromkeys(decode(one) for one in event.types[:8])) or "an event"
            entries.append(self._unread(types, bad, decode(event.id)))

    def _read(self, event: Event, entries: list[Entry]) -> None:
        if event.quick is not None:
            self._command(command_at_once(event.quick, event.ms, self.people), entries)
            return
        body = event.body(b"SYSCALL")
        call = None if body is None else parse_syscall(body)
        if call is not None and is_exec(call):
            if call.exit == _NO_SUCH_FILE:  # a shell trying the folders of its PATH
                self._counts["not_found"] += 1
                return
            self._command(command_of(event, call, self.people), entries)
            return
        if event.types and (event.types[0] in _SESSIONS or event.types[0] in _FAILURES):
            self._session(event, entries)
        elif event.types and event.types[0] == b"KERNEL":
            self._kernel_said(event.records()[0], entries)
        self._add(self._detector.event(event, call), entries)

    def _command(self, command: Command, entries: list[Entry]) -> None:
        self._counts["commands"] += 1
        entries.append(Entry(COMMAND, command.data()))
        found = self._detector.command(command)
        if found:
            self._add(found, entries)

    def _add(self, detections: Iterable[Detection], entries: list[Entry]) -> None:
        for detection in detections:
            self._counts["detections"] += 1
            self.detected[detection.id] += 1
            entries.append(Entry(DETECTION, detection.data()))

    def _session(self, event: Event, entries: list[Entry]) -> None:
        record = event.records()[0]
        worked = record.text("res") in ("success", "1", "yes")
        if worked and event.types[0] not in _SESSIONS:
            return
        # ``acct`` is what somebody typed, a name however it looks; ``id`` is the kernel's uid.
        account, uid = record.text("acct"), record.number("id")
        if account is None:
            account = "" if uid is None else name_of(uid, self.people)
        address = record.text("addr") or record.text("hostname") or ""
        auid, session = record.number("auid"), record.number("ses")
        self._counts["sessions"] += 1
        entries.append(
            Entry(
                SESSION,
                {
                    "event": decode(event.id),
                    "when": event.ms,
                    "what": _SESSIONS[event.types[0]] if worked else "failed",
                    "who": name_of(auid, self.people),
                    "account": account,
                    "address": "" if address == "?" else address,
                    "terminal": record.text("terminal") or "",
                    "session": UNSET if session is None else session,
                    "exe": record.text("exe") or "",
                },
            )
        )
        if not worked and event.types[0] in _FAILURES:
            self._add(
                self._detector.failed_login(event, account, "" if address == "?" else address),
                entries,
            )

    def _kernel_said(self, record: Record, entries: list[Entry]) -> None:
        lost = record.number("audit_lost")
        if lost is not None:
            entries += self.kernel(lost, record.ms)

    def _gaps(self, entries: list[Entry]) -> None:
        entries += [self.gap(gap) for gap in self._joiner.take_gaps()]
