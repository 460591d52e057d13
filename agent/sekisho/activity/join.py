"""Records into events: one event is every record of one serial. Bounded memory. Pure.

Records of events interleave, come late, or never come; the closing record (EOE) may be missing.
The kernel numbers events without a hole, so a number that never comes is a lost event. auditd's
own records (``DAEMON_…``) carry numbers of auditd's and are left out of that count.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from sekisho.activity.records import HEAD, LINES, MAX_LINE, UNSET, Record

#: A program's own message is complete in one record; the kernel closes no such event.
_SINGLE = (
    *(b"USER", b"CRED_", b"SERVICE_", b"DAEMON_", b"ADD_", b"DEL_", b"GRP_", b"CHUSER", b"CHGRP"),
    *(b"ACCT_", b"SYSTEM_", b"TRUSTED_APP", b"SOFTWARE_", b"CRYPTO_", b"VIRT_", b"LABEL_"),
)
#: More missing numbers than this at once is another boot of the kernel, not a loss.
_RESTART = 1 << 24


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that should be in the log and is not.

    Attributes:
        reason: ``serial kernel-lost malformed overlong overflow rotated-away truncated``.
        count: how many events, lines or bytes; -1 when nobody can know.
        first: first missing serial or offset, or None.
        last: last missing serial or offset, or None.
        ms: when it was noticed, by the log's own clock (0: no event seen yet).
        detail: one line for a reader.

    """

    reason: str
    count: int
    ms: int
    first: int | None = None
    last: int | None = None
    detail: str = ""


class Event:
    """All records of one serial; ``complete`` is False when its end never came or it was cut."""

    __slots__ = ("bodies", "complete", "dropped", "id", "line", "ms", "serial", "size", "types")

    def __init__(self, id_: bytes, ms: int, serial: int, line: int) -> None:
        self.id = id_
        self.ms = ms
        self.serial = serial
        self.line = line
        self.types: list[bytes] = []
        self.bodies: list[bytes] = []
        self.size = 0
        self.dropped = 0
        self.complete = False

    def body(self, type_: bytes) -> bytes | None:
        """Return the body of the first record of a type, unparsed; None when there is none."""
        try:
            return self.bodies[self.types.index(type_)]
        except ValueError:
            return None

    def all(self, type_: bytes) -> list[bytes]:
        """Return the bodies of the records of a type, unparsed, in the log's order."""
        if self.types.count(type_) == 0:
            return []
        return [body for name, body in zip(self.types, self.bodies, strict=True) if name == type_]

    def records(self, type_: str | None = None) -> list[Record]:
        """Return the event's records, all or of one type, in the log's order."""
        wanted = None if type_ is None else type_.encode("ascii")
        return [
            Record(name.decode("ascii"), self.ms, self.serial, body)
            for name, body in zip(self.types, self.bodies, strict=True)
            if wanted is None or name == wanted
        ]

    def record(self, type_: str) -> Record | None:
        """Return the first record of a type, or None."""
        body = self.body(type_.encode("ascii"))
        return None if body is None else Record(type_, self.ms, self.serial, body)


class Serials:
    """Accounts for the kernel's numbers: what never came within the time-out is a gap."""

    def __init__(self, last: int | None = None) -> None:
        self.high = last
        self.highest_ms = 0
        self.restarts = 0
        self._missing: OrderedDict[int, int] = OrderedDict()  # serial → when it was first missed
        self._ranges: list[
            tuple[int, int, int]
        ] = []  # first, last, ms: too many to hold one by one

    def seen(self, serial: int, ms: int) -> None:
        """Take note of one event's number."""
        high = self.high
        if high is None:
            self.high, self.highest_ms = serial, ms
            return
        ahead = (serial - high) & UNSET
        if ahead == 1:
            self.high = serial
        elif ahead == 0 or self._missing.pop(serial, None) is not None:
            return
        elif ahead < _RESTART:
            if ahead > 4096:
                self._ranges.append(((high + 1) & UNSET, (serial - 1) & UNSET, ms))
            else:
                for step in range(1, ahead):
                    self._missing[(high + step) & UNSET] = ms
            self.high = serial
        elif (high - serial) & UNSET >= 4096 or ms > self.highest_ms + 1000:
            # Far behind, or later than everything so far: the kernel started again from 1.
            self.restarts += 1
            self.high = serial
        self.highest_ms = max(ms, self.highest_ms)

    def settle(self, before_ms: int) -> list[Gap]:
        """Return as gaps the numbers that have been missing since before ``before_ms``."""
        gaps: list[Gap] = []
        run: list[int] = []
        while self._missing:
            serial, ms = next(iter(self._missing.items()))
            if ms > before_ms:
                break
            del self._missing[serial]
            if run and serial != (run[-1] + 1) & UNSET:
                gaps.append(_serial_gap(run[0], run[-1], before_ms))
                run = []
            run.append(serial)
        if run:
            gaps.append(_serial_gap(run[0], run[-1], before_ms))
        late = [entry for entry in self._ranges if entry[2] <= before_ms]
        self._ranges = [entry for entry in self._ranges if entry[2] > before_ms]
        gaps += [_serial_gap(first, last, before_ms) for first, last, _ in late]
        if len(gaps) <= 8:
            return gaps
        count = sum(gap.count for gap in gaps)  # a sieve is one gap with its total
        detail = f"{count} event(s) of the kernel never came, in {len(gaps)} places"
        return [Gap("serial", count, before_ms, gaps[0].first, gaps[-1].last, detail)]


