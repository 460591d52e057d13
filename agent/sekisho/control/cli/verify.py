"""`sekisho verify PATH`: an evidence bundle or a journal, told apart by what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sekisho.core.errors import Problem, SekishoError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def verify(  # noqa: PLR0913 - the options of a command
    path: Annotated[Path, typer.Argument(help="Folder of an evidence bundle or of a journal.")],
    *,
    key: Annotated[
        Path | None,
        typer.Option(help="Public key: of the bundle's signer, or of the journal's host."),
    ] = None,
    head: Annotated[
        Path | None, typer.Option(help="A journal's signed head that was kept elsewhere.")
    ] = None,
    catalogue: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256",
            help="Accept a bundle judged by this catalogue although it is not this tool's own "
            "(its digest, 32 digits or more, from whoever published it).",
        ),
    ] = None,
    host_keys: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the hosts' public keys (HOST.pub.pem, such as INVENTORY/pki/hosts): "
            "every host's facts must be signed by its own."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a bundle's report, as evaluated again here, to this new file."),
    ] = None,
    lang: Annotated[
        str | None, typer.Option(help="With --report: the language it shows first, ja or en.")
    ] = None,
    law_text: Annotated[
        Path | None,
        typer.Option(
            help="With --report: a file with the official text of the items, to stand beside the "
            "readings (docs/audit.md says its form)."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Check an evidence bundle or a journal, offline.

    A bundle is whole only when the key given signed it; a journal only with a head kept elsewhere.
    Exit code: 0 whole, 1 changed, 2 could not tell, 3 usage.
    """
    from sekisho.control.cli.audit import language_told  # noqa: PLC0415 - one of two
    from sekisho.control.cli.verify_bundle import Wish, is_bundle, verify_bundle  # noqa: PLC0415

    if is_bundle(path):
        if head is not None:
            raise SekishoError("--head is a journal's, and this is an evidence bundle")
        if report is None and (lang is not None or law_text is not None):
            raise SekishoError("--lang and --law-text are for --report FILE")
        wish = None if report is None else Wish(report, language_told(lang), law_text)
        return verify_bundle(
            path, key, json=json_, accept=catalogue, host_keys=host_keys, wish=wish
        )
    from sekisho.cli.verify_journal import verify_journal  # noqa: PLC0415

    only = (catalogue, host_keys, report, lang, law_text)
    if any(option is not None for option in only):
        raise SekishoError(
            "--catalogue, --host-keys, --report, --lang and --law-text are for evidence bundles; "
            "this is none"
        )
    if key is None:
        raise SekishoError(
            "this is no evidence bundle, and a journal needs its host's key",
            (Problem(str(path), "--key", "nothing", "the host's public key or certificate"),),
        )
    return verify_journal(path, key, head, json_)
