"""`sekisho audit`: judge this machine, or a whole site over SSH, against the catalogue."""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sekisho import __version__
from sekisho.edge.catalogue_files import load_catalogue
from sekisho.errors import Problem, SekishoError, printable
from sekisho.evidence.report import AuditRun, HostRecord, as_json, judge_run, needed_probes
from sekisho.evidence.summary import KINDS

LOCAL_POLICY = Path("/etc/sekisho/policy.json")
_MAX_POLICY_BYTES = 8 * 1024 * 1024
TOOL = f"sekisho {__version__}"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def audit(
    *,
    local: Annotated[bool, typer.Option("--local", help="Judge this machine.")] = False,
    item: Annotated[
        list[str] | None, typer.Option(help="Only this item, such as 6-iv-a (repeatable).")
    ] = None,
    check: Annotated[list[str] | None, typer.Option(help="Only this check (repeatable).")] = None,
    evidence: Annotated[
        list[str] | None,
        typer.Option(help="Only this kind of evidence: machine, exercise, attested (repeatable)."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Site policy to judge this machine by (JSON).")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours.")] = False,
) -> int:
    """Judge machines against Article 6 and print the gap table.

    Exit code: 0 compliant, 1 breach found, 2 could not tell, 3 usage or configuration.
    """
    if not local:
        raise SekishoError("say --local or -i INVENTORY")
    kinds = _kinds(evidence)
    catalogue = load_catalogue(items=item or (), checks=check or ())
    run = _local_run(needed_probes(catalogue), policy, kinds)
    judged = judge_run(catalogue, run)
    if json_:
        sys.stdout.write(json.dumps(as_json(catalogue, run, judged), ensure_ascii=False) + "\n")
    else:
        from sekisho.cli.audit_table import console, print_report  # noqa: PLC0415 - rich is slow

        print_report(console(color=not no_color), catalogue, run, judged)
    return judged.exit_code


def _kinds(evidence: list[str] | None) -> tuple[str, ...]:
    wrong = [kind for kind in evidence or () if kind not in KINDS]
    if wrong:
        raise SekishoError(
            "no such kind of evidence",
            tuple(
                Problem("--evidence", "", printable(k), f"one of {', '.join(KINDS)}") for k in wrong
            ),
        )
    return tuple(kind for kind in KINDS if not evidence or kind in evidence)


def _local_run(probes: tuple[str, ...], policy: Path | None, kinds: tuple[str, ...]) -> AuditRun:
    from sekisho.edge.collect import collect  # noqa: PLC0415 - a site's audit does not need it
    from sekisho.probes.registry import registry  # noqa: PLC0415

    known = registry()
    expectations = read_policy(policy)
    started = _now()
    raw = collect(known[name] for name in probes)
    host = HostRecord(
        name=printable(os.uname().nodename, 64),
        raw=raw,
        policy=expectations,
        milliseconds=int(raw["milliseconds"]),
    )
    return AuditRun(
        mode="local",
        site=str(expectations.get("site", "")) if expectations else "",
        profile=expectations.get("profile") if expectations else None,
        started=started,
        finished=_now(),
        tool=TOOL,
        hosts=(host,),
        kinds=kinds,
    )


def read_policy(policy: Path | None) -> dict[str, Any] | None:
    """Return the policy told, or this machine's own, or None when nothing is configured."""
    path = policy
    if path is None:
        if not LOCAL_POLICY.exists():
            return None
        path = LOCAL_POLICY
    try:
        with path.open("rb") as handle:
            data = handle.read(_MAX_POLICY_BYTES + 1)
        if len(data) > _MAX_POLICY_BYTES:
            raise ValueError(f"more than {_MAX_POLICY_BYTES} bytes")
        value = json.loads(data)
    except PermissionError:
        if policy is None:
            return None
        raise _bad_policy(path, "permission denied") from None
    except (OSError, ValueError, RecursionError) as bad:
        raise _bad_policy(path, printable(str(bad))) from None
    if not isinstance(value, dict) or value.get("schema") != 1:
        raise _bad_policy(path, "another schema")
    return value


def _bad_policy(path: Path, got: str) -> SekishoError:
    return SekishoError(
        "the site policy cannot be read",
        (Problem(str(path), "", got, "a policy written by sekisho site render, schema 1"),),
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
