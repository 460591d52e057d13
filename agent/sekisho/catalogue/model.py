"""Values of the catalogue: items of the regulation, checks, assertions.

Parsed once into frozen values (`parse_item`, `parse_check` in `sekisho.catalogue.parse`);
afterwards no code re-checks them. Source: the items of Article 6, 12, 19, 26 and 36-38 of the
Regulation; ids are written with dashes (`6-iv-d-2`).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import Any

SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
ROLES = ("inbound", "core", "outbound", "gateway", "monitor", "terminal")


class Verdict(enum.StrEnum):
    """What a check says of a host. Ordered worst first by `SEVERITY`."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    ERROR = "error"
    NOT_APPLICABLE = "not_applicable"
    WAIVED = "waived"


#: A clause is the worst of its findings; lower is worse.
SEVERITY = {
    Verdict.FAIL: 0,
    Verdict.ERROR: 1,
    Verdict.WAIVED: 2,
    Verdict.PASS: 3,
    Verdict.NOT_APPLICABLE: 4,
}


class Op(enum.StrEnum):
    """How an assertion compares the observed value with the expected one."""

    EQUALS = "equals"
    NOT_EQUALS = "not_equals"
    ONE_OF = "one_of"
    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    MATCHES = "matches"  # full match of a regular expression
    CONTAINS = "contains"  # the observed list holds every expected member
    LACKS = "lacks"  # the observed list holds no expected member
    SUBSET_OF = "subset_of"
    SAME_SET = "same_set"
    EMPTY = "empty"  # an observed, empty list, mapping or text
    PRESENT = "present"
    ABSENT = "absent"
    PROVEN = "proven"  # rules pass nothing but the policy's declared lines; needs the solver


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """An expectation that stands in the host's compiled policy, not in the catalogue."""

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assertion:
    """One comparison of one fact.

    Attributes:
        where: ``disk`` (will hold after a boot) or ``runtime`` (holds now).
        probe: name of the probe in `sekisho.probes.registry`.
        key: path into the probe's parsed fact.
        op: comparison.
        value: expected value, or a `PolicyValue`; None for present, absent and empty.
        missing: value to take when the key is not there; without it a missing key is ``error``.
        always: True for what is wrong on any machine. A check that reads the site's declaration
            cannot be determined without a policy; only what is ``always`` wrong still fails.

    """

    where: str
    probe: str
    key: tuple[str, ...]
    op: Op
    value: Any = None
    missing: Any = None
    has_missing: bool = False
    always: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One machine check: which facts, what is expected of them, and how to mend it."""

    id: str
    title: dict[str, str]
    applies: tuple[str, ...]
    asserts: tuple[Assertion, ...]
    by_hand: str
    remedy: str
    scenario: str  # "vm" (kernel effect) or "root" (disposable Debian root)
    rationale: str = ""
    fails_on: tuple[str, ...] = field(default_factory=tuple)

    @property
    def item(self) -> str:
        """Return the item of the regulation this check belongs to."""
        return self.id.split(".", 1)[0]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the regulation: our reading, what shows it, what stays open."""

    id: str
    citation: str
    title: dict[str, str]
    reading: dict[str, str]
    evidence: tuple[str, ...]  # machine | exercise | attested
    status: str  # machine | partial | attested | planned
    gaps: tuple[dict[str, str], ...]
    exercises: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ("producer", "entrusted")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All items and checks, in the regulation's order."""

    items: tuple[Item, ...]
    checks: tuple[Check, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The judgement of one check on one host."""

    check: str
    item: str
    host: str
    verdict: Verdict
    title: dict[str, str]
    expected: str
    observed: str
    where: str
    remedy: str
    by_hand: str

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return {
            "check": self.check,
            "item": self.item,
            "host": self.host,
            "verdict": self.verdict.value,
            "title": self.title,
            "expected": self.expected,
            "observed": self.observed,
            "where": self.where,
            "remedy": self.remedy,
            "by_hand": self.by_hand,
        }
