"""The register of device exceptions, as both sides list it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from sekisho.core.errors import printable
from sekisho.local.journal_files import segments
from sekisho.orders.register import register

EXAMPLES = (
    "Examples:  sudo sekisho exception list  ·  sekisho exception list --journal copy/ --json"
)
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_exceptions(
    *,
    journal: Annotated[
        Path, typer.Option(help="The journal's folder; every copy of one will do.")
    ] = Path("/var/lib/sekisho/journal"),
    as_json: _Json = False,
) -> int:
    """List the register of exceptions, from the journal: who, what, when, which files (例外の一覧).

    Exit code: 0 listed, 2 part of the journal cannot be read, 3 no journal.
    """
    found = register(line for segment in segments(journal) for line in segment.lines)
    if as_json:
        value = {"unreadable": found.unreadable, "exceptions": list(found.rows.values())}
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
    else:
        for row in found.rows.values():
            device = row.get("device") or {}
            who = f"{row.get('requester', '?')} · {', '.join(row.get('approvers', []))}"
            sys.stdout.write(
                f"{row['order']}  {row['state']:<7} {row.get('opened', '-')} - "
                f"{row.get('closed', '-')}  {who}  {device.get('name', '?')} "
                f"{row.get('direction', '?')}  {len(row['files'])} files  {row.get('why', '')}\n"
            )
            for file in row["files"]:
                name = printable(file.get("name", ""), 200)
                sys.stdout.write(f"    {file.get('sha256')}  {file.get('size'):>12}  {name}\n")
    if found.unreadable:
        sys.stderr.write(f"{found.unreadable} lines cannot be read; `sekisho verify` says where\n")
    return 2 if found.unreadable else 0
