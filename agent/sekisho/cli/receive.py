"""`sekisho receive`, as the command finds it; the work is in `sekisho.cli.transfer`."""

from __future__ import annotations

import typer

from sekisho.cli.transfer import receive

app = typer.Typer(add_completion=False)
app.command()(receive)
