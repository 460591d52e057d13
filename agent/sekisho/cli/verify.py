"""`sekisho verify PATH`: an evidence bundle or a journal, told apart by what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sekisho.errors import Problem, SekishoError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="Folder of an evidence bundle or of a journal.")],
    *,
    key: Annotated[
        Path | None,
        typer.Option(help="Public key: of the bundle's signer, or of the journal's host."),
    ] = None,
    head: Annotated[
        Path | None, typer.Option(help="A journal's signed head that was kept elsewhere.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Check an evidence bundle or a journal, offline.

    Exit code: 0 whole, 1 changed, 2 could not tell, 3 usage.
    """
    from sekisho.cli.verify_bundle import is_bundle, verify_bundle  # noqa: PLC0415 - one of two

    if is_bundle(path):
        return verify_bundle(path, key, json=json_)
    from sekisho.cli.verify_journal import verify_journal  # noqa: PLC0415

    if key is None:
        raise SekishoError(
            "this is no evidence bundle, and a journal needs its host's key",
            (Problem(str(path), "--key", "nothing", "the host's public key or certificate"),),
        )
    return verify_journal(path, key, head, json_)
