"""What the dead-man's guard is asked to put in force: parsed, or refused by the entry's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("nftables", "sshd", "usb")
TOKEN = re.compile(r"[0-9a-f]{16}", re.ASCII)
TIMEOUT_S = 50
MAX_TIMEOUT_S = 3600


class GuardError(Exception):
    """What the guard could not do; the administrator reads it.

    Attributes:
        facts: what the controller can read of it besides (JSON).

    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


@dataclass(frozen=True, slots=True)
class Wanted:
    """One guarded file: what should stand at ``path`` (None: nothing) and what it governs."""

    path: Path
    content: bytes | None
    mode: int
    kind: str


@dataclass(frozen=True, slots=True)
class Terms:
    """How a change is made: the window in seconds, and the token that confirms it."""

    timeout_s: int = TIMEOUT_S
    token: str = ""


def parse_terms(raw: Any) -> Terms:
    """Return the terms of a request; `GuardError` names the one that is wrong."""
    if not isinstance(raw, dict):
        raise GuardError(f"the request is {type(raw).__name__}; expected an object")
    timeout_s, token = raw.get("timeout_s", TIMEOUT_S), raw.get("token", "")
    if type(timeout_s) is not int or not 1 <= timeout_s <= MAX_TIMEOUT_S:
        raise GuardError(f"timeout_s is {timeout_s!r}; expected 1 to {MAX_TIMEOUT_S} seconds")
    if not isinstance(token, str) or (token and not TOKEN.fullmatch(token)):
        raise GuardError("token is malformed; expected 16 hex digits")
    return Terms(timeout_s, token)


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
