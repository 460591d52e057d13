"""Where the reading of the audit log stands: its file on disk, and what a file is known by."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FINGERPRINT = 256


@dataclass(frozen=True, slots=True)
class Identity:
    """A file for good: numbers of inodes are used again, first lines are not."""

    device: int
    inode: int
    fingerprint: str


def lines_of(buffer: bytes) -> list[bytes]:
    """Split at newlines only (bytes.splitlines also splits at a carriage return)."""
    parts = buffer.split(b"\n")
    return [part + b"\n" for part in parts[:-1]]


def identity_of(handle: int) -> Identity:
    """Return what an open file is known by; its fingerprint is "" before its first line is."""
    info = os.fstat(handle)
    head = os.pread(handle, _FINGERPRINT, 0)
    # The first line up to the part that will not change any more; "" while there is none.
    line, newline, _ = head.partition(b"\n")
    known = newline or len(head) == _FINGERPRINT
    return Identity(
        info.st_dev, info.st_ino, hashlib.sha256(line).hexdigest()[:32] if known else ""
    )


def boot_id_now() -> str:
    """Return the kernel's id of this boot, or "" where it cannot be read."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


_MAX_CURSOR = 16 * 1024 * 1024  # bytes; a cursor remembers some thousand events


def read_cursor(path: Path) -> dict[str, Any] | None:
    """Return the cursor; None when there is none or it says nothing sound."""
    try:
        with path.open("rb") as handle:
            raw = json.loads(handle.read(_MAX_CURSOR))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or raw.get("schema") != 1:
        return None
    numbers = all(
        type(raw.get(name)) is int and raw[name] >= 0 for name in ("device", "inode", "offset")
    )
    texts = all(isinstance(raw.get(name), str) for name in ("fingerprint", "boot"))
    done = raw.get("done")
    sound = isinstance(done, list) and all(isinstance(entry, str) for entry in done)
    serial = raw.get("serial")
    if not (numbers and texts and sound and (serial is None or type(serial) is int)):
        return None
    return raw
