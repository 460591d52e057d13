"""Verification of a journal, streaming: every flip, deletion, insertion, swap and cut is located.

The plan: walk the lines once. Each proves its own hash, then its number, its link to the line
before, and (for seals) its signature. After a breach the walk picks up the chain again at the next
sound line, so that one breach is one finding and a second breach is still found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sekisho.errors import SekishoError, printable
from sekisho.journal.records import SEAL, Record, genesis, parse_line
from sekisho.journal.report import Finding, Report
from sekisho.journal.seals import Head, parse_head, seal_holds

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

MAX_FINDINGS = 1000
MAX_UNSEALED = 4096  # records; the writer seals at least every 1000


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the journal: its name and its lines, each with its newline where it has one."""

    name: str
    lines: Iterable[bytes]


def segment_name(n: int) -> str:
    """Return the name of the segment whose first record is ``n``."""
    return f"{n:020d}.jsonl"


@dataclass(slots=True)
class _Walk:
    report: Report
    key: EllipticCurvePublicKey
    head: Head | None
    expected: int = 1
    prev: str | None = None  # hash of the record before; None after a breach: link not provable
    host: str = ""
    head_seen: str = ""
    since_seal: int = 0

    def find(self, what: str, segment: str, line: int, n: int, text: str) -> None:
        if len(self.report.findings) >= MAX_FINDINGS:
            self.report.findings_left_out += 1
            return
        self.report.findings.append(Finding(what, segment, line, n, text))

    def take(self, segment: str, line: int, raw: bytes) -> None:
        try:
            record = parse_line(raw)
        except ValueError as error:
            what = "altered" if raw.endswith(b"\n") else "torn"
            self.find(what, segment, line, self.expected, str(error))
            self.expected += 1
            self.prev = None
            return
        if not self._number(segment, line, record):
            return
        self._link(segment, line, record)
        self._content(segment, line, record)
        self.prev = record.hash
        self.expected = record.n + 1
        self.report.records += 1
        self.report.last_n, self.report.last_hash = record.n, record.hash
        self.report.last_t = record.t
        if self.head is not None and record.n == self.head.n:
            self.head_seen = record.hash

    def _number(self, segment: str, line: int, record: Record) -> bool:
        """Judge the number; return whether the chain goes on with this record."""
        if record.n == self.expected:
            return True
        if self.prev is None and record.n == self.expected - 1 and self.report.findings:
            # The unreadable line before stood in nobody's place: it was put in.
            self.find(
                "inserted", segment, line - 1, record.n, "a line that is no record was put in"
            )
            return True
        if record.n > self.expected:
            missing = f"n={self.expected}"
            if record.n - 1 > self.expected:
                missing += f" to {record.n - 1}"
            text = f"got n={record.n}; expected n={self.expected}: {missing} not at this place"
            self.find("missing", segment, line, self.expected, text)
            self.prev = None
            return True
        text = f"got n={record.n}; expected n={self.expected}: put in, repeated or out of order"
        self.find("inserted", segment, line, record.n, text)
        return False

    def _link(self, segment: str, line: int, record: Record) -> None:
        if self.prev is None or record.prev == self.prev:
            return
        text = f"the link between n={record.n - 1} and n={record.n} does not hold: "
        text += (
            f"got prev {record.prev[:16]}…; expected {self.prev[:16]}…: one of them was rewritten"
        )
        self.find("link", segment, line, record.n, text)

    def _content(self, segment: str, line: int, record: Record) -> None:
        report = self.report
        if not self.host:
            self.host = report.host = record.host
            report.first_n, report.first_t = record.n, record.t
            if record.n == 1 and record.prev != genesis(record.host):
                self.find(
                    "link", segment, line, 1, "the first record does not begin at the genesis"
                )
        elif record.host != self.host:
            text = f"got host {record.host}; expected {self.host}"
            self.find("host", segment, line, record.n, text)
            self.host = record.host  # said once
        if record.t < report.last_t:
            report.clock_back += 1  # a clock may be set back: counted, no tampering
        self.since_seal += 1
        if record.kind == SEAL:
            self._seal(segment, line, record)
        elif record.kind == "journal.repaired":
            report.repaired.append({"n": record.n, **record.data})
        elif record.kind == "journal.broken":
            report.broken.append({"n": record.n, **record.data})
        elif record.kind == "journal.lost" and isinstance(record.data.get("count"), int):
            report.lost += record.data["count"]

    def _seal(self, segment: str, line: int, record: Record) -> None:
        if not seal_holds(
            self.key, Head(record.host, record.n, record.t, record.prev), record.data
        ):
            text = f"the seal's signature does not verify: n={self.report.sealed_to + 1} to "
            text += f"{record.n} were rewritten, or the seal is by another key"
            self.find("seal", segment, line, record.n, text)
            return
        self._unsealed(segment, line, record.n)
        self.report.seals += 1
        self.report.sealed_to = record.n
        self.since_seal = 0

    def _unsealed(self, segment: str, line: int, n: int) -> None:
        if self.since_seal > MAX_UNSEALED:
            text = f"{self.since_seal} records in a row without a seal; the writer never leaves "
            text += f"more than {MAX_UNSEALED}: seals were taken out"
            self.find("unsealed", segment, line, n, text)

    def finish(self) -> None:
        self._unsealed("", 0, self.report.last_n)
        report = self.report
        if self.head is None:
            return
        report.head_n = self.head.n
        if self.host and self.head.host != self.host:
            report.head = "contradicts"
            text = f"the head is of host {self.head.host}; the journal of {self.host}"
        elif self.head_seen == self.head.hash:
            report.head = "matches" if self.head.n == report.last_n else "inside"
            report.completeness_text = f"the chain contains the head at n={self.head.n}"
            return
        elif self.head_seen:
            report.head = "contradicts"
            text = f"n={self.head.n} is not the record the head names: rewritten up to there"
        elif self.head.n > report.last_n:
            report.head = "beyond"
            text = f"the journal ends at n={report.last_n}; the head says it had n={self.head.n}: "
            text += "its end was cut off"
        else:
            report.head = "contradicts"
            text = f"n={self.head.n}, which the head names, is not sound in the journal"
        report.completeness_text = text
        self.find("head", "", 0, self.head.n, text)


