"""`sekisho pki` on a machine: its own keys for encrypted lines, and what is in use."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.names import HOST_NAME
from sekisho.network.networkd import TUNNEL_KEY

app = typer.Typer(
    help="The certificates of encrypted lines: one small authority, the site's own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(
    "request",
    epilog="Examples:  sekisho pki request gate-in > gate-in.csr.pem  ·  "
    "sekisho pki request hospital-a --key ./line.key.pem",
)
def request_(
    name: Annotated[str, typer.Argument(help="This end's name in the site model.")],
    key: Annotated[Path, typer.Option(help="The private key; made where there is none.")] = Path(
        "/etc/swanctl/private/line.key.pem"
    ),
    check: Annotated[bool, typer.Option("--check", help="Write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make this machine's key for encrypted lines, here; print a request for its certificate."""
    from sekisho.host.line_request import request  # noqa: PLC0415 - slow to import

    if not HOST_NAME.fullmatch(name):
        problem = Problem("NAME", "", printable(name, 60), "a name as the site model writes it")
        raise SekishoError("no such name", (problem,))
    found = request(key, name=name, check=check)
    sys.stdout.write(
        json.dumps(found, sort_keys=True) + "\n" if as_json else str(found.get("csr", ""))
    )


@app.command(
    "wireguard",
    epilog="Examples:  sekisho pki wireguard gate-in  ·  sekisho pki wireguard gate-in --json",
)
def wireguard(
    name: Annotated[str, typer.Argument(help="This machine's name in the site model.")],
    key: Annotated[Path, typer.Option(help="The private key; made where there is none.")] = Path(
        TUNNEL_KEY
    ),
    check: Annotated[bool, typer.Option("--check", help="Write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make this machine's key for WireGuard lines, here; print its public half for the peers."""
    from sekisho.host.line_request import tunnel_key  # noqa: PLC0415 - slow to import

    found = tunnel_key(key, name=name, check=check)
    sys.stdout.write(
        json.dumps(found, sort_keys=True) + "\n" if as_json else f"{found.get('public', '')}\n"
    )


@app.command("apply", epilog="Example:  sekisho pki apply")
def apply(as_json: Json = False) -> None:
    """On a machine with lines: have strongSwan read its files again; cut off who is revoked."""
    from sekisho.host.swanctl import Swanctl  # noqa: PLC0415 - slow to import

    cut = Swanctl().apply()
    if as_json:
        sys.stdout.write(json.dumps({"cut": cut}, ensure_ascii=False, indent=2) + "\n")
    elif cut:
        sys.stdout.write(f"cut off: {', '.join(cut)}\n")
