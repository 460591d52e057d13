"""Opening a journal that a kill, a power cut or a stranger may have left in any state.

The plan: read the last segment. A ruin at its very end is what a power cut leaves: it is moved
aside and reported (`journal.repaired`). A ruin with sound records behind it, a wrong link, or a
journal shorter than its own head: that is no accident of writing. It stays as it is, as evidence,
and the journal goes on in a new segment whose first record says so (`journal.broken`).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sekisho.core.errors import SekishoError, printable
from sekisho.host.journal.disk import Disk
from sekisho.journal.records import MAX_LINE, SEAL, Link, genesis, parse_line, skim_line
from sekisho.journal.seals import MAX_HEAD, MAX_UNSEALED, Head, parse_head, seal_holds
from sekisho.local.journal_files import HEAD_FILE, segment_paths

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

UNREPORTED = ".unreported"
_STARTS = 24  # records: starts that were killed before their first seal


@dataclass(slots=True)
class Scan:
    """What one segment holds: its sound beginning, and where and how it goes wrong."""

    path: Path
    records: int = 0
    last_n: int = 0
    last_hash: str = ""
    sound_size: int = 0
    size: int = 0
    first_kind: str = ""
    first_prev: str = ""
    bad_line: int = 0  # 0: none
    reason: str = ""
    later_n: int = 0  # highest sound record after the bad line
    later_hash: str = ""
    head_hash: str = ""  # hash of the record the head names, when it is in here
    first_n: int = 0
    seal_n: int = 0  # the last seal in here, and its line
    seal_line: bytes = b""

    @property
    def torn(self) -> bool:
        """A ruin at the end with nothing sound behind it."""
        return self.bad_line > 0 and self.later_n == 0 and self.reason == ""


@dataclass(slots=True)
class Recovered:
    """Where the chain goes on, and what has to be told first.

    ``segment`` is the file to go on in, cut to ``size``; None asks for a new one. ``reports`` are
    (kind, data) records to write before anything else; ``unreported`` the files they speak of.
    """

    n: int
    prev: str
    segment: Path | None = None
    size: int = 0
    reports: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    unreported: list[Path] = field(default_factory=list)


def scan(path: Path, host: str, head_n: int) -> Scan:
    """Read one segment: links and hashes of every line, up to and past the first unsound one."""
    result = Scan(path, size=path.stat().st_size)
    first_n = int(path.name.split(".")[0])
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            link = skim_line(line)
            if result.bad_line:
                if link is not None and link.n > result.later_n:
                    result.later_n, result.later_hash = link.n, link.hash
                continue
            if link is None:
                result.bad_line = number
                continue
            result.reason = _misfit(result, link, first_n, host)
            if result.reason:
                result.bad_line = number
                result.later_n, result.later_hash = link.n, link.hash
                continue
            if not result.records:
                result.first_kind, result.first_prev = link.kind, link.prev
                result.first_n = link.n
            result.records += 1
            result.last_n, result.last_hash = link.n, link.hash
            result.sound_size += len(line)
            if link.kind == SEAL:
                result.seal_n, result.seal_line = link.n, line
            if link.n == head_n:
                result.head_hash = link.hash
    return result


def _misfit(result: Scan, link: Link, first_n: int, host: str) -> str:
    """Return why the line does not follow the one before, or nothing."""
    expected = result.last_n + 1 if result.records else first_n
    if link.n != expected:
        return f"got n={link.n}; expected n={expected}"
    if result.records and link.prev != result.last_hash:
        return f"the link between n={link.n - 1} and n={link.n} does not hold"
    if link.host != host:
        return f"got host {printable(link.host)}; expected {host}"
    return ""


def recover(disk: Disk, directory: Path, host: str, key: EllipticCurvePublicKey) -> Recovered:
    """Return where to go on writing; torn bytes are moved aside, nothing else is changed.

    Raises:
        OSError: the disk refused.

    """
    reports: list[tuple[str, dict[str, Any]]] = []
    head = _read_head(disk, directory, key, reports)
    unreported = sorted(directory.glob(f"torn-*.bin{UNREPORTED}"))
    paths = segment_paths(directory)
    tail: Scan | None = None
    torn: list[Scan] = []
    while paths and tail is None:
        found = scan(paths.pop(), host, head.n if head else 0)
        if found.torn:
            torn.append(found)
        if found.records or (found.bad_line and not found.torn):
            tail = found
    broken = _judge(tail, paths, head, host, had_files=bool(torn))
    if broken is None and tail is not None:
        broken = _unsigned(tail, head, key)
    if broken is not None:
        reports.append(("journal.broken", broken))
    for ruin in torn:
        unreported.append(_move_aside(disk, directory, ruin))
    reports.extend(("journal.repaired", _describe(path)) for path in dict.fromkeys(unreported))
    result = _go_on(tail, head, host, fresh=broken is not None)
    result.reports, result.unreported = reports, list(dict.fromkeys(unreported))
    return result


def _read_head(
    disk: Disk,
    directory: Path,
    key: EllipticCurvePublicKey,
    reports: list[tuple[str, dict[str, Any]]],
) -> Head | None:
    path = directory / HEAD_FILE
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_HEAD + 1)
    except FileNotFoundError:
        return None
    try:
        return parse_head(raw, key)
    except SekishoError as error:
        kept = f"head-{hashlib.sha256(raw).hexdigest()[:16]}.refused"
        disk.rename(path, directory / kept)
        why = printable(error.diagnostics(), 300)
        reports.append(("journal.broken", {"reason": why, "file": HEAD_FILE, "kept": kept}))
        return None


def _judge(  # noqa: PLR0911 - one return per way to be broken
    tail: Scan | None, earlier: list[Path], head: Head | None, host: str, *, had_files: bool
) -> dict[str, Any] | None:
    """Return what is broken beyond what a power cut does, or None."""
    if tail is None:
        what = "no sound record is left" if had_files else "all segments are gone"
        gap = {"reason": what, "missing_from": 1, "missing_to": head.n if head else 0}
        return gap if head else None
    where: dict[str, Any] = {"segment": tail.path.name}
    if tail.bad_line and not tail.torn:
        where |= {"line": tail.bad_line, "n": tail.last_n + 1, "sha256": _sha256(tail.path)}
        return {**where, "reason": tail.reason or "an unsound line with sound ones behind it"}
    if tail.first_kind != "journal.broken" and not _linked(tail, earlier, host):
        return {**where, "line": 1, "reason": "it does not link to the segment before"}
    if head is None:
        return None
    if head.n > tail.last_n:
        what = "the journal is shorter than its own signed head"
        return {**where, "reason": what, "missing_from": tail.last_n + 1, "missing_to": head.n}
    if tail.head_hash not in {"", head.hash}:
        return {**where, "n": head.n, "reason": "not the record its own signed head names"}
    return None


def _unsigned(tail: Scan, head: Head | None, key: EllipticCurvePublicKey) -> dict[str, Any] | None:
    """Return what is wrong with the end's signatures: the writer is about to sign all of it."""
    where: dict[str, Any] = {"segment": tail.path.name}
    if tail.seal_line:
        try:
            seal = parse_line(tail.seal_line)
            held = seal_holds(key, Head(seal.host, seal.n, seal.t, seal.prev), seal.data)
        except ValueError:
            held = False
        if not held:
            return {**where, "n": tail.seal_n, "reason": "its last seal is not by this host's key"}
    signed = max(tail.seal_n, tail.first_n - 1)
    if head is not None and tail.head_hash == head.hash:
        signed = max(signed, head.n)
    left = tail.last_n - signed
    if left <= MAX_UNSEALED + _STARTS:
        return None
    reason = f"{left} records behind the last seal; the writer leaves at most {MAX_UNSEALED}"
    return {**where, "n": signed + 1, "reason": reason}


