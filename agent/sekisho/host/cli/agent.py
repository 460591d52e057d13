"""`sekisho agent`: run the host agent, enrol the host, agree on guarded files, show its state."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sekisho.core.errors import printable

app = typer.Typer(add_completion=False, rich_markup_mode=None, invoke_without_command=True)

ETC = Path("/etc/sekisho")
STATE = Path("/run/sekisho/agent.json")
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Host = Annotated[str | None, typer.Option(help="This host's name in the site; default hostname.")]


def _hostname() -> str:
    return os.uname().nodename.partition(".")[0]


@app.callback(epilog="Example:  sekisho agent --policy /etc/sekisho/policy.json")
def agent(
    context: typer.Context,
    policy: Annotated[
        Path, typer.Option(help="The signed policy; signature and signer lie beside it.")
    ] = ETC / "policy.json",
    host: _Host = None,
) -> int:
    """Run the host agent in the foreground; systemd runs it as sekisho-agent.service."""
    if context.invoked_subcommand is not None:
        return 0
    from sekisho.host.agent.main import main  # noqa: PLC0415 - the daemon's libraries

    return main(["--policy", str(policy), "--host", host or _hostname()])


@app.command("enroll", epilog="Example:  sekisho agent enroll > request.json")
def enroll_(
    host: _Host = None,
    etc: Annotated[Path, typer.Option(help="Where the key is kept.")] = ETC,
    check: Annotated[bool, typer.Option("--check", help="Write nothing.")] = False,
) -> int:
    """Make the host's key if it has none; print a request for its certificate as JSON."""
    from sekisho.host.enrol import enroll  # noqa: PLC0415 - slow to import

    found = enroll(etc, host=host or _hostname(), check=check)
    sys.stdout.write(json.dumps(found, sort_keys=True) + "\n")
    return 0


@app.command("agree", epilog="Example:  sekisho agent agree --why 'site.yml, change 4711'")
def agree(
    why: Annotated[str, typer.Option(help="Reason, kept in the journal.")] = "",
    as_json: _Json = False,
) -> int:
    """Take the guarded files as they stand now for right; the journal keeps every digest."""
    from sekisho.host.journal.client import submit  # noqa: PLC0415

    number = submit("agent.agree", {"why": why})
    sys.stdout.write(
        json.dumps({"n": number}) + "\n" if as_json else f"agreed: journal record {number}\n"
    )
    return 0


@app.command("state", epilog="Example:  sekisho agent state --json")
def state(as_json: _Json = False) -> int:
    """Show how the agent is: 0 everything works, 1 something does not, 2 it cannot be told."""
    try:
        value = json.loads(STATE.read_bytes())
        parts = dict(value["parts"])
        serial, journal = int(value["policy_serial"]), dict(value["journal"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"sekisho agent: {STATE}: {printable(str(error))}; is it running?\n")
        return 2
    if as_json:
        sys.stdout.write(json.dumps(value, sort_keys=True) + "\n")
    else:
        sys.stdout.write(f"policy {serial}, journal at {journal.get('last')}\n")
        for part in sorted(parts):
            sys.stdout.write(f"  {part:<10} {'works' if parts[part] else 'DOES NOT WORK'}\n")
    return 0 if all(parts.values()) and serial > 0 and not value.get("policy_refused") else 1
