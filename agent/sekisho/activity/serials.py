"""What should be in the log and is not: gaps, and the kernel's own numbering of events. Pure.

The kernel numbers events without a hole, so a number that never comes is a lost event.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from sekisho.activity.records import UNSET

#: More missing numbers than this at once is another boot of the kernel, not a loss.
_RESTART = 1 << 24


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that should be in the log and is not.

    Attributes:
        reason: ``serial kernel-lost malformed overlong overflow rotated-away truncated
            unreadable``.
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


class Serials:
    """Accounts for the kernel's numbers: what never came within the time-out is a gap."""

    def __init__(self, last: int | None = None) -> None:
        self.high = last
        self.highest_ms = 0
        self.restarts = 0
        self._missing: OrderedDict[int, int] = OrderedDict()  # serial → arrival when first missed
        self._ranges: list[
            tuple[int, int, int]
        ] = []  # first, last, arrival: too many to hold one by one

    def seen(self, serial: int, ms: int, arrived: int | None = None) -> None:
        """Take note of an event's number, its stamp, and its arrival (the stamp, if unsaid)."""
        high = self.high
        arrived = ms if arrived is None else arrived
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
                self._ranges.append(((high + 1) & UNSET, (serial - 1) & UNSET, arrived))
            else:
                for step in range(1, ahead):
                    self._missing[(high + step) & UNSET] = arrived
            self.high = serial
        elif (high - serial) & UNSET >= 4096 or ms > self.highest_ms + 1000:
            # Far behind, or later than everything so far: the kernel started again from 1.
            self.restarts += 1
            self.high = serial
        self.highest_ms = max(ms, self.highest_ms)

    def settle(self, before: int, ms: int | None = None) -> list[Gap]:
        """Return as gaps the numbers missing since before ``before`` came; ``ms``: their stamp."""
        gaps: list[Gap] = []
        before_ms = before if ms is None else ms
        run: list[int] = []
        while self._missing:
            serial, since = next(iter(self._missing.items()))
            if since > before:
                break
            del self._missing[serial]
            if run and serial != (run[-1] + 1) & UNSET:
                gaps.append(_serial_gap(run[0], run[-1], before_ms))
                run = []
            run.append(serial)
        if run:
            gaps.append(_serial_gap(run[0], run[-1], before_ms))
        late = [entry for entry in self._ranges if entry[2] <= before]
        self._ranges = [entry for entry in self._ranges if entry[2] > before]
        gaps += [_serial_gap(first, last, before_ms) for first, last, _ in late]
        if len(gaps) <= 8:
            return gaps
        count = sum(gap.count for gap in gaps)  # a sieve is one gap with its total
        detail = f"{count} event(s) of the kernel never came, in {len(gaps)} places"
        return [Gap("serial", count, before_ms, gaps[0].first, gaps[-1].last, detail)]


def _serial_gap(first: int, last: int, ms: int) -> Gap:
    count = ((last - first) & UNSET) + 1
    return Gap("serial", count, ms, first, last, f"{count} event(s) of the kernel never came")
