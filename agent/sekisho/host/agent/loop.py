"""One loop for everything the agent does: descriptors that are ready, timers that are due.

A part that fails is counted and told; the loop goes on with the others.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable
from typing import Protocol

Failed = Callable[[str, Exception], None]


class HasFileno(Protocol):
    """Anything with a descriptor to wait on."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Loop:
    """Waits for descriptors and timers. One thread; ``failed`` hears of every exception."""

    def __init__(self, failed: Failed, clock: Callable[[], float] = time.monotonic) -> None:
        self._failed, self._clock = failed, clock
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, str, float, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = False
        #: Seconds by which the last timer was late.
        self.lag_s = 0.0

    def reader(self, part: str, source: HasFileno, call: Callable[[], None]) -> None:
        """Call when ``source`` can be read."""
        self._selector.register(source, selectors.EVENT_READ, (part, call))

    def forget(self, source: HasFileno) -> None:
        """Stop waiting on ``source``."""
        self._selector.unregister(source)

    def every(self, part: str, seconds: float, call: Callable[[], None]) -> None:
        """Call every ``seconds``, the first time one period from now."""
        self._at(self._clock() + seconds, part, seconds, call)

    def after(self, part: str, seconds: float, call: Callable[[], None]) -> None:
        """Call once, ``seconds`` from now."""
        self._at(self._clock() + seconds, part, 0.0, call)

    def once(self, part: str, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Return what has ``call`` made ``seconds`` later, once for all who ask until then."""
        due = False

        def make() -> None:
            nonlocal due
            due = False
            call()

        def ask() -> None:
            nonlocal due
            if not due:
                due = True
                self.after(part, seconds, make)

        return ask

    def _at(self, when: float, part: str, period: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), part, period, call))

    def stop(self) -> None:
        """Leave `run` after this turn."""
        self._running = False

    def run(self) -> None:
        """Turn until `stop`."""
        self._running = True
        while self._running:
            self.turn()

    def turn(self) -> None:
        """Wait for the next thing and do everything that is due."""
        wait = self._timers[0][0] - self._clock() if self._timers else None
        ready = self._selector.select(None if wait is None else max(0.0, wait))
        for key, _ in ready:
            part, call = key.data
            self._do(part, call)
        now = self._clock()
        for _ in range(len(self._timers)):
            if self._timers[0][0] > now:
                break
            when, _, part, period, call = heapq.heappop(self._timers)
            self.lag_s = max(0.0, now - when)
            if period:
                # Not when + period: after a pause of the machine, timers must not catch up.
                self._at(now + period, part, period, call)
            self._do(part, call)

    def _do(self, part: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - one part's failure must not stop the others
            self._failed(part, error)

    def close(self) -> None:
        """Let go of the selector."""
        self._selector.close()
