"""Records into events: one event is every record of one serial. Bounded memory. Pure.

Records of events interleave, come late, or never come; the closing record (EOE) may be missing.
auditd's own records (``DAEMON_…``) carry numbers of auditd's and are left out of the count of the
kernel's.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from sekisho.activity.records import HEAD, LINES, MAX_LINE, UNSET, Record
from sekisho.activity.serials import Gap, Serials

#: A program's own message is complete in one record; the kernel closes no such event.
_SINGLE = (
    *(b"USER", b"CRED_", b"SERVICE_", b"DAEMON_", b"ADD_", b"DEL_", b"GRP_", b"CHUSER", b"CHGRP"),
    *(b"ACCT_", b"SYSTEM_", b"TRUSTED_APP", b"SOFTWARE_", b"CRYPTO_", b"VIRT_", b"LABEL_"),
)


class Event:
    """All records of one serial; ``complete`` is False when its end never came or it was cut."""

    __slots__ = (
        *(
            "bodies",
            "complete",
            "dropped",
            "id",
            "line",
            "ms",
            "quick",
            "serial",
            "size",
            "touched",
        ),
        "types",
    )

    def __init__(self, id_: bytes, ms: int, serial: int, line: int) -> None:
        self.id = id_
        self.ms = ms
        self.serial = serial
        self.line = line
        self.types: list[bytes] = []
        self.bodies: list[bytes] = []
        self.size = 0
        #: When its newest record arrived, by the joiner's `Arrival`.
        self.touched = 0
        self.dropped = 0
        self.complete = False
        #: What the joiner's ``ordinary`` pattern found at once; then there are no bodies.
        self.quick: tuple[bytes, ...] | None = None

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


class Arrival:
    """A clock of arrival made of the events' stamps, which are the *starts* of their calls.

    The log has no other clock. An old stamp is a call that took long and moves nothing; a jump
    forward (a step of the machine's clock, an idle hour) counts for an eighth of a time-out, so
    that no single stamp ends what is open; stamps that stay behind are a step back, and count anew.

    Attributes:
        ms: milliseconds since the first event, as far as can be told.

    """

    __slots__ = ("_behind", "_newest", "_step", "ms")

    #: Events in a row that are behind before the clock is taken to have been set back.
    BACK = 64

    def __init__(self, timeout_ms: int) -> None:
        self.ms = 0
        self._newest: int | None = None
        self._step = max(1, timeout_ms // 8)
        self._behind = 0

    def seen(self, stamp: int) -> None:
        """Take the stamp of an event that has just begun to arrive."""
        newest = self._newest
        if newest is None or stamp >= newest:
            if newest is not None:
                self.ms += min(stamp - newest, self._step)
            self._newest, self._behind = stamp, 0
            return
        self._behind += 1
        if self._behind > self.BACK:
            self._newest, self._behind = stamp, 0


class Joiner:
    """Lines in, complete events out, in the order in which they became complete.

    Args:
        timeout_ms: an event of which nothing more arrived for so long (see `Arrival`) is given out
            as it is, not complete.
        max_pending: events held at the same time; beyond, the oldest is given out.
        max_bytes: bytes held of one event; beyond, its records are dropped and counted.
        last_serial: number of the last event of an earlier run, to see what was missed between.
        ordinary: a pattern of whole events and its number of lines. Such an event is given out
            with ``quick`` set to the match's groups (the first four: id, seconds, milliseconds,
            serial) and without bodies.

    """

    def __init__(
        self,
        *,
        timeout_ms: int = 5000,
        max_pending: int = 1024,
        max_bytes: int = 1024 * 1024,
        last_serial: int | None = None,
        ordinary: tuple[re.Pattern[bytes], int] | None = None,
    ) -> None:
        self.ordinary = ordinary
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
        self._clock = Arrival(timeout_ms)
        self._swept_ms = 0

    # One pass, one function: a call per line would cost a third of the speed.
    def feed(self, lines: Iterable[bytes]) -> Iterator[Event]:  # noqa: C901, PLR0912, PLR0915
        """Take lines; yield every event that is complete or has waited too long."""
        pending = self._pending
        clock = self._clock
        current_id, current = b"", None
        at_once = 0 if self.ordinary is None else self.ordinary[1]
        for part in self._split(lines):
            if len(part) != 6:
                event = self._at_once(part, at_once)
                if clock.ms - self._swept_ms > 500:
                    yield from self._sweep()
                    current = None  # it may have been given out
                yield event
                continue
            type_, id_, seconds, milli, number, body = part
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
                        if clock.ms - self._swept_ms > 500:
                            yield from self._sweep()
                        if single is not None:
                            yield single
                        continue
                    if id_ in self._done:
                        self._late_record(type_)
                        continue
                    self.newest_ms = ms
                    clock.seen(ms)
                    self.serials.seen(serial, ms, clock.ms)
                    current = pending[id_] = Event(id_, ms, serial, self.lines - 1)
                    current.touched = clock.ms
                    if clock.ms - self._swept_ms > 500:
                        yield from self._sweep()
                    if len(pending) > self.max_pending:
                        yield self._overflow()
                current_id = id_
            current.touched = clock.ms
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
        """Yield type, id, seconds, milliseconds, serial, body of every line, or a whole event.

        Many lines are matched at once, which is twice as fast. What is no record comes as its
        text in ``body`` and nothing else. A whole event is the groups of ``ordinary``.
        """
        source = iter(lines)
        while some := list(islice(source, 2048)):
            data = b"".join(some)
            if len(some) != data.count(b"\n") or len(max(some, key=len)) > MAX_LINE:
                for line in some:
                    yield _head(line)
            elif self.ordinary is None:
                yield from _heads(data)
            else:
                yield from self._ordinary(data, self.ordinary[0])

    def _ordinary(self, data: bytes, pattern: re.Pattern[bytes]) -> Iterator[tuple[bytes, ...]]:
        at = 0
        for found in pattern.finditer(data):
            if found.start() > at:
                yield from _heads(data[at : found.start()])
            id_ = found[1]
            if id_ in self._pending or id_ in self._done or int(found[4]) > UNSET:
                yield from _heads(found[0])
            else:
                yield found.groups()
            at = found.end()
        if at < len(data):
            yield from _heads(data[at:])

    def _at_once(self, groups: tuple[bytes, ...], lines: int) -> Event:
        id_, seconds, milli, number = groups[:4]
        serial, ms = int(number), int(seconds) * 1000 + int(milli)
        self.lines += lines
        self._clock.seen(ms)
        self.serials.seen(serial, ms, self._clock.ms)
        self.newest_ms = ms
        event = Event(id_, ms, serial, self.lines)
        event.quick = groups
        event.complete = True
        self._done[id_] = self.lines
        return event

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
            # A flood of failed log-ins moves the clock, too: what is open does not wait it out.
            self._clock.seen(ms)
            self.serials.seen(serial, ms, self._clock.ms)
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

    def _sweep(self) -> Iterator[Event]:
        """Give out the events of which nothing arrived for the time-out."""
        now = self._swept_ms = self._clock.ms
        stale = [
            id_ for id_, event in self._pending.items() if now - event.touched > self.timeout_ms
        ]
        for id_ in stale:
            yield self._give_up(id_, self._pending.pop(id_))
        self.gaps += self.serials.settle(now - self.timeout_ms, self.newest_ms)
        # Ids of events done are kept to tell a late record from a new event.
        while len(self._done) > self.max_done:
            self._done.popitem(last=False)

    def flush(self) -> Iterator[Event]:
        """Give out everything still open: nothing more will come, or not for long."""
        while self._pending:
            yield self._give_up(*self._pending.popitem(last=False))
        self.gaps += self.serials.settle(self._clock.ms, self.newest_ms)

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


def _head(line: bytes) -> tuple[bytes, ...]:
    """Return the parts of one line; of what is no record its text alone, as the body."""
    head = None if len(line) > MAX_LINE else HEAD.match(line)
    if head is None:
        return b"", b"", b"", b"", b"", line
    id_ = line[head.start(2) : head.end(4)]
    return head[1], id_, head[2], head[3], head[4], line[head.end() :].rstrip(b"\n")


def _heads(data: bytes) -> Iterator[tuple[bytes, ...]]:
    """Return the parts of many whole lines."""
    found = LINES.findall(data)
    # As many matches as lines, each within one line: then every line is a record.
    if len(found) == data.count(b"\n"):
        return iter(found)
    return (_head(line + b"\n") for line in data.split(b"\n")[:-1])
