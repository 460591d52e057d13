"""The files that the dead-man's guard keeps, writes and puts back."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from sekisho.edge.policy_file import write_atomic


def sync_dir(folder: Path) -> None:
    """Make what was renamed or removed in a folder lasting."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all; make its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data, mode)


def regular(path: Path) -> bytes | None:
    """Return a regular file's bytes; None when there is none (a link is not one)."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    return path.read_bytes() if stat.S_ISREG(info.st_mode) else None


def put_back(kept: dict[str, Any], folder: Path) -> None:
    """Make one file as it was kept; one that is so needs no room on a full disk."""
    path = Path(kept["path"])
    if not kept["held"]:
        path.unlink(missing_ok=True)
        return
    held = (folder / kept["held"]).read_bytes()
    if regular(path) != held or stat.S_IMODE(path.lstat().st_mode) != kept["mode"]:
        write_atomically(path, held, kept["mode"])