def verify(
    segments: Iterable[Segment],
    key: EllipticCurvePublicKey,
    head: bytes | None = None,
    *,
    outside: bool = True,
) -> Report:
    """Verify a journal's segments, given in the order of their names, and locate what is wrong.

    ``head`` is a signed head that was kept elsewhere. Without it the report says so: nothing then
    shows that the end is still there. ``outside=False`` says that the head lay beside the journal:
    it can then convict the journal of being too short, but not show it complete. Reads each line
    once and keeps none.
    """
    report = Report()
    walk = _Walk(report, key, None)
    if head is not None:
        try:
            walk.head = parse_head(head, key)
        except SekishoError as error:
            report.head = "refused"
            report.completeness_text = error.diagnostics()
    for segment in segments:
        report.segments += 1
        name = printable(segment.name)
        for count, raw in enumerate(segment.lines, 1):
            if count == 1 and segment.name != segment_name(walk.expected):
                _judge_name(walk, segment.name, raw)
            walk.take(name, count, raw)
    walk.finish()
    if report.head == "none" or (not outside and report.head not in {"beyond", "contradicts"}):
        report.head = "none"
        report.completeness_text = "completeness not shown: no outside head given"
    return report


def _judge_name(walk: _Walk, name: str, raw: bytes) -> None:
    """Compare a segment's name with its first record; they differ when it was renamed."""
    try:
        n = parse_line(raw).n
    except ValueError:
        return  # the line itself becomes a finding
    if name != segment_name(n):
        text = f"got a segment that begins with n={n}; expected {segment_name(n)} as its name"
        walk.find("segment", printable(name), 1, n, text)
