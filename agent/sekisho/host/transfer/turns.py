"""Turns at something that takes much memory: a few at once, one of each peer, first come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """At most ``count`` at once and one of each peer; who waits is served in order of coming.

    A peer that asks without end is always behind the others: its next turn is asked for after its
    last one ended.
    """

    def __init__(self, count: int) -> None:
        self._left = count
        self._waiting: list[tuple[str, object]] = []
        self._busy: set[str] = set()
        self._changed = threading.Condition()

    def _next(self, mine: tuple[str, object]) -> bool:
        """Tell whether ``mine`` is the first that could begin."""
        able = (one for one in self._waiting if one[0] not in self._busy)
        return self._left > 0 and next(able, None) is mine

    @contextmanager
    def turn(self, peer: str) -> Iterator[None]:
        """Wait for a turn and hold it."""
        mine = (peer, object())
        with self._changed:
            self._waiting.append(mine)
            try:
                self._changed.wait_for(lambda: self._next(mine))
            finally:
                self._waiting.remove(mine)
            self._left -= 1
            self._busy.add(peer)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._left += 1
                self._busy.discard(peer)
                self._changed.notify_all()
