"""The id of the running boot, and its clock that nobody can set. Standard library only."""

from __future__ import annotations

import time
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boottime() -> float:
    """Return seconds since the boot, sleep included; no step of the clock changes it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the id of this boot."""
    return BOOT_ID.read_text().strip()
