"""The Article 6 table in a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sekisho.catalogue.edition import EDITION_NOTE
from sekisho.catalogue.model import SEVERITY, Catalogue, Finding, Verdict
from sekisho.core.errors import printable
from sekisho.core.languages import cite
from sekisho.core.text import lines_of
from sekisho.evidence.japanese import expected_in, observed_in, reason_in
from sekisho.evidence.page import left_out_lines, where_in
from sekisho.evidence.report import AuditRun, Judged, left_out_of
from sekisho.evidence.summary import KINDS, Row, group, unknown_by_reason
from sekisho.evidence.words import KIND_WORDS, MISSING_WORDS, VERDICT_WORDS, WORDS

_STYLE = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.ERROR: "yellow",
    Verdict.NOT_APPLICABLE: "dim",
    Verdict.WAIVED: "cyan",
}


def print_report(  # noqa: PLR0913 - a report has these inputs
    screen: Console,
    catalogue: Catalogue,
    run: AuditRun,
    judged: Judged,
    language: str = "en",
    *,
    quiet: bool = False,
) -> None:
    """Print head, table by item, what is off with its remedy, and the counts, in one language."""
    say = _WORDS[language]
    screen.print(_head(catalogue, run, judged, language))
    screen.print(_table(judged.rows, language))
    for line in run.site_problems:
        screen.print(Text(f"{say['model']}: {line}", style="bold red"))
    for host in run.hosts:
        if host.reason is not None:
            reason = printable(reason_in(host.reason, language), 300)
            screen.print(Text(f"{host.name}: {reason}", style="yellow"))
    if not quiet:
        _print_failing(screen, judged.findings, language)
        _print_unknown(screen, judged.findings, language)
    screen.print(_counts(judged, language))
    _say(screen, Text(EDITION_NOTE[language], style="dim"))


#: The words of the table, by language; the others are the report's.
_WORDS = {
    "en": {
        "model": "site model",
        "of_machine": "Article 6 gap table of {}",
        "of_site": "Article 6 gap table of site {}",
        "answered": "{} of {} hosts answered, slowest {:.2f} s; {} checks; catalogue {}; {}",
        "left_out": "Left out: {}",
        "no_policy": "No site policy: what depends on the site cannot be told.",
        "good": "{} of {} pass",
        "breaches": "Breaches and their remedies",
        "expected": "  expected  {} ({})",
        "observed": "  observed  {}",
        "remedy": "  remedy    {}",
        "by_hand": "  by hand   {}",
        "unknown": "Could not tell",
        "exit": "Exit code {}.",
    },
    "ja": {
        "model": "サイト定義",
        "of_machine": "第六条 適合状況（機械：{}）",
        "of_site": "第六条 適合状況（サイト：{}）",
        "answered": "{1}台中{0}台が応答、最長{2:.2f}秒、確認項目{3}件、カタログ{4}、{5}",
        "left_out": "除外：{}",
        "no_policy": "サイトの方針がない：サイトの定めによる項目は判定できない。",
        "good": "{1}件中{0}件 適合",
        "breaches": "不適合と是正",
        "expected": "  期待  {}（{}）",
        "observed": "  実際  {}",
        "remedy": "  是正  {}",
        "by_hand": "  手作業  {}",
        "unknown": "判定できなかったもの",
        "exit": "終了コード{}。",
    },
}


def _head(catalogue: Catalogue, run: AuditRun, judged: Judged, language: str) -> Text:
    say, hosts = _WORDS[language], run.hosts
    local = run.mode == "local" and bool(hosts)
    title = say["of_machine"].format(hosts[0].name) if local else say["of_site"].format(run.site)
    answered = sum(1 for host in hosts if host.reason is None)
    slowest = max((host.milliseconds for host in hosts), default=0) / 1000
    text = Text(title, style="bold")
    told = (answered, len(hosts), slowest, len(catalogue.checks), catalogue.digest[:16])
    text.append("\n" + say["answered"].format(*told, run.finished), style="dim")
    for line in left_out_lines(run, left_out_of(catalogue, run, judged), language, named=4):
        if line.left:
            shown = f"{line.name} {line.left}"
            text.append("\n" + say["left_out"].format(shown), style="yellow")
    if all(host.policy is None for host in hosts):
        text.append("\n" + say["no_policy"], style="yellow")
    return text


def _word(verdict: Verdict, language: str) -> Text:
    return Text(VERDICT_WORDS[verdict][language], style=_STYLE[verdict])


def _cell(row: Row, kind: str, language: str) -> Text:
    if kind not in row.kinds:
        return Text("-", style="dim")
    if kind in row.missing:
        return Text(MISSING_WORDS[kind][language], style="yellow")
    good, total = row.counts.get(Verdict.PASS, 0), sum(row.counts.values())
    off = "".join(
        f"\n{row.counts[held]} {VERDICT_WORDS[held][language]}"
        for held in (Verdict.FAIL, Verdict.ERROR)
        if row.counts.get(held)
    )
    shown = _WORDS[language]["good"].format(good, total)
    return Text(f"{shown}{off}", style=_STYLE[row.kinds[kind]])


def _table(rows: Iterable[Row], language: str) -> Table:
    table = Table(expand=True, header_style="bold", row_styles=["", ""])
    table.add_column(WORDS["item"][language], no_wrap=True)
    table.add_column(WORDS["asks"][language], ratio=1, overflow="fold")
    table.add_column(WORDS["verdict"][language], no_wrap=True)
    for kind in KINDS:
        table.add_column(KIND_WORDS[kind][language].capitalize())
    for row in rows:
        table.add_row(
            cite(row.item.id, language),
            row.item.title[language],
            _word(row.verdict, language),
            *(_cell(row, kind, language) for kind in KINDS),
        )
    return table


def _print_failing(screen: Console, findings: Iterable[Finding], language: str) -> None:
    failing, say = group(findings, Verdict.FAIL), _WORDS[language]
    if not failing:
        return
    screen.print(Text("\n" + say["breaches"], style="bold red"))
    for finding, hosts in failing:
        line = Text(f"{finding.check}", style="bold red")
        line.append(f"  {', '.join(hosts)}", style="bold")
        line.append(f"  {finding.title[language]}", style="")
        _say(screen, line)
        expected = expected_in(finding.expected, language)
        _say(
            screen,
            Text(say["expected"].format(expected, where_in(finding.where, language)), style="dim"),
        )
        _say(screen, Text(say["observed"].format(observed_in(finding.observed, language))))
        remedy = f"ansible-playbook playbooks/site.yml --tags {finding.remedy}"
        _say(screen, Text(say["remedy"].format(remedy)))
        first, *more = lines_of(finding.by_hand)
        _say(screen, Text(say["by_hand"].format(printable(first, 400)), style="cyan"))
        for command in more:
            _say(screen, Text(f"            {printable(command, 400)}", style="cyan"))


def _say(screen: Console, text: Text) -> None:
    # Not wrapped by us: a command must be copied as it stands.
    screen.print(text, soft_wrap=True)


def _print_unknown(screen: Console, findings: Iterable[Finding], language: str) -> None:
    reasons = unknown_by_reason(findings)
    if not reasons:
        return
    screen.print(Text("\n" + _WORDS[language]["unknown"], style="bold yellow"))
    for reason, hosts, checks in reasons:
        _say(screen, Text(f"{', '.join(hosts)}: {reason_in(reason, language)}", style="yellow"))
        _say(screen, Text(f"  {', '.join(checks)}", style="dim"))


def _counts(judged: Judged, language: str) -> Text:
    text = Text("\n")
    for key, verdicts in (
        ("all_items", [row.verdict for row in judged.rows]),
        ("findings", [finding.verdict for finding in judged.findings]),
    ):
        text.append(f"{WORDS[key][language]} {len(verdicts)}: ", style="bold")
        parts = [
            (f"{verdicts.count(verdict)} {VERDICT_WORDS[verdict][language]}", _STYLE[verdict])
            for verdict in sorted(SEVERITY, key=lambda verdict: SEVERITY[verdict])
            if verdicts.count(verdict)
        ]
        for index, (part, style) in enumerate(parts):
            text.append(part, style=style)
            text.append(", " if index < len(parts) - 1 else ". ")
    text.append(_WORDS[language]["exit"].format(judged.exit_code), style="dim")
    return text
