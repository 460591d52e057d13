"""How the journal's writer works, what it counts, and the clock it takes by default."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sekisho.journal.seals import MAX_UNSEALED, MAX_UNSEALED_MS


@dataclass(frozen=True, slots=True)
class Options:
    """How the writer works.

    Attributes:
        window_ms: longest time a record waits before it is brought to the disk.
        segment_bytes: size at which a new segment begins.
        seal_records: a seal after this many records …
        seal_seconds: … or this long after the first unsealed one, whichever is first.
        unsynced_bytes: how much may wait for a disk that refuses before appends are refused too.
        durable_seconds: longest wait of ``durable=True``.
        background: False brings records to the disk only on demand (tests of every single step).

    """

    window_ms: int = 50
    segment_bytes: int = 16 * 1024 * 1024
    seal_records: int = MAX_UNSEALED
    seal_seconds: float = MAX_UNSEALED_MS / 1000
    unsynced_bytes: int = 4 * 1024 * 1024
    durable_seconds: float = 30.0
    background: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.seal_records <= MAX_UNSEALED:
            raise ValueError(f"seal_records must be 1 to {MAX_UNSEALED}")
        if not 0 < self.seal_seconds <= MAX_UNSEALED_MS / 1000:
            raise ValueError(f"seal_seconds must be above 0, at most {MAX_UNSEALED_MS / 1000:g}")


@dataclass(slots=True)
class Stats:
    """Counters since open; ``lost`` are events that never reached the file."""

    last_n: int = 0
    synced_n: int = 0
    sealed_n: int = 0
    appended: int = 0
    seals: int = 0
    syncs: int = 0
    refused: int = 0
    lost: int = 0
    write_errors: int = 0
    sync_errors: int = 0
    repaired: int = 0
    broken: int = 0
    last_error: str = ""


def unix_ms() -> int:
    """Return the host's clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000
