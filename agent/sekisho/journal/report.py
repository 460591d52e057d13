"""What verification found out about a journal: findings with their place, and two verdicts.

*Integrity* says whether what is there is what was written: it passes only when the host's own
signatures cover all of it, but for what the writer may leave without a seal. *Completeness* says
whether the end is still there: only a signed head kept elsewhere shows that, up to its record.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "fail", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of the chain.

    Attributes:
        what: altered, missing, inserted, order, link, torn, segment, seal, host, unsealed, head.
        segment: file it was seen in ("" when it concerns the whole journal).
        line: line in that file, from 1; 0 when it concerns the file.
        n: number of the record concerned.
        text: what was got and what was expected, safe to print.

    """

    what: str
    segment: str
    line: int
    n: int
    text: str

    def place(self) -> str:
        """Return where it is, as one would open it: ``file:line (n=…)``."""
        where = f"{self.segment}:{self.line}" if self.segment else "journal"
        return f"{where} (n={self.n})"


@dataclass(slots=True)
class Report:
    """The outcome of verifying one journal. ``findings`` in the order of the journal."""

    host: str = ""
    records: int = 0
    first_n: int = 0
    last_n: int = 0
    last_hash: str = ""
    first_t: int = 0
    last_t: int = 0
    segments: int = 0
    seals: int = 0
    sealed_to: int = 0
    clock_back: int = 0
    repaired: list[dict[str, Any]] = field(default_factory=list)
    broken: list[dict[str, Any]] = field(default_factory=list)
    lost: int = 0
    findings: list[Finding] = field(default_factory=list)
    findings_left_out: int = 0
    head: str = "none"  # none | matches | inside | beyond | contradicts | refused
    head_n: int = 0
    completeness_text: str = ""
    own_head: str = "none"  # the same of the head.json beside the journal
    own_head_n: int = 0
    proven_to: int = 0  # last record that a valid signature covers
    unproven: int = 0  # records behind it, and the time they span
    unproven_ms: int = 0
    unproven_text: str = ""  # why those cannot be determined; "" within the writer's promise

    @property
    def integrity(self) -> Verdict:
        """``pass`` only for a journal with records, no finding, and a signed or short end."""
        if self.findings or self.findings_left_out:
            return "fail"
        return "pass" if self.records and not self.unproven_text else "error"

    @property
    def completeness(self) -> Verdict:
        """``pass`` only with an outside head that the chain contains; it covers ``head_n``."""
        if self.head in {"matches", "inside"}:
            return "pass"
        return "error" if self.head in {"none", "refused"} else "fail"

    @property
    def exit_code(self) -> int:
        """0 whole and shown complete up to the head, 1 a breach, 2 could not tell."""
        verdicts = (self.integrity, self.completeness)
        if "fail" in verdicts:
            return 1
        return 2 if "error" in verdicts else 0

    def as_json(self) -> dict[str, Any]:
        """Return everything, ready for canonical JSON."""
        return {
            **asdict(self),
            "integrity": self.integrity,
            "completeness": self.completeness,
            "exit_code": self.exit_code,
        }
