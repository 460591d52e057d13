"""`sekisho devices modules`: which kernel modules this machine needs, and how its wall stands."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sekisho.core.errors import SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.devices.module_list import LOCKS, Loaded, parse_loaded, propose, render
from sekisho.host.devices.maintenance import Maintenance, this_host
from sekisho.host.devices.module_wall import Places, Wall, run_quietly
from sekisho.orders.model import MAX_BYTES, write_time

MAX_LOADED = 1024 * 1024

app = typer.Typer(
    help="Which kernel modules this machine needs, and whether it takes others. "
    "必要なカーネルモジュールの一覧と、追加読み込みの可否を示します。",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command(
    "propose",
    epilog="Examples:  sekisho devices modules propose  ·  sekisho devices modules propose "
    "--out modules.yml  ·  sekisho devices modules propose --loaded proc-modules.txt --role core",
)
def propose_(  # noqa: PLR0913 - the options of a command
    *,
    loaded: Annotated[
        Path | None,
        typer.Option(help="Another machine's /proc/modules; what drives a device is not known."),
    ] = None,
    role: Annotated[str | None, typer.Option(help="Its role; default this machine's.")] = None,
    console: Annotated[
        str | None, typer.Option(help="serial or listed-keyboard; default this machine's.")
    ] = None,
    lock: Annotated[str, typer.Option(help="off, dry-run or enforce.")] = "dry-run",
    out: Annotated[
        Path | None, typer.Option(help="New file to write; default standard output.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Write the list for review, for the machine's site file (確認用の一覧の案).

    In it is what works now and what the role needs; idle modules are left out and named. It opens
    and shuts nothing. Exit code: 0 written, 1 a blocked module is loaded, 3 usage.
    """
    if lock not in LOCKS:
        raise SekishoError(f"--lock {printable(lock, 40)}: expected one of {', '.join(LOCKS)}")
    if role is None or console is None:
        policy = Wall().policy()
        role, console = role or policy.role.value, console or policy.console.value
    seen = _this_machine() if loaded is None else _file(loaded)
    found = propose(seen, console=console, role=role)
    if as_json:
        value = {"allow": found.allow, "idle": found.idle, "blocked": found.blocked}
        sys.stdout.write(json.dumps({"schema": 1, "lock": lock, **value}) + "\n")
    elif out is None:
        sys.stdout.write(render(found, lock=lock))
    elif out.exists():
        raise SekishoError(f"{out} is there already; a proposal overwrites nothing")
    else:
        write_atomic(out, render(found, lock=lock).encode(), mode=0o644)
    return 1 if found.blocked else 0


@app.command(
    "status",
    epilog="Examples:  sekisho devices modules status  ·  sekisho devices modules status --json",
)
def status(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> int:
    """Say whether the kernel takes modules, and what the wall would refuse (追加読み込みの可否).

    Exit code: 0 as the site says, 1 open although it says enforce, or a listed module is missing,
    2 no boot has told yet.
    """
    wall = Wall()
    told, closed = wall.told(), wall.closed()
    if not told:
        sys.stderr.write("sekisho devices modules: the wall's unit has not run since the boot\n")
        return 2
    late = sorted(wall.loaded() - set(told["loaded"]))
    if as_json:
        sys.stdout.write(json.dumps(told | {"closed": closed, "late": late}) + "\n")
    else:
        state = "shut" if closed else f"OPEN: {told['why']}"
        sys.stdout.write(f"lock {told['lock']}, kernel {told['kernel']}: {state}\n")
        for what in ("missing", "unlisted"):
            if told[what]:
                sys.stdout.write(f"  {what}: {' '.join(told[what])}\n")
        if late:
            sys.stdout.write(f"  loaded later, would be refused: {' '.join(late)}\n")
    opened = told["lock"] == "enforce" and not closed
    return 1 if opened or told["missing"] else 0


@app.command(
    "maintain",
    epilog="Examples:  sekisho devices modules maintain order.json  ·  "
    "sekisho devices modules maintain order.json --check",
)
def maintain(
    order: Annotated[Path, typer.Argument(help="A maintenance order with all its signatures.")],
    *,
    check: Annotated[bool, typer.Option("--check", help="Prove it, put nothing in place.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Prove a signed maintenance order and put it where the next boot finds it (保守の承認書).

    It opens that one boot within its window, then never again. Exit code: 0 in place, 3 refused.
    """
    hand = Maintenance(Path("/"), run_quietly, host=this_host())
    raw = read_bounded(order, MAX_BYTES)
    found = hand.prove(raw, str(order)) if check else hand.place(raw, str(order))
    told = {
        "id": found.id,
        "opens": list(found.content["opens"]),
        "start": write_time(found.start),
        "end": write_time(found.end),
        "requester": found.requester,
        "approvers": list(found.approvers),
    }
    if as_json:
        sys.stdout.write(json.dumps(told | {"placed": not check}) + "\n")
    else:
        what = "holds" if check else "is in place: restart this machine within its window"
        sys.stdout.write(f"order {found.id} {what} ({told['start']} to {told['end']})\n")
    return 0


def _file(path: Path) -> Sequence[Loaded]:
    data = read_bounded(path, MAX_LOADED)
    if len(data) > MAX_LOADED:
        raise SekishoError(f"{path}: more than {MAX_LOADED} bytes")
    return parse_loaded(data.decode("utf-8", "replace"))


def _this_machine(places: Places | None = None) -> Sequence[Loaded]:
    """Return the loaded modules with the number of devices each drives."""
    at = (places or Places()).at
    found = []
    for one in Wall(places).modules():
        drives = 0
        for link in at(f"/sys/module/{one.name}/drivers").glob("*"):
            # a driver's folder holds a link for each device bound to it, and "module"
            drives += sum(
                entry.is_symlink() and entry.name != "module" for entry in link.resolve().glob("*")
            )
        found.append(replace(one, drives=drives))
    return found
