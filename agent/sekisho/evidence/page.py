"""What the report says in one language, ready for its template. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sekisho.catalogue.edition import EDITION, EDITION_NOTE, REGULATION
from sekisho.catalogue.model import SEVERITY, Catalogue, Finding, Verdict
from sekisho.core.errors import printable
from sekisho.core.languages import cite
from sekisho.core.text import lines_of
from sekisho.evidence.japanese import expected_in, observed_in, reason_in
from sekisho.evidence.law_text import LawText
from sekisho.evidence.report import AuditRun, HostRecord, Judged, left_out_of
from sekisho.evidence.scope import LeftOut
from sekisho.evidence.summary import KINDS, Row, group, unknown_by_reason, worst
from sekisho.evidence.words import (
    CAVEATS,
    KIND_NOTES,
    KIND_WORDS,
    MISSING_WORDS,
    MODE_NOTES,
    OPTION_WORDS,
    PROFILE_WORDS,
    ROLE_WORDS,
    STATUS_WORDS,
    UNLISTED_NOTE,
    VERDICT_WORDS,
    WORDS,
)

_COLON = {"en": ": ", "ja": "："}
_LEFT_NAMED = 40  # hosts, items or checks in one line of the first page
_ACROSS = 8  # hosts side by side in one table: what a sheet of paper carries
_ORDER = sorted(SEVERITY, key=lambda verdict: SEVERITY[verdict])
_SECTIONS = ("table", "matrix", "breaches", "unknown", "gaps", "hosts", "method", "signatures")
#: How a reader makes the evidence's digest himself; see `sekisho.evidence.bundle`.
BY_HAND = (
    "find catalogue.json facts findings.json policies run.json -type f | LC_ALL=C sort | "
    "xargs sha256sum | sha256sum"
)

#: A value for the template: plain texts, lists and mappings of them.
View = Mapping[str, Any]
_Counts = list[tuple[Verdict, int]]


@dataclass(frozen=True, slots=True)
class Page:
    """One language's report; every text in it is still to be escaped."""

    language: str
    words: Mapping[str, str]
    verdicts: Mapping[Verdict, str]
    running: str  # at the head of each sheet
    foot: str
    overall: Verdict
    partial: bool
    facts: Sequence[tuple[str, str]]
    catalogue: str
    evidence: str
    scope: Sequence[ScopeLine]
    site_problems: Sequence[str]
    notes: Sequence[str]
    sections: Sequence[str]
    kinds: Sequence[View]
    rows: Sequence[View]
    item_counts: _Counts
    finding_count: int
    finding_counts: _Counts
    matrix: View
    breaches: Sequence[View]
    unknown: Sequence[View]
    hosts: Sequence[View]
    law: bool
    by_hand: str = BY_HAND


def page_of(  # noqa: PLR0913 - a report has these inputs
    catalogue: Catalogue,
    run: AuditRun,
    judged: Judged,
    language: str,
    *,
    evidence: str,
    law: LawText | None = None,
    checked: Mapping[str, str] | None = None,
) -> Page:
    """Return the report in one language; see `sekisho.evidence.html.render`."""
    words = {key: both[language] for key, both in WORDS.items()}
    out = left_out_of(catalogue, run, judged)
    matrix = _matrix(catalogue, run, judged.findings, language)
    breaches = _breaches(judged.findings, language)
    unknown = _unknown(judged.findings, language)
    there = {"matrix": matrix["parts"], "unknown": unknown}
    verdicts = [row.verdict for row in judged.rows]
    found = [finding.verdict for finding in judged.findings]
    return Page(
        language=language,
        words=words,
        verdicts={verdict: both[language] for verdict, both in VERDICT_WORDS.items()},
        running=f"{words['title']} · {printable(_subject(run), 60)} · {run.finished}",
        foot=f"{words['digest']} {evidence}",
        overall=worst(verdicts),
        partial=bool(out),
        facts=_facts(run, words, language, law=law, checked=checked),
        catalogue=catalogue.digest,
        evidence=evidence,
        scope=left_out_lines(run, out, language),
        site_problems=run.site_problems,
        notes=_notes(run, language),
        sections=[key for key in _SECTIONS if there.get(key, True)],
        kinds=[{"word": KIND_WORDS[k][language], "note": KIND_NOTES[k][language]} for k in KINDS],
        rows=[_row(row, words, language, law) for row in judged.rows],
        item_counts=_tally(verdicts),
        finding_count=len(found),
        finding_counts=_tally(found),
        matrix=matrix,
        breaches=breaches,
        unknown=unknown,
        hosts=[_host(host, language) for host in run.hosts],
        law=law is not None,
    )


