"""Findings by item: the rows of the Article 6 table. Pure.

An item is the worst of the kinds of evidence it asks for, and a kind is the worst of its findings;
a kind that is asked for and not there is ``error``. Machine, exercise and attested evidence stay
apart in every row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.catalogue.judge import UNKNOWN
from sekisho.catalogue.model import SEVERITY, Catalogue, Finding, Item, Verdict
from sekisho.evidence.words import MISSING_WORDS

KINDS = ("machine", "exercise", "attested")


@dataclass(frozen=True, slots=True)
class Row:
    """One item's line.

    Attributes:
        item: the item of the catalogue.
        verdict: worst of ``kinds``; ``not_applicable`` when the site's profile excludes the item.
        kinds: verdict per kind of evidence the item asks for; a kind not asked for is not there.
        counts: number of machine findings by verdict.
        missing: kinds asked for and not there.

    """

    item: Item
    verdict: Verdict
    kinds: Mapping[str, Verdict]
    counts: Mapping[Verdict, int]
    missing: tuple[str, ...]

    def reason(self, language: str) -> str:
        """Return why kinds of evidence are missing, in words ("" when none is)."""
        return ", ".join(MISSING_WORDS[kind][language] for kind in self.missing)

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return {
            "id": self.item.id,
            "citation": self.item.citation,
            "title": self.item.title,
            "status": self.item.status,
            "verdict": self.verdict.value,
            "evidence": {kind: verdict.value for kind, verdict in self.kinds.items()},
            "missing": list(self.missing),
            "counts": {verdict.value: self.counts.get(verdict, 0) for verdict in Verdict},
            "gaps": [dict(gap) for gap in self.item.gaps],
        }


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst verdict; nothing at all is ``error``."""
    return min(verdicts, key=lambda verdict: SEVERITY[verdict], default=Verdict.ERROR)


def rows(
    catalogue: Catalogue,
    findings: Iterable[Finding],
    *,
    profile: str | None = None,
    kinds: Iterable[str] = KINDS,
) -> list[Row]:
    """Return one row per item, in the regulation's order.

    Args:
        catalogue: the items and checks judged.
        findings: machine findings of all hosts.
        profile: the site's profile (``producer`` or ``entrusted``), or None when unknown.
        kinds: the kinds of evidence this audit looks at; an item that asks for none of them
            gets no row.

    """
    by_item: dict[str, list[Verdict]] = {item.id: [] for item in catalogue.items}
    for finding in findings:
        by_item[finding.item].append(finding.verdict)
    wanted = [kind for kind in KINDS if kind in set(kinds)]
    return [
        _row(item, by_item[item.id], profile, wanted)
        for item in catalogue.items
        if set(wanted) & _asked(item, by_item[item.id])
    ]


def _asked(item: Item, machine: list[Verdict]) -> set[str]:
    # A machine finding counts even where the item's file does not list machine evidence.
    return set(item.evidence) | ({"machine"} if machine else set())


def _row(item: Item, machine: list[Verdict], profile: str | None, wanted: list[str]) -> Row:
    counts = Counter(machine)
    if profile is not None and profile not in item.profiles:
        return Row(item, Verdict.NOT_APPLICABLE, {}, counts, ())
    asked = _asked(item, machine)
    kinds: dict[str, Verdict] = {}
    missing: list[str] = []
    for kind in wanted:
        if kind not in asked:
            continue
        if kind == "machine" and machine:
            kinds[kind] = worst(machine)
        else:
            # Statements and exercise records have no store yet: none can be there.
            kinds[kind] = Verdict.ERROR
            missing.append(kind)
    return Row(item, worst(kinds.values()), kinds, counts, tuple(missing))


def group(findings: Iterable[Finding], verdict: Verdict) -> list[tuple[Finding, tuple[str, ...]]]:
    """Return the findings of one verdict, each once with all the hosts that show the same."""
    hosts: dict[tuple[str, str, str], list[str]] = {}
    first: dict[tuple[str, str, str], Finding] = {}
    for finding in findings:
        if finding.verdict is verdict:
            key = (finding.check, finding.expected, finding.observed)
            first.setdefault(key, finding)
            hosts.setdefault(key, []).append(finding.host)
    return [(finding, tuple(hosts[key])) for key, finding in first.items()]


def unknown_by_reason(
    findings: Iterable[Finding],
) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Return why findings could not be told: reason, hosts, checks; the same hosts together."""
    by_host: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if finding.verdict is Verdict.ERROR:
            reason = finding.observed.replace(UNKNOWN, "")
            by_host.setdefault((reason, finding.host), []).append(finding.check)
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, host), checks in by_host.items():
        alike.setdefault((reason, tuple(checks)), []).append(host)
    return [(reason, tuple(hosts), checks) for (reason, checks), hosts in alike.items()]