def _linked(tail: Scan, earlier: list[Path], host: str) -> bool:
    if not earlier:
        return tail.first_prev == genesis(host)
    with earlier[-1].open("rb") as stream:
        stream.seek(max(0, earlier[-1].stat().st_size - MAX_LINE))
        data = stream.read()
    link = skim_line(data[data.rfind(b"\n", 0, -1) + 1 :]) if data else None
    return link is not None and link.hash == tail.first_prev


def _go_on(tail: Scan | None, head: Head | None, host: str, *, fresh: bool) -> Recovered:
    ends = [(0, genesis(host))]
    if tail is not None:
        ends += [(tail.last_n, tail.last_hash or genesis(host)), (tail.later_n, tail.later_hash)]
    if head is not None:
        ends.append((head.n, head.hash))
    n, prev = max(ends, key=lambda end: end[0])
    if tail is None or fresh:
        return Recovered(n, prev)
    return Recovered(tail.last_n, tail.last_hash, tail.path, tail.sound_size)


def _move_aside(disk: Disk, directory: Path, ruin: Scan) -> Path:
    """Keep the torn bytes in a file of their own, then cut them off. A cut in between is fine."""
    with ruin.path.open("rb") as stream:
        stream.seek(ruin.sound_size)
        raw = stream.read()
    first = ruin.last_n + 1 if ruin.records else int(ruin.path.name.split(".")[0])
    digest = hashlib.sha256(raw).hexdigest()
    path = directory / f"torn-{first}-{digest[:8]}.bin{UNREPORTED}"
    disk.write_file(path, raw)
    fd = disk.open(ruin.path)
    try:
        disk.truncate(fd, ruin.sound_size)
        disk.sync(fd)
    finally:
        os.close(fd)
    return path


def _describe(path: Path) -> dict[str, Any]:
    name = path.name.removesuffix(UNREPORTED)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path), "kept": name}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def mark_reported(disk: Disk, recovered: Recovered) -> None:
    """Take the torn files off the list once their report is durable."""
    for path in recovered.unreported:
        disk.rename(path, path.with_name(path.name.removesuffix(UNREPORTED)))
    if recovered.unreported:
        disk.sync_dir(recovered.unreported[0].parent)
