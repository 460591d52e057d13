"""`sekisho pki`: the certificates of encrypted lines, from the request to the revocation."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sekisho.core.errors import Problem, SekishoError

if TYPE_CHECKING:
    from sekisho.control.pki.lines import LinePki

app = typer.Typer(
    help="The certificates of encrypted lines: one small authority, the site's own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Inventory = Annotated[Path, typer.Argument(help="The inventory's directory.", show_default=False)]
Name = Annotated[
    str, typer.Argument(help="A machine or a peer on an encrypted link.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Days = Annotated[int, typer.Option(min=1, max=825, help="Days it is good for.")]
#: States of `sekisho pki list` that somebody has to act on.
WRONG = frozenset({"missing", "ends soon", "names changed"})


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _lines(inventory: Path) -> LinePki:
    from sekisho.control.inventory.read import read_inventory  # noqa: PLC0415 - slow to import
    from sekisho.control.pki.authority import Pki  # noqa: PLC0415 - slow to import
    from sekisho.control.pki.lines import LinePki  # noqa: PLC0415 - slow to import
    from sekisho.site.parse import parse_site  # noqa: PLC0415 - slow to import
    from sekisho.site.rules.invariants import check  # noqa: PLC0415 - slow to import

    site = parse_site(read_inventory(inventory))
    problems = check(site, now=_now().date())
    if problems:
        raise SekishoError(f"{inventory} is no sound site", tuple(problems))
    return LinePki(Pki(inventory), site)


def _print(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _request(file: Path | None) -> bytes:
    from sekisho.control.pki.certificates import MAX_REQUEST  # noqa: PLC0415 - slow to import

    if file is None:
        return sys.stdin.buffer.read(MAX_REQUEST + 1)
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_REQUEST + 1)
    except OSError as error:
        problem = Problem(str(file), "", str(error.strerror), "a request in PEM")
        raise SekishoError("the request cannot be read", (problem,)) from None


@app.command("init", epilog="Example:  sekisho pki init inventory/lab")
def init(inventory: Inventory, as_json: Json = False) -> None:
    """Make the site's authority where it is missing, and its list of revocations."""
    lines = _lines(inventory)
    made = lines.pki.make(lines.site.name, now=_now())
    lines.crl(now=_now())
    if as_json:
        _print({"made": made, "crl": str(lines.folder / "crl.pem")})
    else:
        sys.stdout.write(f"{lines.folder}: {', '.join(made) or 'every key'} is there\n")


@app.command(
    "issue",
    epilog="Examples:  sekisho pki issue inventory/lab gate-in < gate-in.csr.pem > line.crt.pem  ·"
    "  sekisho pki issue inventory/lab hospital-a --request hospital-a.csr.pem --days 365",
)
def issue(  # noqa: PLR0913, PLR0917 - a command has its options
    inventory: Inventory,
    name: Name,
    request: Annotated[
        Path | None, typer.Option(help="The request; default standard input.", show_default=False)
    ] = None,
    days: Days = 397,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take another key, and revoke the one in use.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign a request; what the certificate says comes from the site, whatever was wished for.

    The request must be signed by its own key and carry NAME. Compare its fingerprint with the other
    party over a second way before you sign for a peer.
    """
    lines = _lines(inventory)
    pem = lines.issue(name, _request(request), now=_now(), days=days, replace=replace)
    _out(pem, as_json=as_json)


@app.command("renew", epilog="Example:  sekisho pki renew inventory/lab hospital-a > line.crt.pem")
def renew(inventory: Inventory, name: Name, days: Days = 397, as_json: Json = False) -> None:
    """Certify the key that is in use again; the older certificate runs to its own end."""
    _out(_lines(inventory).renew(name, now=_now(), days=days), as_json=as_json)


def _out(pem: str, *, as_json: bool) -> None:
    from cryptography import x509  # noqa: PLC0415 - slow to import

    if not as_json:
        sys.stdout.write(pem)
        return
    held = x509.load_pem_x509_certificate(pem.encode())
    _print(
        {
            "serial": f"{held.serial_number:x}",
            "until": held.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "certificate": pem,
        }
    )


@app.command(
    "revoke",
    epilog="Examples:  sekisho pki revoke inventory/lab hospital-a --reason key-compromise  ·  "
    "then: ansible-playbook -i inventory/lab playbooks/site.yml --tags ipsec",
)
def revoke(
    inventory: Inventory,
    name: Name,
    reason: Annotated[
        str, typer.Option(help="key-compromise, superseded, cessation-of-operation, …")
    ],
    serial: Annotated[str, typer.Option(help="Only this one; default all of NAME's.")] = "",
    as_json: Json = False,
) -> None:
    """Revoke a name's certificates and write the list; the play carries it to the gateways."""
    done = _lines(inventory).revoke(name, serial=serial, reason=reason, now=_now())
    if as_json:
        _print({"revoked": done, "crl": str(inventory / "pki" / "crl.pem")})
    else:
        sys.stdout.write(
            f"revoked {', '.join(done)}; not in force before the gateways have the list:\n"
            f"  ansible-playbook -i {inventory} playbooks/site.yml --tags ipsec\n"
        )


@app.command("crl", epilog="Example:  sekisho pki crl inventory/lab > crl.pem")
def crl(inventory: Inventory) -> None:
    """Print the list of revocations (PEM), made anew when a third of its life is over."""
    sys.stdout.write(_lines(inventory).crl(now=_now()).decode("ascii"))


@app.command(
    "peer",
    epilog="Example:  sekisho pki peer inventory/lab hospital-a --out for-hospital-a",
)
def peer(
    inventory: Inventory,
    name: Annotated[str, typer.Argument(help="A peer on an encrypted link.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Where to write.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write what a peer needs at its end: strongSwan's files, a packet filter, our authority."""
    from sekisho.control.inventory.files import render_peer  # noqa: PLC0415 - slow to import

    lines = _lines(inventory)
    written = render_peer(lines, name, out, now=_now())
    if as_json:
        _print({"written": written})
    else:
        sys.stdout.write("".join(f"{path}\n" for path in written))


@app.command(
    "list",
    epilog="Examples:  sekisho pki list inventory/lab  ·  "
    "sekisho pki list inventory/lab --within 60 --json",
)
def list_(
    inventory: Inventory,
    within: Annotated[int, typer.Option(min=0, help="Days before the end that are soon.")] = 30,
    as_json: Json = False,
) -> int:
    """List certificates and who lacks one. Exit 1 when one is missing, ends soon or is misnamed."""
    found = _lines(inventory).listed(now=_now(), within=within)
    if as_json:
        _print(found)
    else:
        for entry in found:
            until = entry["until"] or "-"
            sys.stdout.write(
                f"{entry['name']:<20} {entry['role']:<10} {entry['state']:<14} {until:<21} "
                f"{','.join(entry['links']) or '-'}  {entry['serial']}{os.linesep}"
            )
    return 1 if any(entry["state"] in WRONG for entry in found) else 0
