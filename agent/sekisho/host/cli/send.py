"""`sekisho send`, as the command finds it; the work is in `sekisho.host.cli.transfer`."""

from __future__ import annotations

import typer

from sekisho.host.cli.transfer import send

app = typer.Typer(add_completion=False)
app.command()(send)