def _subject(run: AuditRun) -> str:
    if run.mode != "local":
        return run.site or "-"
    return run.hosts[0].name if run.hosts else "-"


def _facts(
    run: AuditRun,
    words: Mapping[str, str],
    language: str,
    *,
    law: LawText | None,
    checked: Mapping[str, str] | None,
) -> list[tuple[str, str]]:
    answered = sum(1 for host in run.hosts if host.reason is None)
    signed = sum(host.signed for host in run.hosts)
    profile = (
        words["not_known"] if run.profile is None else _word(PROFILE_WORDS, run.profile, language)
    )
    until = f"{run.started} - {run.finished}"
    facts = [
        (words["site"], _subject(run)),
        (words["profile"], profile),
        (words["law"], REGULATION[language]),
        (words["edition"], EDITION[language]),
        (words["time"], until),
        (words["answered"], f"{answered} / {len(run.hosts)}"),
        (words["signed"], f"{signed} / {len(run.hosts)}"),
        (words["modes"], ", ".join(run.flow_modes) or words["not_known"]),
    ]
    if run.unlisted:
        facts.append((words["unlisted"], "; ".join(run.unlisted)))
    facts.append((words["tool"], run.tool))
    if law is not None:
        facts.append(
            (
                words["official"],
                f"{words['official_from']}{_COLON[language]}{law.name}, SHA-256 {law.digest}",
            )
        )
    if checked is not None:
        facts.append((words["checked"], checked[language]))
    return facts


def _word(table: Mapping[str, Mapping[str, str]], key: str, language: str) -> str:
    return table[key][language] if key in table else key


@dataclass(frozen=True, slots=True)
class ScopeLine:
    """One line of the scope: its name, the share that was evaluated, and what was left out."""

    name: str
    value: str
    left: str


def left_out_lines(
    run: AuditRun, out: LeftOut, language: str, *, named: int = _LEFT_NAMED
) -> list[ScopeLine]:
    """Return what there was to evaluate, what of it was, and what was left out.

    ``named`` is how many names are spelled out in one line.
    """
    words = {key: both[language] for key, both in WORDS.items()}
    lines = []
    for what, whole, missing, spelled in (
        ("hosts", run.scope.hosts, out.hosts, out.hosts),
        ("items", run.scope.items, out.items, [_cited(item, language) for item in out.items]),
        ("checks", run.scope.checks, out.checks, out.checks_apart),
    ):
        share = f"{len(whole) - len(missing)} / {len(whole)}" if whole else words["no_scope"]
        left = _left(len(missing), len(whole), spelled[:named], len(spelled), language)
        lines.append(ScopeLine(words[f"in_{what}"], share, left))
    kinds = [KIND_WORDS[kind][language] for kind in out.evidence]
    left = _left(len(kinds), len(KINDS), kinds, len(kinds), language)
    asked = ", ".join(KIND_WORDS[kind][language] for kind in run.kinds)
    lines.append(ScopeLine(words["evidence"], asked, left))
    options = ", ".join(
        f"{_word(OPTION_WORDS, name, language)} {_word(OPTION_WORDS, str(value), language)}"
        for name, value in run.scope.options
    )
    lines.append(ScopeLine(words["options"], options or "-", ""))
    return lines


def _cited(item: str, language: str) -> str:
    """Return how an item of the scope is cited; the scope of a forged bundle may name anything."""
    try:
        return cite(item, language)
    except ValueError:
        return item


def _left(count: int, whole: int, named: Sequence[str], names: int, language: str) -> str:
    """Return "1 of 7: gate-out": ``named`` of the ``names`` that do not follow from others."""
    if not count:
        return ""
    told = list(named)
    if names > len(named):
        more = names - len(named)
        told.append(f"ほか{more}件" if language == "ja" else f"{more} more")
    if names < count:
        told.append(WORDS["of_items_left_out"][language])
    share = f"{whole}件中{count}件" if language == "ja" else f"{count} of {whole}"
    return f"{share}{_COLON[language]}{', '.join(told)}"


def _notes(run: AuditRun, language: str) -> list[str]:
    notes = [EDITION_NOTE, *CAVEATS, *(MODE_NOTES[m] for m in run.flow_modes if m in MODE_NOTES)]
    notes += [UNLISTED_NOTE] if run.unlisted else []
    return [note[language] for note in notes]


