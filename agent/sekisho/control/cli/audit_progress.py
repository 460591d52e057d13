"""How far a site's audit is, on standard error; the table itself goes to standard output."""

from __future__ import annotations

from typing import Any, Self

from rich import progress

from sekisho.cli.output import console
from sekisho.control.ssh.audit import Reply
from sekisho.core.errors import printable


class Progress:
    """One bar for the whole site; silent where nobody looks."""

    def __init__(self, *, show: bool, color: bool) -> None:
        self._bar: Any = None
        self._task: Any = None
        if show:
            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("{task.fields[last]}", markup=False),
                console=console(color=color, stderr=True),
                transient=True,
            )

    def begin(self, total: int) -> None:
        """Say how many hosts there are."""
        if self._bar is not None:
            self._task = self._bar.add_task("asking hosts", total=total, last="")

    def done(self, reply: Reply) -> None:
        """Say that one host is done."""
        if self._bar is not None:
            told = "answered" if reply.reason is None else printable(reply.reason, 60)
            self._bar.update(self._task, advance=1, last=f"{reply.target.name}: {told}")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
