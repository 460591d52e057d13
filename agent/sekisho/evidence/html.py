"""The report for people: one HTML file with everything in it, English and Japanese. Pure.

No script, no outside address, nothing that is not escaped: what a hostile host said can only be
read, never run. The same audit always gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from sekisho.catalogue.model import SEVERITY, Catalogue, Finding, Verdict
from sekisho.core.errors import printable
from sekisho.evidence.report import AuditRun, HostRecord, Judged, left_out_of
from sekisho.evidence.scope import LeftOut
from sekisho.evidence.style import CSS
from sekisho.evidence.summary import KINDS, Row, group, unknown_by_reason, worst
from sekisho.evidence.words import (
    CAVEATS,
    HEADINGS,
    KIND_NOTES,
    KIND_WORDS,
    LAW_TEXT,
    MISSING_WORDS,
    MODE_NOTES,
    NO,
    UNLISTED_NOTE,
    VERDICT_WORDS,
    YES,
)

_LEFT_NAMED = 40  # hosts, items or checks in one line of the first page
_ORDER = sorted(SEVERITY, key=lambda verdict: SEVERITY[verdict])


def render(catalogue: Catalogue, run: AuditRun, judged: Judged) -> str:
    """Return the whole page."""
    title = f"Article 6 · {run.site or 'local'} · {run.finished}"
    body = "".join(
        (
            _head(catalogue, run, judged),
            _summary(judged),
            _site_problems(run),
            _law(run),
            _items(judged.rows),
            _matrix(catalogue, run, judged.findings),
            _breaches(judged.findings),
            _unknown(judged.findings),
            _gaps(judged.rows),
            _hosts(run),
            _method(),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{_t(title)}</title><style>{CSS}</style></head><body>{body}</body></html>\n"
    )


def _t(text: object, limit: int = 2000) -> str:
    return escape(printable(str(text), limit), quote=True)


def _lines(text: str) -> str:
    return "<br>".join(f"<code>{_t(line)}</code>" for line in text.splitlines() if line.strip())


def _both(words: Mapping[str, str]) -> str:
    return f'{_t(words["en"])} <span lang="ja" class="ja">{_t(words["ja"])}</span>'


def _h(key: str, level: int = 2) -> str:
    return f'<h{level} id="{key}">{_both(HEADINGS[key])}</h{level}>'


def _badge(verdict: Verdict, *, short: bool = False) -> str:
    words = VERDICT_WORDS[verdict]
    ja = "" if short else f' <span lang="ja">{_t(words["ja"])}</span>'
    return f'<span class="v {verdict.value}">{_t(words["en"])}{ja}</span>'


def _head(catalogue: Catalogue, run: AuditRun, judged: Judged) -> str:
    answered = sum(1 for host in run.hosts if host.reason is None)
    what = run.site if run.mode != "local" else (run.hosts[0].name if run.hosts else "")
    facts = (
        (HEADINGS["site"], _t(what or "-")),
        (HEADINGS["profile"], _t(run.profile or "not known / 不明")),
        (HEADINGS["time"], f"{_t(run.started)} - {_t(run.finished)}"),
        (HEADINGS["answered"], f"{answered} / {len(run.hosts)}"),
        (HEADINGS["signed"], f"{sum(host.signed for host in run.hosts)} / {len(run.hosts)}"),
        (HEADINGS["modes"], _t(", ".join(run.flow_modes) or "not known / 不明")),
        *([(HEADINGS["unlisted"], _t("; ".join(run.unlisted)))] if run.unlisted else []),
        (HEADINGS["tool"], _t(run.tool)),
        (HEADINGS["catalogue"], f"<code>{_t(catalogue.digest)}</code>"),
    )
    overall = worst(row.verdict for row in judged.rows)
    out = left_out_of(catalogue, run, judged)
    partial = f'<p class="partial">{_both(HEADINGS["partial"])}</p>' if out else ""
    return (
        f'<header><p class="brand">関所 Sekisho</p><h1>{_both(HEADINGS["title"])}</h1>'
        f'<p class="overall">{_badge(overall)}</p>{partial}<dl>'
        + "".join(f"<div><dt>{_both(name)}</dt><dd>{value}</dd></div>" for name, value in facts)
        + f"</dl>{_scope(run, out)}</header>"
    )


def _scope(run: AuditRun, out: LeftOut) -> str:
    """Return what there was to judge, what of it was judged, and what was left out."""
    scope = run.scope
    left = dict(out.lines(scope, _LEFT_NAMED))
    lines = [
        (HEADINGS[f"in_{what}"], _share(len(whole), len(missing), left.get(what)))
        for what, whole, missing in (
            ("hosts", scope.hosts, out.hosts),
            ("items", scope.items, out.items),
            ("checks", scope.checks, out.checks),
        )
    ]
    asked = _t(", ".join(run.kinds)) + _missing(left.get("evidence"))
    lines.append((HEADINGS["evidence"], asked))
    options = ", ".join(f"{name} {value}" for name, value in scope.options)
    lines.append((HEADINGS["options"], _t(options or "-")))
    return (
        f"{_h('scope')}<dl>"
        + "".join(f"<div><dt>{_both(name)}</dt><dd>{value}</dd></div>" for name, value in lines)
        + "</dl>"
    )


def _share(whole: int, missing: int, left: str | None) -> str:
    if not whole:
        return _both(HEADINGS["no_scope"])
    return f"{whole - missing} / {whole}{_missing(left)}"


def _missing(left: str | None) -> str:
    return f' · <b class="none">{_both(HEADINGS["left_out"])}</b> {_t(left)}' if left else ""


def _tally(verdicts: list[Verdict]) -> str:
    return "".join(
        f'<span class="tally">{_badge(verdict)} <b>{verdicts.count(verdict)}</b></span>'
        for verdict in _ORDER
        if verdicts.count(verdict)
    )


def _summary(judged: Judged) -> str:
    items = [row.verdict for row in judged.rows]
    findings = [finding.verdict for finding in judged.findings]
    return (
        f"<section>{_h('summary')}"
        f"<p><b>{_both(HEADINGS['items'])}</b> {len(items)}: {_tally(items)}</p>"
        f"<p><b>{_both(HEADINGS['findings'])}</b> {len(findings)}: {_tally(findings)}</p>"
        "</section>"
    )


def _site_problems(run: AuditRun) -> str:
    if not run.site_problems:
        return ""
    lines = "".join(f"<li>{_t(line)}</li>" for line in run.site_problems)
    return f"<section>{_h('site_problems')}<ul>{lines}</ul></section>"


def _law(run: AuditRun) -> str:
    notes = [LAW_TEXT, *CAVEATS, *(MODE_NOTES[m] for m in run.flow_modes if m in MODE_NOTES)]
    notes += [UNLISTED_NOTE] if run.unlisted else []
    return (
        f"<section>{_h('read')}<ul>"
        + "".join(
            f'<li>{_t(note["en"])}<br><span lang="ja" class="ja">{_t(note["ja"])}</span></li>'
            for note in notes
        )
        + "</ul></section>"
    )


def _items(rows: Iterable[Row]) -> str:
    head = "".join(f'<th scope="col">{_both(KIND_WORDS[kind])}</th>' for kind in KINDS)
    lines = []
    for row in rows:
        cells = "".join(f"<td>{_kind_cell(row, kind)}</td>" for kind in KINDS)
        lines.append(
            f'<tr id="item-{_t(row.item.id)}"><th scope="row">{_t(row.item.citation)}</th>'
            f"<td><b>{_t(row.item.title['en'])}</b><br>"
            f'<span lang="ja" class="ja">{_t(row.item.title["ja"])}</span></td>'
            f"<td>{_badge(row.verdict)}</td>{cells}</tr>"
        )
    return (
        f"<section>{_h('table')}<table><thead><tr>"
        f'<th scope="col">{_both(HEADINGS["item"])}</th>'
        f'<th scope="col">{_both(HEADINGS["asks"])}</th>'
        f'<th scope="col">{_both(HEADINGS["verdict"])}</th>{head}</tr></thead><tbody>'
        + "".join(lines)
        + "</tbody></table></section>"
    )


def _kind_cell(row: Row, kind: str) -> str:
    if kind not in row.kinds:
        return '<span class="quiet" title="not asked for">-</span>'
    if kind in row.missing:
        return f'<span class="none">{_both(MISSING_WORDS[kind])}</span>'
    return " ".join(
        f'<span class="tally">{_badge(verdict, short=True)} {row.counts[verdict]}</span>'
        for verdict in _ORDER
        if row.counts.get(verdict)
    )


def _matrix(catalogue: Catalogue, run: AuditRun, findings: Iterable[Finding]) -> str:
    by_cell: dict[tuple[str, str], list[Verdict]] = {}
    for finding in findings:
        by_cell.setdefault((finding.item, finding.host), []).append(finding.verdict)
    items = [item for item in catalogue.items if any(key[0] == item.id for key in by_cell)]
    if not items:
        return ""
    head = "".join(f'<th scope="col">{_t(host.name)}</th>' for host in run.hosts)
    lines = [
        f'<tr><th scope="row">{_t(item.citation)}</th>'
        + "".join(_matrix_cell(by_cell.get((item.id, host.name), [])) for host in run.hosts)
        + "</tr>"
        for item in items
    ]
    return (
        f"<section>{_h('matrix')}<p class='ja'>{_both(HEADINGS['matrix_note'])}</p>"
        f'<div class="wide"><table class="matrix"><thead><tr><td></td>{head}</tr></thead><tbody>'
        + "".join(lines)
        + "</tbody></table></div></section>"
    )


def _matrix_cell(verdicts: list[Verdict]) -> str:
    if not verdicts:
        return '<td class="quiet">-</td>'
    bad = worst(verdicts)
    counted = [verdict for verdict in verdicts if verdict is not Verdict.NOT_APPLICABLE]
    good = counted.count(Verdict.PASS)
    label = f"{good}/{len(counted)}" if counted else VERDICT_WORDS[bad]["en"]
    return f'<td class="cell {bad.value}" title="{_t(VERDICT_WORDS[bad]["en"])}">{_t(label)}</td>'


def _breaches(findings: Iterable[Finding]) -> str:
    grouped = group(findings, Verdict.FAIL)
    if not grouped:
        return f"<section>{_h('breaches')}<p>{_both(HEADINGS['no_breach'])}</p></section>"
    return (
        f"<section>{_h('breaches')}"
        + "".join(
            f'<article class="finding"><h3>{_badge(Verdict.FAIL)} '
            f"<code>{_t(finding.check)}</code> · {_t(', '.join(hosts))}</h3>"
            f"<p>{_both(finding.title)}</p><dl>"
            f"<div><dt>{_both(HEADINGS['expected'])}</dt><dd><code>{_t(finding.expected)}</code> "
            f"({_t(finding.where)})</dd></div>"
            f"<div><dt>{_both(HEADINGS['observed'])}</dt>"
            f"<dd><code>{_t(finding.observed)}</code></dd></div>"
            f"<div><dt>{_both(HEADINGS['remedy'])}</dt>"
            f"<dd><code>ansible-playbook playbooks/site.yml --tags {_t(finding.remedy)}</code>"
            f"</dd></div><div><dt>{_both(HEADINGS['by_hand'])}</dt>"
            f"<dd>{_lines(finding.by_hand)}</dd></div></dl></article>"
            for finding, hosts in grouped
        )
        + "</section>"
    )


def _unknown(findings: Iterable[Finding]) -> str:
    reasons = unknown_by_reason(findings)
    if not reasons:
        return ""
    return (
        f"<section>{_h('unknown')}<table><thead><tr>"
        + "".join(
            f'<th scope="col">{_both(HEADINGS[key])}</th>' for key in ("reason", "host", "checks")
        )
        + "</tr></thead><tbody>"
        + "".join(
            f'<tr><td class="reason">{_t(reason)}</td><td>{_t(", ".join(hosts))}</td>'
            f'<td class="small">'
            + ", ".join(f"<code>{_t(name)}</code>" for name in checks)
            + "</td></tr>"
            for reason, hosts, checks in reasons
        )
        + "</tbody></table></section>"
    )


def _gaps(rows: Iterable[Row]) -> str:
    lines = [
        f'<tr><th scope="row">{_t(row.item.citation)}</th><td>{_t(row.item.status)}</td>'
        f"<td>{_t(row.item.reading['en'])}<br>"
        f'<span lang="ja" class="ja">{_t(row.item.reading["ja"])}</span></td><td><ul>'
        + "".join(f"<li>{_t(gap)}</li>" for gap in row.item.gaps)
        + "</ul></td></tr>"
        for row in rows
    ]
    return (
        f"<section>{_h('gaps')}<p>{_both(HEADINGS['gaps_note'])}</p><table><thead><tr>"
        + "".join(
            f'<th scope="col">{_both(HEADINGS[key])}</th>'
            for key in ("item", "status", "reading", "open")
        )
        + "</tr></thead><tbody>"
        + "".join(lines)
        + "</tbody></table></section>"
    )


def _hosts(run: AuditRun) -> str:
    return (
        f"<section>{_h('hosts')}<table><thead><tr>"
        + "".join(
            f'<th scope="col">{_both(HEADINGS[key])}</th>'
            for key in ("host", "role", "answer", "signed", "fingerprint", "collector", "took")
        )
        + "</tr></thead><tbody>"
        + "".join(_host_line(host) for host in run.hosts)
        + "</tbody></table></section>"
    )


def _host_line(host: HostRecord) -> str:
    role = host.policy.get("role", "-") if host.policy is not None else "-"
    answer = (
        _both(HEADINGS["whole"])
        if host.reason is None
        else f'<span class="none">{_t(host.reason)}</span>'
    )
    return (
        f'<tr><th scope="row">{_t(host.name)}</th><td>{_t(role)}</td><td>{answer}</td>'
        f"<td>{_both(YES if host.signed else NO)}</td>"
        f"<td><code>{_t(host.fingerprint or '-')}</code></td><td>{_t(host.collector or '-')}</td>"
        f"<td>{host.milliseconds / 1000:.2f} s</td></tr>"
    )


def _method() -> str:
    kinds = "".join(
        f"<div><dt>{_both(KIND_WORDS[kind])}</dt><dd>{_both(KIND_NOTES[kind])}</dd></div>"
        for kind in KINDS
    )
    return (
        f"<section>{_h('method')}<dl>{kinds}</dl>"
        f"<p>{_both(HEADINGS['again'])} <code>sekisho verify BUNDLE --key SIGNER.pub.pem</code></p>"
        "</section>"
    )
