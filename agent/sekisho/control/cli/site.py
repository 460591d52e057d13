"""`sekisho site`: prove the site model, draw it, and write what its machines need."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sekisho.control.inventory.read import read_inventory
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.site.model import Site
from sekisho.site.parse import parse_site
from sekisho.site.rules.invariants import check as check_site
from sekisho.site.tunnels import tunnels_of

app = typer.Typer(
    help="Prove the site model, draw it, write its machines' files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Inventory = Annotated[Path, typer.Argument(help="The inventory's directory.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _load(inventory: Path, now: datetime) -> Site:
    """Return a site that parsed and holds its invariants; SekishoError otherwise."""
    site = parse_site(read_inventory(inventory))
    problems = check_site(site, now=now.date())
    if problems:
        raise SekishoError(f"{inventory} is no sound site", tuple(problems))
    return site


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _problem(problem: Problem) -> dict[str, str]:
    return {
        "where": problem.where,
        "key": problem.key,
        "got": problem.got,
        "expected": problem.expected,
        "item": problem.item,
        "hint": problem.hint,
    }


def _print(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


@app.command(
    "check",
    epilog="Examples:  sekisho site check inventory/lab  ·  "
    "sekisho site check inventory/lab --json",
)
def check(
    inventory: Inventory,
    as_json: Json = False,
    prove: Annotated[
        bool, typer.Option("--prove/--no-prove", help="Prove the rules it compiles to (needs z3).")
    ] = True,
) -> int:
    """Prove the site: files parse, invariants hold, the rules it compiles to keep the laws.

    Exit code: 0 sound and proven, 1 a law refuted, 2 could not tell, 3 not sound or usage.
    """
    started = datetime.now(UTC)
    try:
        site = _load(inventory, _now())
    except SekishoError as failure:
        if as_json:
            _print({"sound": False, "problems": [_problem(one) for one in failure.problems]})
        else:
            sys.stderr.write(failure.diagnostics() + "\n")
        raise typer.Exit(3) from None
    took = (datetime.now(UTC) - started).total_seconds()
    counts = {
        "machines": len(site.machines),
        "links": len(site.links),
        "peers": len(site.peers),
        "flows": len(site.flows),
        "people": len(site.people),
    }
    notes = [
        f"{one.name} is encrypted by WireGuard: {one.ciphers} [6-iv-d-4]"
        for machine in site.machines.values()
        for one in tunnels_of(site, machine)
    ]
    code, proof, told = _proof(site) if prove else (0, None, "not proven: --no-prove\n")
    if as_json:
        _print({"sound": True, "site": site.name, "profile": site.profile, **counts,
                "notes": notes, "proof": proof})  # fmt: skip
        return code
    listed = ", ".join(f"{count} {what}" for what, count in counts.items())
    told = "".join(f"note: {one}\n" for one in notes) + told
    sys.stdout.write(f"{inventory}: sound ({listed}; {took:.2f} s)\n{told}")
    return code


def _proof(site: Site) -> tuple[int, list[dict[str, Any]], str]:
    """Prove what the site compiles to; return the exit code, every finding, and a text."""
    from sekisho.control.cli.flows import tally, text_of  # noqa: PLC0415 - only this command proves
    from sekisho.control.cli.flows_input import compiled, need_solver  # noqa: PLC0415

    need_solver(", or leave the proof out with --no-prove")
    from sekisho.prover.findings import exit_code  # noqa: PLC0415 - needs z3
    from sekisho.prover.prove import prove  # noqa: PLC0415

    started = datetime.now(UTC)
    found = list(prove(compiled(site, list(site.machines)), site))
    took = (datetime.now(UTC) - started).total_seconds()
    text = "".join(text_of(one) for one in found if one.outcome.value != "proven")
    text += f"its rules: {tally(found)} ({took:.1f} s)\n"
    return exit_code(found), [one.as_json() for one in found], text


@app.command(
    "show",
    epilog="Examples:  sekisho site show inventory/lab  ·  "
    "sekisho site show inventory/lab --svg topology.svg --language ja",
)
def show(
    inventory: Inventory,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write a picture instead.", show_default=False)
    ] = None,
    language: Annotated[str, typer.Option(help="en, ja or both (SVG).")] = "both",
    as_json: Json = False,
) -> None:
    """Draw the topology: who stands where, which links join them, which way data flows."""
    from sekisho.compile.picture import draw  # noqa: PLC0415 - only this command draws

    site = _load(inventory, _now())
    if svg is not None:
        from sekisho.core.files import write_atomic  # noqa: PLC0415

        if language not in ("en", "ja", "both"):
            raise SekishoError(
                "no such language", (Problem("--language", "", language, "en, ja or both"),)
            )
        write_atomic(svg, draw(site, language).encode(), 0o644)
        sys.stdout.write(f"{svg}\n")
        return
    if as_json:
        from sekisho.control.inventory.files import known  # noqa: PLC0415

        _print(known(site))
        return
    from sekisho.control.cli.site_table import print_site  # noqa: PLC0415

    print_site(site)


@app.command(
    "keys",
    epilog="Example:  sekisho site keys inventory/lab",
)
def keys(inventory: Inventory, as_json: Json = False) -> None:
    """Make the site's keys in INVENTORY/pki (authority for TLS, policy signer); keep old ones."""
    from sekisho.control.pki.authority import Pki  # noqa: PLC0415

    now = _now()
    site = _load(inventory, now)
    made = Pki(inventory).make(site.name, now=now)
    if as_json:
        _print({"made": made})
    elif made:
        sys.stdout.write(f"made {', '.join(made)} in {inventory / 'pki'}\n")
    else:
        sys.stdout.write(f"{inventory / 'pki'}: every key is there\n")


