"""The files that the dead-man's guard keeps, writes and restores; each change is on the disk."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from sekisho.core.files import write_atomic
from sekisho.host.guard.request import GuardError


class MissingCopyError(Exception):
    """A kept copy is gone or damaged: what it was kept for cannot be restored, ever."""


def sync_dir(folder: Path) -> None:
    """Make what was renamed or removed in a folder lasting."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Make a folder and those above it, lastingly; nothing is done where it is there."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode)
    sync_dir(folder.parent)


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all; make its folder where there is none."""
    make_folder(path.parent)
    clear(path)
    write_atomic(path, data, mode, prefix=f".{path.name}.guard-")


def clear(path: Path) -> None:
    """Remove what a write of this file left when it was killed; the caller holds the lock."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.guard-*"):
        left.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file or link, lastingly; nothing is done where there is none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_dir(path.parent)


def regular(path: Path) -> bytes | None:
    """Return a regular file's bytes; None when there is none (a link is not one)."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    return path.read_bytes() if stat.S_ISREG(info.st_mode) else None


def digest(data: bytes) -> str:
    """Return the SHA-256 of kept bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def keep(path: Path, folder: Path, held: str, mode: int, kind: str) -> dict[str, Any]:
    """Keep what is at ``path`` as ``folder/held``; returns the marker's entry for `put_back`.

    Raises:
        GuardError: there is a folder, device or pipe, which cannot be kept.

    """
    entry: dict[str, Any] = {"path": str(path), "held": "", "mode": mode, "kind": kind}
    try:
        info = path.lstat()
    except FileNotFoundError:
        return entry
    if stat.S_ISLNK(info.st_mode):
        return entry | {"link": str(path.readlink())}
    if not stat.S_ISREG(info.st_mode):
        raise GuardError(
            f"nothing is changed: {path} is not a regular file, so it cannot be kept; remove it"
        )
    data = path.read_bytes()
    write_atomically(folder / held, data, 0o600)
    return entry | {"held": held, "mode": stat.S_IMODE(info.st_mode), "sha256": digest(data)}


def kept_bytes(path: Path, sha256: object) -> bytes:
    """Return a kept copy's bytes; MissingCopyError when it is gone or not what was kept."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingCopyError(f"{path} is missing") from None
    if sha256 is not None and digest(data) != sha256:
        raise MissingCopyError(f"{path} is damaged")
    return data


def put_back(kept: dict[str, Any], folder: Path) -> None:
    """Make one file as it was kept; one that is so needs no room on a full disk.

    Raises:
        MissingCopyError: its copy is gone or damaged; the file is left as it is.

    """
    path = Path(kept["path"])
    clear(path)
    if "link" in kept:
        if not path.is_symlink() or str(path.readlink()) != kept["link"]:
            fresh = path.with_name(f".{path.name}.guard-link")
            fresh.symlink_to(kept["link"])
            fresh.replace(path)
            sync_dir(path.parent)
        return
    if not kept["held"]:
        remove(path)
        return
    held = kept_bytes(folder / kept["held"], kept.get("sha256"))
    if regular(path) != held or stat.S_IMODE(path.lstat().st_mode) != kept["mode"]:
        write_atomically(path, held, kept["mode"])
