"""Devices and their verdicts in a terminal, in English and Japanese."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from sekisho.cli.output import console
from sekisho.core.errors import printable
from sekisho.devices.explain import REASONS_JA, Verdict


def print_verdicts(
    verdicts: Sequence[Verdict],
    working: Mapping[str, bool] | None = None,
    *,
    everything: bool = True,
) -> None:
    """Print one row a device and the counts.

    Args:
        verdicts: what to show.
        working: path → whether the kernel lets it work, where that is known.
        everything: False leaves out what is software; it is counted all the same.

    """
    screen = console(color=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    heads = ["verdict 判定", "device デバイス", "id", "class 種類", "rule 規則", "reason 理由"]
    if working is not None:
        heads.insert(1, "works 動作")
    for head in heads:
        table.add_column(head, overflow="fold")
    shown = [told for told in verdicts if everything or not told.software]
    for told in shown:
        row = _row(told)
        if working is not None:
            row.insert(1, Text("yes 動作中" if working[told.path] else "no 停止"))
        table.add_row(*row)
    if shown:
        screen.print(table)
    admitted = sum(told.decision.admit for told in verdicts)
    hidden = len(verdicts) - len(shown)
    screen.print(
        Text(
            f"{len(verdicts)} devices デバイス: {admitted} admitted 許可, "
            f"{len(verdicts) - admitted} denied 拒否"
            + (f" ({hidden} of software not shown, see --all)" if hidden else "")
        )
    )


def _row(told: Verdict) -> list[Text]:
    usb, decision = told.device, told.decision
    verdict = Text("admit 許可", "bold green") if decision.admit else Text("deny 拒否", "red")
    identity = f"{usb.vendor or '?'}:{usb.product or '?'}" if usb is not None else "-"
    title = f" {told.title}" if told.title else ""
    japanese = REASONS_JA.get(decision.code, "")
    return [
        verdict,
        Text(printable(told.name, 60) + title),
        Text(identity),
        Text(told.label),
        Text(decision.rule or f"deny:{decision.code}"),
        Text(f"{decision.reason} {japanese}{_behind(told)}"),
    ]


def _behind(told: Verdict) -> str:
    """Return a word on a device that is admitted, but hangs on one that is not."""
    if not told.upstream or not told.decision.admit:
        return ""
    return (
        f"; behind {printable(told.upstream, 40)}, which is refused 手前のデバイスを拒否しています"
    )
