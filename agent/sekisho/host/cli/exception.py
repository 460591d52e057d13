"""`sekisho exception`: ask for, approve, open, use and end a device exception; its register."""

from __future__ import annotations

import json
import os
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.host.policy_store import read_bounded, write_atomic
from sekisho.orders.model import MAX_BYTES, Act, Order, write_time
from sekisho.orders.parse import parse_body, parse_order, render_order, signed_by
from sekisho.orders.sealing import seal

app = typer.Typer(
    help="One device, one machine, one window, three people. "
    "機器の例外: 一台の機器・一台の機械・期限・三人の署名。",
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
    """Show an order; with a site, say whether it would hold on its machine now (命令書の表示).

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


@app.command("apply", epilog="Example:  sudo sekisho exception apply order.json")
def apply(file: _Order, *, as_json: _Json = False) -> int:
    """Open what an order allows, on this machine, now, until its end (例外の適用, root).

    Exit code: 0 opened, 2 opened but a device could not be let in, 3 refused: nothing is open.
    """
    from sekisho.host.devices import exception as service  # noqa: PLC0415 - on a machine

    _root()
    opened = service.apply(file)
    if as_json:
        _print(opened)
    else:
        sys.stdout.write(f"{opened['order']} is open until {opened['end']}\n")
        sys.stdout.writelines(f"  {line}\n" for line in opened["changes"])
    for line in opened["wrong"]:
        sys.stderr.write(f"  {line}\n")
    return 2 if opened["wrong"] else 0


@app.command("end", epilog="Example:  sudo sekisho exception end --why 'copied, stick handed back'")
def end(
    order: Annotated[str | None, typer.Argument(help="Which; default all.")] = None,
    *,
    why: Annotated[str, typer.Option(help="Why; it is journalled.")],
) -> int:
    """Close what is open, before its end (例外の終了, root).

    Exit code: 0 closed, 1 nothing was open, 3 it could not be shut.
    """
    from sekisho.host.devices import exception as service  # noqa: PLC0415 - on a machine

    _root()
    closed = service.end(f"ended by {_caller()}: {printable(why, 200)}", order)
    if not closed:
        sys.stderr.write("nothing is open\n")
    return 0 if closed else 1


@app.command(
    "copy",
    epilog="Examples:  sudo sekisho exception copy in . /srv/intake  ·  "
    "sudo sekisho exception copy out /srv/report.pdf .",
)
def copy(
    way: Annotated[str, typer.Argument(help="in or out, as the order says.")],
    source: Annotated[Path, typer.Argument(help="File or folder; on the disk for `in`.")],
    target: Annotated[Path, typer.Argument(help="Folder or new name; on the disk for `out`.")],
    *,
    as_json: _Json = False,
) -> int:
    """Copy files from or to the excepted disk, each one journalled (媒体との複写, root).

    Exit code: 0 copied, 3 refused or broken off: what is named has crossed, nothing else.
    """
    from sekisho.host.devices import exception_copy  # noqa: PLC0415 - on a machine
    from sekisho.host.devices.exception_state import RUN, read_open  # noqa: PLC0415 - on a machine
    from sekisho.host.journal.client import submit  # noqa: PLC0415 - on a machine

    _root()
    opened = read_open()
    if opened is None or not opened.exception.storage:
        raise SekishoError("no exception for a disk stands open")
    if way != opened.exception.direction:
        raise SekishoError(
            f"{opened.id} is for `{opened.exception.direction}`, not for `{printable(way, 20)}`"
        )
    write_atomic(RUN / "copy.pid", f"{os.getpid()}\n".encode())
    try:
        medium = exception_copy.mount(opened)
        place = source if way == "in" else target
        if place.is_absolute() or ".." in place.parts:
            raise SekishoError("name what is on the disk by its path there: DIR/FILE, or . for all")
        if way == "in":
            source = medium / place
        else:
            target = medium / place
        person = {"by": _caller()}
        for one in exception_copy.copy(
            opened, source, target, lambda kind, data: submit(kind, {**data, **person})
        ):
            row = {"name": one.name, "size": one.size, "sha256": one.sha256}
            sys.stdout.write(
                json.dumps(row, ensure_ascii=False) + "\n"
                if as_json
                else f"{one.sha256}  {one.size:>12}  {printable(one.name, 400)}\n"
            )
    except OSError as bad:
        raise SekishoError(f"nothing more is copied: {printable(str(bad), 300)}") from None
    finally:
        (RUN / "copy.pid").unlink(missing_ok=True)
    return 0


@app.command(
    "list",
    epilog="Examples:  sudo sekisho exception list  ·  "
    "sekisho exception list --journal copy/ --json",
)
def list_(
    *,
    journal: Annotated[
        Path, typer.Option(help="The journal's folder; every copy of one will do.")
    ] = Path("/var/lib/sekisho/journal"),
    as_json: _Json = False,
) -> int:
    """List the register of exceptions, from the journal: who, what, when, which files (例外簿).

    Exit code: 0 listed, 2 part of the journal cannot be read, 3 no journal.
    """
    from sekisho.local.journal_files import segments  # noqa: PLC0415 - on a machine
    from sekisho.orders.register import register  # noqa: PLC0415 - on a machine

    found = register(line for segment in segments(journal) for line in segment.lines)
    if as_json:
        _print({"unreadable": found.unreadable, "exceptions": list(found.rows.values())})
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


# -- below ---------------------------------------------------------------------------------------


def _site(inventory: Path) -> Any:
    from sekisho.control.inventory.read import read_inventory  # noqa: PLC0415 - control side
    from sekisho.site.parse import parse_site  # noqa: PLC0415 - control side

    return parse_site(read_inventory(inventory))


def _signers(site: Any) -> Any:
    from sekisho.compile.policy import approvers  # noqa: PLC0415 - control side
    from sekisho.orders.judge import parse_signers  # noqa: PLC0415 - control side

    return parse_signers({"orders": {"people": approvers(site)}})


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


def _root() -> None:
    if os.geteuid() != 0:
        raise SekishoError("only root can do this: sudo sekisho exception …")


def _caller() -> str:
    """Return who asked, as sudo or the login knows; the journal has the kernel's word besides."""
    return printable(os.environ.get("SUDO_USER") or os.environ.get("LOGNAME") or "root", 40)


def _print(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
