"""Verification of a journal, streaming: every flip, deletion, insertion, swap and cut is located.

The plan: walk the lines once. Each proves its own hash, then its number, its link to the line
before, and (for seals) its signature. After a breach the walk picks up the chain again at the next
sound line, so that one breach is one finding and a second breach is still found.

Only a signature proves anything: a seal, or a head (one kept elsewhere, the journal's own) that the
chain contains, up to its record. Anybody who can write the file can append records that are merely
chained; what lies behind the last signature is taken for the host's only within the writer's own
promise (`MAX_UNSEALED`, `MAX_UNSEALED_MS`), and beyond it cannot be determined.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sekisho.core.errors import SekishoError, printable
from sekisho.journal.records import SEAL, Record, genesis, parse_line
from sekisho.journal.report import Finding, Report
from sekisho.journal.seals import MAX_UNSEALED, MAX_UNSEALED_MS, Head, parse_head, seal_holds

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

MAX_FINDINGS = 1000
MAX_STRETCH = 4096  # records between two seals; the writer seals at least every 1000


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the journal: its name and its lines, each with its newline where it has one."""

    name: str
    lines: Iterable[bytes]


def segment_name(n: int) -> str:
    """Return the name of the segment whose first record is ``n``."""
    return f"{n:020d}.jsonl"


@dataclass(slots=True)
class _Known:
    """A signed head and the hash of the record the journal has in its place ("" for none)."""

    head: Head
    seen: str = ""


@dataclass(slots=True)
class _Walk:
    report: Report
    key: EllipticCurvePublicKey
    outside: _Known | None = None
    own: _Known | None = None
    expected: int = 1
    prev: str | None = None  # hash of the record before; None after a breach: link not provable
    host: str = ""
    since_seal: int = 0
    unproven_from: int = 0  # times of the records behind the last signature: lowest, highest
    unproven_to: int = 0

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
        self._unproven(record)
        for known in (self.outside, self.own):
            if known is not None and record.n == known.head.n:
                known.seen = record.hash
                if known.seen == known.head.hash and known.head.host == record.host:
                    self._proven(record.n)

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
        if self.since_seal > MAX_STRETCH:
            text = f"{self.since_seal} records in a row without a seal; the writer never leaves "
            text += f"more than {MAX_UNSEALED}: seals were taken out"
            self.find("unsealed", segment, line, n, text)

    def _unproven(self, record: Record) -> None:
        """Count a record as unsigned, unless it is itself a seal that holds."""
        if record.n == self.report.sealed_to:
            self._proven(record.n)
            return
        if not self.report.unproven:
            self.unproven_from = self.unproven_to = record.t
        self.report.unproven += 1
        self.unproven_from = min(self.unproven_from, record.t)
        self.unproven_to = max(self.unproven_to, record.t)
        self.report.unproven_ms = self.unproven_to - self.unproven_from

    def _proven(self, n: int) -> None:
        self.report.proven_to = n
        self.report.unproven = self.report.unproven_ms = 0

    def finish(self) -> None:
        self._unsealed("", 0, self.report.last_n)
        report = self.report
        if self.outside is not None:
            report.head_n = self.outside.head.n
            report.head, report.completeness_text = self._place(self.outside, "the head given")
        if self.own is not None:
            report.own_head_n = self.own.head.n
            report.own_head, _ = self._place(self.own, "the journal's own head.json")
        report.unproven_text = self._doubt()

    def _place(self, known: _Known, name: str) -> tuple[str, str]:
        """Return how a head stands to the chain, and in words; a contradiction is a finding."""
        head, last = known.head, self.report.last_n
        if self.host and head.host != self.host:
            found = "contradicts"
            text = f"{name} is of host {head.host}; the journal of {self.host}"
        elif known.seen == head.hash:
            text = f"complete up to n={head.n}: the chain contains {name}"
            if head.n == last:
                return "matches", text
            return "inside", f"{text}; whether n={last} was the last record is not shown"
        elif known.seen:
            found = "contradicts"
            text = f"n={head.n} is not the record {name} names: rewritten up to there"
        elif head.n > last:
            found = "beyond"
            text = f"the journal ends at n={last}; {name} says it had n={head.n}: "
            text += "its end was cut off"
        else:
            found = "contradicts"
            text = f"n={head.n}, which {name} names, is not sound in the journal"
        self.find("head", "", 0, head.n, text)
        return found, text

    def _doubt(self) -> str:
        """Return why the end of the journal cannot be determined; "" within the promise."""
        report = self.report
        if not report.unproven:
            return ""
        first = report.last_n - report.unproven + 1
        where = f"n={first} to {report.last_n} ({report.unproven} records)"
        if not report.proven_to:
            return f"{where} bear no valid signature at all: anybody could have written them"
        if report.unproven > MAX_UNSEALED:
            return f"{where} bear no signature; the writer leaves at most {MAX_UNSEALED}"
        if report.unproven_ms > MAX_UNSEALED_MS:
            return (
                f"{where} bear no signature and span {report.unproven_ms} ms; the writer seals "
                f"within {MAX_UNSEALED_MS} ms"
            )
        return ""


def verify(
    segments: Iterable[Segment],
    key: EllipticCurvePublicKey,
    head: bytes | None = None,
    *,
    own: bytes | None = None,
) -> Report:
    """Verify a journal's segments, given in the order of their names, and locate what is wrong.

    Reads each line once and keeps none.

    Args:
        segments: the journal's files.
        key: the host's public key.
        head: a signed head that was kept elsewhere. Without it nothing shows that the end is still
            there, and the report says so; with it the journal is shown complete up to its record.
        own: the ``head.json`` that lay beside the journal. It can show the journal too short or
            rewritten, whatever ``head`` says, and cannot show it complete: whoever cuts the
            journal can put an older head beside it.

    """
    report = Report()
    walk = _Walk(report, key)
    if head is not None:
        try:
            walk.outside = _Known(parse_head(head, key))
        except SekishoError as error:
            report.head = "refused"
            report.completeness_text = error.diagnostics()
    if own is not None:
        try:
            walk.own = _Known(parse_head(own, key))
        except SekishoError as error:
            # The writer replaces this file as a whole: it is never half a head.
            report.own_head = "refused"
            told = " ".join(error.diagnostics().split())
            walk.find("head", "", 0, 0, f"head.json beside the journal: {told}")
    for segment in segments:
        report.segments += 1
        name = printable(segment.name)
        for count, raw in enumerate(segment.lines, 1):
            if count == 1 and segment.name != segment_name(walk.expected):
                _judge_name(walk, segment.name, raw)
            walk.take(name, count, raw)
    walk.finish()
    if report.head == "none":
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