@app.command(
    "accept",
    epilog="Example:  ssh core-1 sudo sekisho agent enroll --host core-1 | "
    "sekisho site accept inventory/lab core-1",
)
def accept(  # noqa: PLR0913 - a command's options
    inventory: Inventory,
    host: Annotated[str, typer.Argument(help="The machine that answered.", show_default=False)],
    purpose: Annotated[
        str, typer.Option("--for", help="What its key is for: agent, monitor or tunnel.")
    ] = "agent",
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="It was set up anew: take another key than the kept.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Write nothing.")] = False,
    renew_days: Annotated[
        int, typer.Option(min=1, max=825, help="Renew a certificate this many days before its end.")
    ] = 60,
) -> None:
    """Take a host's own key into the site: its answer (JSON) on standard input, JSON out.

    The answer is parsed and proven here; another key than the kept one is refused.
    """
    from sekisho.control.inventory.enrolment import MAX_ANSWER, PLACES, Enrolment  # noqa: PLC0415

    now = _now()
    if purpose not in PLACES:
        problem = Problem("--for", "", printable(purpose, 40), ", ".join(PLACES))
        raise SekishoError("cannot accept a key", (problem,))
    enrolment = Enrolment(inventory, _load(inventory, now))
    answer = sys.stdin.buffer.read(MAX_ANSWER + 1)
    if purpose == "tunnel":
        done = enrolment.accept_tunnel(host, answer, replace=replace, check=check)
    else:
        done = enrolment.accept(
            host, answer, purpose=purpose, now=now, replace=replace, check=check,
            renew_days=renew_days,
        )  # fmt: skip
    _print({"changed": bool(done.paths), "paths": done.paths, "certificate": done.certificate})


@app.command(
    "render",
    epilog="Examples:  sekisho site render inventory/lab --out build/lab  ·  "
    "sekisho site render inventory/lab core-1 --out build/lab --json",
)
def render(
    inventory: Inventory,
    out: Annotated[Path, typer.Option("--out", help="Where to write.", show_default=False)],
    hosts: Annotated[
        list[str] | None, typer.Argument(help="Machines; all when none is named.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write each host's signed policy, nftables rules and network files below --out."""
    from sekisho.control.inventory.files import render as write  # noqa: PLC0415

    now = _now()
    site = _load(inventory, now)
    signed = write(site, inventory, hosts or [], out, now=now)
    if as_json:
        _print(
            {
                entry.value.host: {"serial": entry.serial, "changed": entry.changed}
                for entry in signed
            }
        )
        return
    for entry in signed:
        state = "new policy" if entry.changed else "unchanged"
        sys.stdout.write(f"{out / entry.value.host}: serial {entry.serial}, {state}\n")