def _serial_gap(first: int, last: int, ms: int) -> Gap:
    count = ((last - first) & UNSET) + 1
    return Gap("serial", count, ms, first, last, f"{count} event(s) of the kernel never came")


class Joiner:
    """Lines in, complete events out, in the order in which they became complete.

    Args:
        timeout_ms: an event whose end has not come when a record this much newer (by the
            kernel's clock) arrives is given out as it is, not complete.
        max_pending: events held at the same time; beyond, the oldest is given out.
        max_bytes: bytes held of one event; beyond, its records are dropped and counted.
        last_serial: number of the last event of an earlier run, to see what was missed between.

    """

    def __init__(
        self,
        *,
        timeout_ms: int = 5000,
        max_pending: int = 1024,
        max_bytes: int = 1024 * 1024,
        last_serial: int | None = None,
    ) -> None:
        self.timeout_ms = timeout_ms
        self.max_pending = max_pending
        self.max_bytes = max_bytes
        self.max_done = 16 * max_pending
        self.serials = Serials(last_serial)
        self.lines = 0
        self.malformed = 0
        self.overlong = 0
        self.late = 0
        self.incomplete = 0
        self.dropped_records = 0
        self.newest_ms = 0
        self.gaps: list[Gap] = []
        self._pending: OrderedDict[bytes, Event] = OrderedDict()
        self._done: OrderedDict[bytes, int] = OrderedDict()  # id → line at which it was done
        self._swept_ms = 0

    # One pass, one function: a call per line would cost a third of the speed.
    def feed(self, lines: Iterable[bytes]) -> Iterator[Event]:  # noqa: C901, PLR0912
        """Take lines; yield every event that is complete or has waited too long."""
        pending = self._pending
        current_id, current = b"", None
        for type_, id_, seconds, milli, number, body in self._split(lines):
            self.lines += 1
            if id_ != current_id or current is None:
                current = pending.get(id_)
                if current is None:
                    serial = int(number or b"-1")
                    if serial < 0 or serial > UNSET:
                        self._refuse(body)
                        continue
                    ms = int(seconds) * 1000 + int(milli)
                    if type_.startswith(_SINGLE):
                        single = self._single(id_, ms, serial, type_, body)
                        if single is not None:
                            yield single
                        continue
                    if id_ in self._done:
                        self._late_record(type_)
                        continue
                    self.serials.seen(serial, ms)
                    current = pending[id_] = Event(id_, ms, serial, self.lines - 1)
                    if ms != self.newest_ms:
                        self.newest_ms = ms
                        if abs(ms - self._swept_ms) > 500:
                            yield from self._sweep(ms)
                    if len(pending) > self.max_pending:
                        yield self._overflow()
                current_id = id_
            if type_ != b"EOE":
                current.size += len(body)
                if current.size > self.max_bytes:
                    current.dropped += 1
                    self.dropped_records += 1
                    continue
                current.types.append(type_)
                current.bodies.append(body)
                # auditd writes no EOE to disk; the kernel's last record before it is PROCTITLE.
                if type_ != b"PROCTITLE" or b"SYSCALL" not in current.types:
                    continue
            del pending[id_]
            current.complete = current.dropped == 0
            self._done[id_] = self.lines
            yield current
            current = None

    def _split(self, lines: Iterable[bytes]) -> Iterator[tuple[bytes, ...]]:
        """Yield type, id, seconds, milliseconds, serial, body of every line.

        Many lines are matched at once, which is twice as fast. What is no record comes as its
        text in ``body`` and nothing else.
        """
        source = iter(lines)
        while some := list(islice(source, 2048)):
            data = b"".join(some)
            found = LINES.findall(data)
            # As many matches as lines, each of one line: then every line is a record.
            if len(found) == len(some) == data.count(b"\n") and len(max(some, key=len)) < MAX_LINE:
                yield from found
                continue
            for line in some:
                head = None if len(line) > MAX_LINE else HEAD.match(line)
                if head is None:
                    yield b"", b"", b"", b"", b"", line
                else:
                    id_ = line[head.start(2) : head.end(4)]
                    yield (
                        head[1],
                        id_,
                        head[2],
                        head[3],
                        head[4],
                        line[head.end() :].rstrip(b"\n"),
                    )

    def _late_record(self, type_: bytes) -> None:
        if type_ != b"EOE":
            self.late += 1

    def _refuse(self, line: bytes) -> None:
        if not line.strip():
            return
        if len(line) > MAX_LINE:
            self.overlong += 1
            self._gap("overlong", 1, f"a line of {len(line)} bytes")
        else:
            self.malformed += 1
            self._gap("malformed", 1, "a line that is no audit record")

    def _gap(self, reason: str, count: int, detail: str) -> None:
        last = self.gaps[-1] if self.gaps else None
        if last is not None and last.reason == reason:  # a flood of bad lines is one gap
            count += last.count
            self.gaps.pop()
        self.gaps.append(Gap(reason, count, self.newest_ms, detail=detail))

    def _single(self, id_: bytes, ms: int, serial: int, type_: bytes, body: bytes) -> Event | None:
        # The kernel may add records of its own under the same number: they are another event.
        key = id_ + b"/" + type_
        if key in self._done:
            return None
        self._done[key] = self.lines
        if not type_.startswith(b"DAEMON_"):
            self.serials.seen(serial, ms)
            self.newest_ms = ms
        event = Event(id_, ms, serial, self.lines - 1)
        event.types.append(type_)
        event.bodies.append(body)
        event.complete = True
        return event

    def _overflow(self) -> Event:
        id_, event = self._pending.popitem(last=False)
        self._gap("overflow", 1, f"more than {self.max_pending} events open at the same time")
        return self._give_up(id_, event)

    def _give_up(self, id_: bytes, event: Event) -> Event:
        self._done[id_] = self.lines
        if b"SYSCALL" not in event.types and len(event.types) == 1:
            event.complete = True  # the kernel speaking for itself: nothing else belongs to it
        else:
            self.incomplete += 1
        return event

    def _sweep(self, ms: int) -> Iterator[Event]:
        """Give out what is older than the time-out by the kernel's clock, either way it steps."""
        self._swept_ms = ms
        stale = [
            id_ for id_, event in self._pending.items() if abs(ms - event.ms) > self.timeout_ms
        ]
        for id_ in stale:
            yield self._give_up(id_, self._pending.pop(id_))
        self.gaps += self.serials.settle(ms - self.timeout_ms)
        # Ids of events done are kept to tell a late record from a new event.
        while len(self._done) > self.max_done:
            self._done.popitem(last=False)

    def flush(self) -> Iterator[Event]:
        """Give out everything still open: nothing more will come, or not for long."""
        while self._pending:
            yield self._give_up(*self._pending.popitem(last=False))
        self.gaps += self.serials.settle(self.newest_ms)

    def take_gaps(self) -> list[Gap]:
        """Return the gaps noticed since the last call."""
        gaps, self.gaps = self.gaps, []
        return gaps

    @property
    def open_events(self) -> int:
        """How many events wait for their end."""
        return len(self._pending)

    @property
    def settled_lines(self) -> int:
        """How many lines, from the first fed, hold nothing of an event still open."""
        return min((event.line for event in self._pending.values()), default=self.lines)

    def done_after(self, line: int) -> list[bytes]:
        """Return the ids of the events that became complete after line ``line`` was read."""
        return [id_ for id_, at in self._done.items() if at > line]

    def skip(self, ids: Iterable[bytes]) -> None:
        """Take ids as done: their records, read again after a restart, make no event."""
        for id_ in ids:
            self._done[id_] = self.lines