def _tally(verdicts: Sequence[Verdict]) -> _Counts:
    return [(one, verdicts.count(one)) for one in _ORDER if one in verdicts]


def _row(row: Row, words: Mapping[str, str], language: str, law: LawText | None) -> View:
    text = None if law is None else law.items.get(row.item.id)
    return {
        "id": row.item.id,
        "citation": cite(row.item.id, language),
        "title": row.item.title[language],
        "verdict": row.verdict,
        "cells": [_kind_cell(row, kind, language) for kind in KINDS],
        "official": [words["not_brought"]] if text is None else lines_of(text),
        "official_language": language if text is None or law is None else law.language_of(text),
        "reading": row.item.reading[language],
        "status": _word(STATUS_WORDS, row.item.status, language),
        "gaps": [gap[language] for gap in row.item.gaps],
    }


def _kind_cell(row: Row, kind: str, language: str) -> View:
    counts: _Counts = []
    if kind in row.kinds and kind not in row.missing:
        counts = [(one, row.counts[one]) for one in _ORDER if row.counts.get(one)]
    return {
        "kind": KIND_WORDS[kind][language],
        "missing": MISSING_WORDS[kind][language] if kind in row.missing else "",
        "counts": counts,
    }


def _matrix(
    catalogue: Catalogue, run: AuditRun, findings: Iterable[Finding], language: str
) -> View:
    """Return a line per item and a cell per host, in tables of few hosts."""
    by_cell: dict[tuple[str, str], list[Verdict]] = {}
    for finding in findings:
        by_cell.setdefault((finding.item, finding.host), []).append(finding.verdict)
    judged = {item for item, _ in by_cell}
    items = [item for item in catalogue.items if item.id in judged]
    names = [host.name for host in run.hosts]
    parts = [
        {
            "hosts": some,
            "lines": [
                {
                    "citation": cite(item.id, language),
                    "cells": [
                        _matrix_cell(by_cell.get((item.id, host), []), language) for host in some
                    ],
                }
                for item in items
            ],
        }
        for some in (names[at : at + _ACROSS] for at in range(0, len(names), _ACROSS))
    ]
    return {"parts": parts if items else []}


def _matrix_cell(verdicts: list[Verdict], language: str) -> View:
    if not verdicts:
        return {"kind": "quiet", "title": "", "text": "-"}
    bad = worst(verdicts)
    word = VERDICT_WORDS[bad][language]
    counted = [verdict for verdict in verdicts if verdict is not Verdict.NOT_APPLICABLE]
    good = counted.count(Verdict.PASS)
    return {
        "kind": bad.value,
        "title": word,
        "text": f"{good}/{len(counted)}" if counted else word,
    }


def _breaches(findings: Iterable[Finding], language: str) -> list[View]:
    return [
        {
            "verdict": finding.verdict,
            "check": finding.check,
            "citation": cite(finding.item, language),
            "hosts": ", ".join(hosts),
            "title": finding.title[language],
            "expected": expected_in(finding.expected, language),
            "where": where_in(finding.where, language),
            "observed": observed_in(finding.observed, language),
            "remedy": f"ansible-playbook playbooks/site.yml --tags {finding.remedy}",
            "by_hand": [line for line in lines_of(finding.by_hand) if line.strip()],
        }
        for finding, hosts in group(findings, Verdict.FAIL)
    ]


def where_in(where: str, language: str) -> str:
    """Return on which side a finding looked, disk and run time, in a language."""
    sides = {"disk": WORDS["on_disk"], "runtime": WORDS["at_run_time"]}
    joint = "・" if language == "ja" else ", "
    return joint.join(_word(sides, side, language) for side in where.split("+"))


def _unknown(findings: Iterable[Finding], language: str) -> list[View]:
    return [
        {"reason": reason_in(reason, language), "hosts": ", ".join(hosts), "checks": checks}
        for reason, hosts, checks in unknown_by_reason(findings)
    ]


def _host(host: HostRecord, language: str) -> View:
    return {
        "name": host.name,
        "role": _word(ROLE_WORDS, host.role, language) if host.role is not None else "-",
        "reason": "" if host.reason is None else reason_in(host.reason, language) or "-",
        "signed": host.signed,
        "fingerprint": host.fingerprint or "-",
        "collector": host.collector or "-",
        "seconds": f"{host.milliseconds / 1000:.2f}",
    }
