"""What a probe is: what to collect, and how to read what was collected. Pure.

A probe names operations (`Run`, `Read`); `sekisho.local.collect` carries them out on the host and
returns raw outcomes as JSON; ``parse`` turns them into a fact. Parsing happens where judging
happens, so that an evidence bundle holds the raw outcomes and can be judged again years later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sekisho.core.text import lines_of

#: Output of one operation above this many bytes is cut, and a cut output is an error.
MAX_BYTES = 4 * 1024 * 1024


class ProbeError(Exception):
    """The raw outcome does not hold the fact; the message says why."""


@dataclass(frozen=True, slots=True)
class Run:
    """Run a command (argv, no shell) and keep its exit status and output."""

    argv: tuple[str, ...]
    timeout_s: int = 60  # a starved machine takes 20 for what is a third of a second elsewhere
    ok: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Read:
    """Read files: globs of absolute paths. Text, metadata (mode, uid, gid) and link targets.

    A wildcard also fits names that begin with a dot; see `drop_ins` for what a tool reads of them.

    ``content`` False keeps metadata only.
    """

    globs: tuple[str, ...]
    content: bool = True


@dataclass(frozen=True, slots=True)
class Probe:
    """One fact: its name, the operations it needs by label, and its reader."""

    name: str
    operations: Mapping[str, Run | Read]
    parse: Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """One file of a `Read`: exactly one of text or error where content was asked for."""

    path: str
    mode: int
    uid: int
    gid: int
    kind: str  # file dir link other
    text: str | None
    target: str | None
    error: str | None


def time_of(raw: Mapping[str, Any], label: str) -> datetime:
    """Return the time a ``date +%s`` told; `ProbeError` when it told none."""
    try:
        return datetime.fromtimestamp(int(output(raw, label).strip()), UTC)
    except (ValueError, OverflowError, OSError):
        raise ProbeError(f"{label}: no time") from None


def output(raw: Mapping[str, Any], label: str, *, ok: tuple[int, ...] = (0,)) -> str:
    """Return a command's standard output; `ProbeError` if it failed, was cut or is missing."""
    outcome = raw.get(label)
    if not isinstance(outcome, dict):
        raise ProbeError(f"{label}: no outcome")
    if outcome.get("error"):
        raise ProbeError(f"{label}: {outcome['error']}")
    if outcome.get("truncated"):
        raise ProbeError(f"{label}: output was cut at {MAX_BYTES} bytes")
    stdout, code = outcome.get("stdout"), outcome.get("rc")
    if not isinstance(stdout, str) or not isinstance(code, int) or isinstance(code, bool):
        raise ProbeError(f"{label}: outcome is garbled")
    if code not in ok:
        said = lines_of(str(outcome.get("stderr", "")).strip())
        raise ProbeError(f"{label}: exit status {code}{': ' + said[-1] if said else ''}")
    return stdout


def files(raw: Mapping[str, Any], label: str) -> dict[str, FileOutcome]:
    """Return a `Read`'s files by path; `ProbeError` when the outcome is missing or garbled."""
    outcome = raw.get(label)
    if not isinstance(outcome, dict) or not isinstance(outcome.get("files"), dict):
        raise ProbeError(f"{label}: no outcome")
    return {path: _file(label, path, entry) for path, entry in outcome["files"].items()}


def drop_ins(found: Mapping[str, FileOutcome]) -> dict[str, FileOutcome]:
    """Return the files that a tool reads from its folders of settings.

    systemd, udev, kmod, apt, augenrules and the shells' ``*`` pass over a name that begins with a
    dot. A probe sees such a file, and must not take its content for a setting in force.
    """
    return {path: one for path, one in found.items() if not path.rpartition("/")[2].startswith(".")}


def _file(label: str, path: Any, entry: Any) -> FileOutcome:
    if not isinstance(path, str) or not isinstance(entry, Mapping):
        raise ProbeError(f"{label}: {path}: garbled entry")
    for key in ("mode", "uid", "gid"):
        if not isinstance(entry.get(key), int) or isinstance(entry[key], bool):
            raise ProbeError(f"{label}: {path}: garbled entry ({key})")
    if not isinstance(entry.get("kind"), str):
        raise ProbeError(f"{label}: {path}: garbled entry (kind)")
    for key in ("text", "target", "error"):
        if not isinstance(entry.get(key), str | None):
            raise ProbeError(f"{label}: {path}: garbled entry ({key})")
    if entry["uid"] < 0:
        # Not even its metadata could be had: mode 0 must not look like a closed file.
        raise ProbeError(f"{label}: {path}: {entry.get('error') or 'no metadata'}")
    return FileOutcome(
        path=path,
        mode=entry["mode"],
        uid=entry["uid"],
        gid=entry["gid"],
        kind=entry["kind"],
        text=entry.get("text"),
        target=entry.get("target"),
        error=entry.get("error"),
    )


def text_of(found: Mapping[str, FileOutcome], path: str) -> str:
    """Return one file's text; raise `ProbeError` when it is not there or could not be read."""
    entry = found.get(path)
    if entry is None:
        raise ProbeError(f"{path}: no such file")
    if entry.text is None:
        raise ProbeError(f"{path}: {entry.error or 'no content'}")
    return entry.text
