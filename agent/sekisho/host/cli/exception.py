"""`sekisho exception` on a machine: use and end a device exception; its register."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sekisho.cli.exception_register import EXAMPLES, list_exceptions
from sekisho.core.errors import SekishoError, printable
from sekisho.core.files import write_atomic

app = typer.Typer(
    help="One device, one machine, one window, three people. "
    "デバイスの例外: 一台のデバイス・一台の機械・期限・三人の署名。",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Order = Annotated[Path, typer.Argument(help="The order's file.", show_default=False)]


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


app.command("list", epilog=EXAMPLES)(list_exceptions)


# -- below ---------------------------------------------------------------------------------------


def _root() -> None:
    if os.geteuid() != 0:
        raise SekishoError("only root can do this: sudo sekisho exception …")


def _caller() -> str:
    """Return who asked, as sudo or the login knows; the journal has the kernel's word besides."""
    return printable(os.environ.get("SUDO_USER") or os.environ.get("LOGNAME") or "root", 40)


def _print(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
