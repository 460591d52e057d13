"""`sekisho verify` for a journal: what is wrong and where, and whether its end is shown."""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path

from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError, printable
from sekisho.journal.report import Report
from sekisho.journal.seals import MAX_HEAD

_VERDICTS = {
    "pass": ("pass", "適合"),
    "fail": ("FAIL", "不適合"),
    "error": ("could not tell", "判定不能"),
}
_OWN_HEADS = {
    "none": "none beside the journal",
    "refused": "not signed by this key",
    "matches": "in the chain, its last record",
    "inside": "in the chain",
    "beyond": "the journal ends before it",
    "contradicts": "not in the chain",
}


def _time(ms: int) -> str:
    try:
        moment = dt.datetime.fromtimestamp(ms / 1000, tz=dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def render(report: Report, path: Path) -> str:
    """Return the report for a terminal."""
    lines = [f"Journal 監査ジャーナル  {path}"]
    if report.records:
        lines.append(
            f"  host {report.host}: {report.records} records in {report.segments} segments, "
            f"n={report.first_n} to {report.last_n}, "
            f"{_time(report.first_t)} to {_time(report.last_t)}"
        )
        tail = f"; the last {report.unproven} bear no signature yet" if report.unproven else ""
        lines.append(f"  seals {report.seals}, signed up to n={report.proven_to}{tail}")
        at = f" at n={report.own_head_n}" if report.own_head_n else ""
        lines.append(f"  own head.json{at}: {_OWN_HEADS[report.own_head]}")
    lines.extend(
        f"  reported by the host: torn end repaired at n={entry['n']} "
        f"({entry.get('bytes')} bytes kept in {printable(entry.get('kept'))})"
        for entry in report.repaired
    )
    lines.extend(
        f"  reported by the host: broken, at n={entry['n']}: {printable(entry.get('reason'))}"
        for entry in report.broken
    )
    if report.lost:
        lines.append(f"  reported by the host: {report.lost} events could not be written")
    if report.clock_back:
        lines.append(f"  the clock stepped back {report.clock_back} times (no breach)")
    lines.extend(
        f"  FAIL 不適合  {finding.place()}: {finding.what}: {finding.text}"
        for finding in report.findings
    )
    if report.findings_left_out:
        lines.append(f"  … and {report.findings_left_out} more findings")
    found = [f"{len(report.findings)} findings"] if report.findings else []
    found += [report.unproven_text] if report.unproven_text else []
    end = " ".join(report.completeness_text.split())
    for name, verdict, text in (
        ("integrity 完全性", report.integrity, "; ".join(found) or "0 findings"),
        ("completeness 網羅性", report.completeness, end),
    ):
        english, japanese = _VERDICTS[verdict]
        lines.append(f"  {name}: {english} {japanese} ({text})")
    if report.head == "none":
        lines.append("  -> give --head FILE: a head.json of this journal that was kept elsewhere")
    return "\n".join(lines)


def _beside(path: Path) -> bytes | None:
    """Return the journal's own head, None when there is none; what cannot be read is no head."""
    if not os.path.lexists(path):
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            return stream.read(MAX_HEAD + 1) or b""
    except OSError:
        return b""


def verify_journal(path: Path, key: Path, head: Path | None, json: bool) -> int:
    """Verify the journal in directory ``path`` with the host's public key (or certificate).

    ``head`` is a signed head kept elsewhere; the journal's own is looked at in any case. Prints the
    report; returns 0 whole and complete up to the head, 1 breach, 2 could not tell, 3 not usable
    input.
    """
    from sekisho.journal.verification import verify  # noqa: PLC0415 - heavy
    from sekisho.local.journal_files import (  # noqa: PLC0415 - heavy
        HEAD_FILE,
        read_head,
        read_public_key,
        segments,
    )

    try:
        public = read_public_key(key)
        # Both read before the segments: a journal being written only grows meanwhile.
        outside = read_head(head) if head is not None else None
        own = _beside(path / HEAD_FILE)
        report = verify(segments(path), public, outside, own=own)
    except SekishoError as error:
        sys.stderr.write(error.diagnostics() + "\n")
        return 3
    except OSError as error:
        sys.stderr.write(f"could not tell: {path}: {error}\n")
        return 2
    if json:
        sys.stdout.write(canonical(report.as_json()).decode() + "\n")
    else:
        sys.stdout.write(render(report, path) + "\n")
    return report.exit_code
