"""`sekisho exception` on the control side: ask for, approve and show a device exception."""

from __future__ import annotations

import json
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from sekisho.cli.exception_register import EXAMPLES, list_exceptions
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.orders.model import MAX_BYTES, Act, Order, write_time
from sekisho.orders.parse import parse_body, parse_order, render_order, signed_by
from sekisho.orders.sealing import seal

app = typer.Typer(
    help="One device, one machine, one window, three people. "
    "デバイスの例外: 一台のデバイス・一台の機械・期限・三人の署名。",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_Site = Annotated[Path, typer.Option("-i", "--inventory", help="The site's inventory.")]
_Key = Annotated[Path, typer.Option("--key", help="Your private approval key (PEM, P-384).")]
_By = Annotated[str, typer.Option("--by", help="Who you are in the site model.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Order = Annotated[Path, typer.Argument(help="The order's file.", show_default=False)]


@app.command(
    "request",
    epilog="Example:  sekisho exception request -i inventory/lab --machine core-1 "
    "--device stick.yml --direction in --hours 2 --reason 'calibration, ticket 12' --by baba "
    "--key baba-approval.key --out order.json",
)
def request(  # noqa: PLR0913 - the options of a command
    *,
    inventory: _Site,
    machine: Annotated[str, typer.Option(help="The machine it is for.")],
    device: Annotated[Path, typer.Option(help="The device, as one rule of a device list.")],
    direction: Annotated[str, typer.Option(help="in, out, or none (no disk).")],
    reason: Annotated[str, typer.Option(help="Why; people read it.")],
    by: _By,
    key: _Key,
    out: Annotated[Path, typer.Option(help="New file to write.")],
    start: Annotated[str, typer.Option(help="2026-11-25T05:00:00Z; default now.")] = "",
    hours: Annotated[float, typer.Option(help="How long, at most 8.")] = 1.0,
) -> int:
    """Ask for an exception: write the order and sign it as requester (例外の申請).

    Exit code: 0 written, 3 usage or configuration.
    """
    site = _site(inventory)
    now = datetime.now(UTC).replace(microsecond=0)
    begin = now if not start else datetime.fromisoformat(start)
    body = {
        "schema": 1,
        "kind": "device-exception",
        "id": f"{now:%Y%m%d}-{secrets.token_hex(8)}",
        "site": site.name,
        "host": machine,
        "requester": by,
        "reason": reason,
        "made": write_time(now),
        "start": write_time(begin.astimezone(UTC)),
        "end": write_time(begin.astimezone(UTC) + timedelta(seconds=round(hours * 3600))),
        "content": {"device": _rule(device), "direction": direction},
    }
    order = parse_body(body, "the request")
    if machine not in site.machines:
        raise SekishoError(f"the site has no machine {printable(machine, 60)}")
    _write(out, _sign(order, site, Act.REQUEST, by, key), fresh=True)
    sys.stdout.write(f"{order.id}: two approvers now sign {out}\n")
    return 0


@app.command(
    "approve",
    epilog="Example:  sekisho exception approve order.json -i inventory/lab --by chiba "
    "--key chiba-approval.key",
)
def approve(file: _Order, *, inventory: _Site, by: _By, key: _Key) -> int:
    """Show an order and put your approval under it (例外の承認).

    Exit code: 0 signed, 3 not an order you may approve.
    """
    site = _site(inventory)
    order = parse_order(read_bounded(file, MAX_BYTES), str(file))
    _show(order)
    _write(file, _sign(order, site, Act.APPROVE, by, key), fresh=False)
    return 0


@app.command(
    "show",
    epilog="Examples:  sekisho exception show order.json  ·  "
    "sekisho exception show order.json -i inventory/lab --json",
)
def show(
    file: _Order,
    *,
    inventory: Annotated[
        Path | None, typer.Option("-i", "--inventory", help="Judge it by this site.")
    ] = None,
    as_json: _Json = False,
) -> int:
    """Show an order; with a site, say whether it would hold on its machine now (承認書の表示).

    Exit code: 0 shown (and holds), 1 it does not hold, 3 not an order.
    """
    from sekisho.orders.judge import problems_of  # noqa: PLC0415 - control side

    order = parse_order(read_bounded(file, MAX_BYTES), str(file))
    wrong: list[Problem] = []
    if inventory is not None:
        site, now = _site(inventory), datetime.now(UTC)
        wrong = problems_of(
            order, _signers(site), site=site.name, host=order.host, now=now, where=str(file)
        )
    if as_json:
        judged = (
            {"holds": not wrong, "problems": [one.line() for one in wrong]} if inventory else {}
        )
        _print({"order": order.body, "approvers": list(order.approvers), **judged})
    else:
        _show(order)
        sys.stdout.writelines(f"  {one.line()}\n" for one in wrong)
    return 1 if wrong else 0


app.command("list", epilog=EXAMPLES)(list_exceptions)


# -- below ---------------------------------------------------------------------------------------


def _site(inventory: Path) -> Any:
    from sekisho.control.inventory.read import read_inventory  # noqa: PLC0415 - control side
    from sekisho.site.parse import parse_site  # noqa: PLC0415 - control side

    return parse_site(read_inventory(inventory))


def _signers(site: Any) -> Any:
    from sekisho.compile.policy import approvers  # noqa: PLC0415 - control side
    from sekisho.orders.judge import signers  # noqa: PLC0415 - control side

    return signers(approvers(site))


def _rule(path: Path) -> dict[str, Any]:
    """Return the one rule of a file, JSON or YAML, alone or as a list of one."""
    from sekisho.devices.policy_file import parse_values  # noqa: PLC0415 - control side

    value = parse_values(read_bounded(path, MAX_BYTES), str(path))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise SekishoError(f"{path} holds no device: expected one rule as in a device list")
    return value


def _sign(order: Order, site: Any, act: Act, by: str, key: Path) -> Order:
    """Return the order signed, once it is certain that this signature can count."""
    from sekisho.local.journal_files import read_private_key  # noqa: PLC0415 - control side
    from sekisho.orders.judge import signature_problems  # noqa: PLC0415 - control side

    signed = signed_by(order, seal(read_private_key(key), act, by, order))
    wrong = signature_problems(signed, _signers(site), by, str(key))
    if wrong:
        raise SekishoError("it is not signed", tuple(wrong))
    return parse_order(render_order(signed), "the signed order")


def _write(path: Path, order: Order, *, fresh: bool) -> None:
    if fresh and path.exists():
        raise SekishoError(f"{path} is there already; a request overwrites nothing")
    write_atomic(path, render_order(order), 0o644)


def _show(order: Order) -> None:
    device = order.content.get("device", {})
    rows = {
        "order": f"{order.id} ({order.kind}), {order.site}, {order.host}",
        "reason": order.reason,
        "window": f"{write_time(order.start)} - {write_time(order.end)}",
        "requester": order.requester,
        "approvers": ", ".join(order.approvers) or "nobody yet",
        "device": " ".join(f"{key}={value}" for key, value in device.items()),
        "direction": order.content.get("direction", ""),
    }
    sys.stdout.writelines(
        f"{key:<10} {printable(value, 400)}\n" for key, value in rows.items() if value
    )


def _print(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
