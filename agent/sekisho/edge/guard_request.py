"""What the dead-man's guard is asked to put in force: parsed, or refused by the entry's name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("nftables", "sshd", "usb")


class GuardError(Exception):
    """What the guard could not do; the administrator reads it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One guarded file: what should stand at ``path`` (None: nothing) and what it governs."""

    path: Path
    content: bytes | None
    mode: int
    kind: str


def parse_wanted(raw: Any) -> list[Wanted]:
    """Return the guarded files of a request; `GuardError` names the first entry that is wrong."""
    wanted: list[Wanted] = []
    for entry in raw if isinstance(raw, list) else ():
        try:
            path, kind = Path(entry["path"]), entry["kind"]
            content, mode = entry.get("content"), int(entry.get("mode", "0644"), 8)
        except (KeyError, TypeError, ValueError, AttributeError) as bad:
            raise GuardError(f"garbled entry {entry!r}: {bad}") from None
        if not path.is_absolute() or ".." in path.parts or kind not in KINDS:
            raise GuardError(f"{path}: not an absolute path, or unknown kind {kind!r}")
        if content is not None and not isinstance(content, str):
            raise GuardError(f"{path}: content is {type(content).__name__}, not text")
        wanted.append(Wanted(path, None if content is None else content.encode(), mode, str(kind)))
    if not wanted:
        raise GuardError("no files given")
    return wanted
