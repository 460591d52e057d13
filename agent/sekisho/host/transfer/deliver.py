"""Sending a whole delivery: the manifest, then every part not confirmed yet, with retries."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sekisho.host.transfer.files import open_beneath
from sekisho.host.transfer.outbox import Outbox
from sekisho.host.transfer.send import Outcome, Result, Target, send_bytes, send_span
from sekisho.transfer.header import Header
from sekisho.transfer.manifest import Entry, Part

PAUSES = (0.5, 2.0, 5.0)  # seconds before each further try
CONNECTIONS = 2


@dataclass(frozen=True, slots=True)
class Delivered:
    """How a delivery ended: the worst outcome, why, and how much was sent."""

    outcome: Outcome
    why: str
    parts_sent: int
    parts_held: int
    bytes_sent: int


class _Count:
    def __init__(self, progress: Callable[[int], None]) -> None:
        self._lock, self._progress = threading.Lock(), progress
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count
            self._progress(count)


def _stubborn(send: Callable[[], Result], pauses: tuple[float, ...]) -> Result:
    result = send()
    for pause in pauses:
        if result.outcome is Outcome.STORED:
            break
        time.sleep(pause)
        result = send()
    return result


def deliver(
    outbox: Outbox,
    root: Path,
    target: Target,
    progress: Callable[[int], None],
    *,
    pauses: tuple[float, ...] = PAUSES,
) -> Delivered:
    """Send what the receiver does not hold yet; ``progress`` gets bytes as they go.

    Raises:
        SekishoError: a file changed or vanished meanwhile.
        OSError: a file cannot be read, or the state not written.

    """
    manifest, raw = outbox.manifest, outbox.raw
    head = Header("manifest", manifest.delivery, 0, len(raw), hashlib.sha256(raw).hexdigest())
    result = _stubborn(lambda: send_bytes(target, head, raw), pauses)
    if result.outcome is not Outcome.STORED:
        return Delivered(result.outcome, f"manifest: {result.why}", 0, 0, 0)
    count = _Count(progress)
    lock = threading.Lock()
    worst: list[tuple[int, Result]] = []
    sent = 0

    def one(entry: Entry, part: Part) -> None:
        nonlocal sent
        if worst:
            return
        header = Header("part", manifest.delivery, part.index, part.size, part.sha256)
        with open_beneath(root, entry.path) as fd:
            answer = _stubborn(
                lambda: send_span(target, header, fd, part.offset, count.add), pauses
            )
        with lock:
            if answer.outcome is Outcome.STORED:
                sent += 1
                outbox.confirm(part.index)
            else:
                worst.append((part.index, answer))

    todo = [pair for pair in manifest.parts() if pair[1].index not in outbox.confirmed]
    held = manifest.part_count() - len(todo)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for job in [pool.submit(one, entry, part) for entry, part in todo]:
            job.result()
    if worst:
        index, answer = worst[0]
        return Delivered(answer.outcome, f"part {index}: {answer.why}", sent, held, count.bytes)
    outbox.done()
    return Delivered(Outcome.STORED, "", sent, held, count.bytes)
