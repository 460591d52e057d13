"""The Article 6 table in a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sekisho.catalogue.model import SEVERITY, Catalogue, Finding, Verdict
from sekisho.core.errors import printable
from sekisho.evidence.report import AuditRun, Judged, left_out_of
from sekisho.evidence.summary import KINDS, Row, group, unknown_by_reason
from sekisho.evidence.words import KIND_WORDS, LAW_TEXT, VERDICT_WORDS

_STYLE = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.ERROR: "yellow",
    Verdict.NOT_APPLICABLE: "dim",
    Verdict.WAIVED: "cyan",
}


def print_report(
    screen: Console, catalogue: Catalogue, run: AuditRun, judged: Judged, *, quiet: bool = False
) -> None:
    """Print head, table by item, what is off with its remedy, and the counts."""
    screen.print(_head(catalogue, run, judged))
    screen.print(_table(judged.rows))
    for line in run.site_problems:
        screen.print(Text(f"site model: {line}", style="bold red"))
    for host in run.hosts:
        if host.reason is not None:
            screen.print(Text(f"{host.name}: {printable(host.reason, 300)}", style="yellow"))
    if not quiet:
        _print_failing(screen, judged.findings)
        _print_unknown(screen, judged.findings)
    screen.print(_counts(judged))
    _say(screen, Text(f"{LAW_TEXT['en']}\n{LAW_TEXT['ja']}", style="dim"))


def _head(catalogue: Catalogue, run: AuditRun, judged: Judged) -> Text:
    hosts = run.hosts
    what = f"{hosts[0].name}" if run.mode == "local" and hosts else f"site {run.site}"
    answered = sum(1 for host in hosts if host.reason is None)
    slowest = max((host.milliseconds for host in hosts), default=0)
    text = Text(f"Article 6 gap table of {what} / 第6条 適合状況", style="bold")
    text.append(
        f"\n{answered} of {len(hosts)} hosts answered, slowest {slowest / 1000:.2f} s; "
        f"{len(catalogue.checks)} checks; catalogue {catalogue.digest[:16]}; {run.finished}",
        style="dim",
    )
    out = left_out_of(catalogue, run, judged)
    for what, told in out.lines(run.scope, 4):
        text.append(f"\nLeft out 除外: {what} {told}", style="yellow")
    if all(host.policy is None for host in hosts):
        text.append(
            "\nNo site policy: what depends on the site cannot be told. / "
            "サイトポリシー無し: サイトに依存する項目は判定不能",
            style="yellow",
        )
    return text


def _word(verdict: Verdict) -> Text:
    words = VERDICT_WORDS[verdict]
    return Text(f"{words['en']} {words['ja']}", style=_STYLE[verdict])


def _cell(row: Row, kind: str) -> Text:
    if kind not in row.kinds:
        return Text("-", style="dim")
    if kind in row.missing:
        return Text("none 無", style="yellow")
    verdict = row.kinds[kind]
    total = sum(row.counts.values())
    good = row.counts.get(Verdict.PASS, 0)
    off = "".join(
        f"\n{row.counts[held]} {word}"
        for held, word in ((Verdict.FAIL, "breach 不"), (Verdict.ERROR, "unknown ?"))
        if row.counts.get(held)
    )
    return Text(f"{good}/{total} pass{off}", style=_STYLE[verdict])


def _table(rows: Iterable[Row]) -> Table:
    table = Table(expand=True, header_style="bold", row_styles=["", ""])
    table.add_column("Item 項", no_wrap=True)
    table.add_column("What it asks for 内容", ratio=1, overflow="fold")
    table.add_column("Verdict 判定", no_wrap=True)
    for kind in KINDS:
        words = KIND_WORDS[kind]
        table.add_column(f"{words['en'].capitalize()}\n{words['ja']}", no_wrap=True)
    for row in rows:
        title = Text(row.item.title["en"])
        title.append(f"\n{row.item.title['ja']}", style="dim")
        table.add_row(
            row.item.citation, title, _word(row.verdict), *(_cell(row, kind) for kind in KINDS)
        )
    return table


def _print_failing(screen: Console, findings: Iterable[Finding]) -> None:
    failing = group(findings, Verdict.FAIL)
    if not failing:
        return
    screen.print(Text("\nBreaches and their remedies / 不適合と是正", style="bold red"))
    for finding, hosts in failing:
        line = Text(f"{finding.check}", style="bold red")
        line.append(f"  {', '.join(hosts)}", style="bold")
        line.append(f"  {finding.title['en']} / {finding.title['ja']}", style="")
        _say(screen, line)
        _say(screen, Text(f"  expected  {finding.expected} ({finding.where})", style="dim"))
        _say(screen, Text(f"  observed  {finding.observed}"))
        _say(
            screen, Text(f"  remedy    ansible-playbook playbooks/site.yml --tags {finding.remedy}")
        )
        first, *more = finding.by_hand.splitlines()
        _say(screen, Text(f"  by hand   {printable(first, 400)}", style="cyan"))
        for command in more:
            _say(screen, Text(f"            {printable(command, 400)}", style="cyan"))


def _say(screen: Console, text: Text) -> None:
    # Not wrapped by us: a command must be copied as it stands.
    screen.print(text, soft_wrap=True)


def _print_unknown(screen: Console, findings: Iterable[Finding]) -> None:
    reasons = unknown_by_reason(findings)
    if not reasons:
        return
    screen.print(Text("\nCould not tell / 判定不能", style="bold yellow"))
    for reason, hosts, checks in reasons:
        _say(screen, Text(f"{', '.join(hosts)}: {reason}", style="yellow"))
        _say(screen, Text(f"  {', '.join(checks)}", style="dim"))


def _counts(judged: Judged) -> Text:
    text = Text("\n")
    for label, verdicts in (
        ("Items 項目", [row.verdict for row in judged.rows]),
        ("Findings 所見", [finding.verdict for finding in judged.findings]),
    ):
        text.append(f"{label} {len(verdicts)}: ", style="bold")
        parts = [
            (f"{verdicts.count(verdict)} {VERDICT_WORDS[verdict]['en']}", _STYLE[verdict])
            for verdict in sorted(SEVERITY, key=lambda verdict: SEVERITY[verdict])
            if verdicts.count(verdict)
        ]
        for index, (part, style) in enumerate(parts):
            text.append(part, style=style)
            text.append(", " if index < len(parts) - 1 else ". ")
    text.append(f"Exit code {judged.exit_code}.", style="dim")
    return text
