"""`sekisho devices modules` on the control side: ask for maintenance of a machine."""

from __future__ import annotations

import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from sekisho.core.errors import SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.orders.kinds import MAINTENANCE
from sekisho.orders.model import MAX_BYTES, Act, write_time
from sekisho.orders.parse import parse_body, render_order, signed_by
from sekisho.orders.sealing import seal

app = typer.Typer(
    help="Which kernel modules this machine needs, and whether it takes others. "
    "必要なカーネルモジュールの一覧と、追加読み込みの可否を示します。",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command(
    "request",
    epilog="Example:  sekisho devices modules request --site lab --machine core-1 --opens modules "
    "--hours 2 --reason 'new network card, ticket 12' --by aoki --key aoki-approval.key "
    "--out order.json; then two approvers: sekisho exception approve order.json",
)
def request(  # noqa: PLR0913 - the options of a command
    *,
    site: Annotated[str, typer.Option(help="The site's name.")],
    machine: Annotated[str, typer.Option(help="The machine it is for.")],
    reason: Annotated[str, typer.Option(help="Why; people read it.")],
    by: Annotated[str, typer.Option("--by", help="Who you are in the site model.")],
    key: Annotated[Path, typer.Option("--key", help="Your private approval key (PEM, P-384).")],
    out: Annotated[Path, typer.Option(help="New file to write.")],
    opens: Annotated[list[str] | None, typer.Option(help="Which wall; default modules.")] = None,
    start: Annotated[str, typer.Option(help="2026-11-25T05:00:00Z; default now.")] = "",
    hours: Annotated[float, typer.Option(help="How long, at most 24.")] = 2.0,
) -> int:
    """Ask for maintenance: write the order and sign it as requester (保守の申請).

    Exit code: 0 written, 3 usage or configuration.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import (  # noqa: PLC0415 - slow to import
        EllipticCurvePrivateKey,
    )
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - slow to import
        load_pem_private_key,
    )

    now = datetime.now(UTC).replace(microsecond=0)
    try:
        begin = datetime.fromisoformat(start).astimezone(UTC) if start else now
        secret = load_pem_private_key(read_bounded(key, MAX_BYTES), password=None)
    except (ValueError, TypeError) as bad:
        raise SekishoError(f"the request cannot be made: {printable(str(bad), 120)}") from None
    body = {
        "schema": 1,
        "kind": MAINTENANCE,
        "id": f"{now:%Y%m%d}-{secrets.token_hex(8)}",
        "site": site,
        "host": machine,
        "requester": by,
        "reason": reason,
        "made": write_time(now),
        "start": write_time(begin),
        "end": write_time(begin + timedelta(seconds=round(hours * 3600))),
        "content": {"opens": sorted(set(opens or ["modules"]))},
    }
    order = parse_body(body, "the request")
    if not isinstance(secret, EllipticCurvePrivateKey) or secret.curve.name != "secp384r1":
        raise SekishoError(f"{key} is another kind of key; expected ECDSA on P-384")
    if out.exists():
        raise SekishoError(f"{out} is there already; a request overwrites nothing")
    signed = signed_by(order, seal(secret, Act.REQUEST, by, order))
    write_atomic(out, render_order(signed), mode=0o644)
    sys.stdout.write(f"{order.id}: two approvers now sign {out} (sekisho exception approve)\n")
    return 0
