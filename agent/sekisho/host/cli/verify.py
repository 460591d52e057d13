"""`sekisho verify PATH` on a machine: a journal. Evidence bundles are the control side's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sekisho.cli.verify_journal import verify_journal

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(
    epilog="Example:  sekisho verify /var/lib/sekisho/journal --key host.pub.pem --head head.json"
)
def verify(
    path: Annotated[Path, typer.Argument(help="Folder of a journal.")],
    *,
    key: Annotated[Path, typer.Option(help="Public key or certificate of the journal's host.")],
    head: Annotated[
        Path | None, typer.Option(help="A signed head of it that was kept elsewhere.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Check a journal, offline; it is whole only with a head kept elsewhere.

    An evidence bundle is checked on the control side (package sekisho). Exit code: 0 whole,
    1 changed, 2 could not tell, 3 usage.
    """
    return verify_journal(path, key, head, json_)
