"""`sekisho verify` for a journal: what is wrong and where, and whether its end is shown."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

from sekisho.canonical import canonical
from sekisho.errors import SekishoError, printable
from sekisho.journal.report import Report

_VERDICTS = {
    "pass": ("pass", "適合"),
    "fail": ("FAIL", "不適合"),
    "error": ("could not tell", "判定不能"),
}
_HEADS = {
    "none": "no outside head given: completeness not shown",
    "refused": "the head given is not one of this host's key",
    "matches": "the head given is the journal's last record",
    "inside": "the head given is in the chain, the journal went on since",
    "beyond": "the journal ends before the head given: its end was cut off",
    "contradicts": "the chain does not contain the head given",
}


def _time(ms: int) -> str:
    try:
        moment = dt.datetime.fromtimestamp(ms / 1000, tz=dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def render(report: Report, path: Path) -> str:
    """Return the report for a terminal."""
    lines = [f"Journal 記録簿  {path}"]
    if report.records:
        lines.append(
            f"  host {report.host}: {report.records} records in {report.segments} segments, "
            f"n={report.first_n} to {report.last_n}, "
            f"{_time(report.first_t)} to {_time(report.last_t)}"
        )
        left = report.last_n - report.sealed_to
        tail = f"; the last {left} not sealed yet" if left else ""
        lines.append(f"  seals {report.seals}, valid up to n={report.sealed_to}{tail}")
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
    for name, verdict, text in (
        ("integrity 完全性", report.integrity, f"{len(report.findings)} findings"),
        ("completeness 網羅性", report.completeness, _HEADS[report.head]),
    ):
        english, japanese = _VERDICTS[verdict]
        lines.append(f"  {name}: {english} {japanese} ({text})")
    if report.head == "none":
        lines.append("  -> give --head FILE: a head.json of this journal that was kept elsewhere")
    return "\n".join(lines)


def verify_journal(path: Path, key: Path, head: Path | None, json: bool) -> int:
    """Verify the journal in directory ``path`` with the host's public key (or certificate).

    ``head`` is a signed head kept elsewhere. Prints the report; returns 0 whole and complete,
    1 breach, 2 could not tell, 3 not usable input.
    """
    from sekisho.edge.journal_read import (  # noqa: PLC0415 - heavy
        HEAD_FILE,
        read_head,
        read_public_key,
        segments,
    )
    from sekisho.journal.verification import verify  # noqa: PLC0415 - heavy

    try:
        public = read_public_key(key)
        own = path / HEAD_FILE
        # Read before the segments: a journal being written only grows meanwhile.
        known = read_head(head) if head is not None else read_head(own) if own.exists() else None
        report = verify(segments(path), public, known, outside=head is not None)
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
