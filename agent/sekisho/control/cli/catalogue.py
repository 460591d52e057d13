"""`sekisho catalogue`: check, list and compile the catalogue, write its traceability page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from sekisho.catalogue.compiled import compile_catalogue
from sekisho.catalogue.paths import parse_paths, render_paths
from sekisho.catalogue.render import traceability
from sekisho.control.catalogue_files import find_catalogue, load_sources, parse_sources, read_yaml
from sekisho.core.errors import SekishoError
from sekisho.core.files import write_atomic

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
_From = Annotated[
    Path | None, typer.Option("--from", help="Folder hardening/ or a compiled catalogue.")
]
_Out = Annotated[Path | None, typer.Option(help="File to write; default standard output.")]


@app.command("check")
def check_(*, source: _From = None) -> int:
    """Parse every item and check; print every problem of every file."""
    catalogue = parse_sources(load_sources(source))
    sys.stdout.write(
        f"{len(catalogue.items)} items, {len(catalogue.checks)} checks, digest {catalogue.digest}\n"
    )
    return 0


@app.command("list")
def list_(
    *,
    source: _From = None,
    item: Annotated[list[str] | None, typer.Option(help="Only this item.")] = None,
    json_: Annotated[bool, typer.Option("--json")] = False,
) -> int:
    """List checks: id, remedy, scenario, title."""
    catalogue = parse_sources(load_sources(source, items=item or ()))
    rows = [
        {
            "id": check.id,
            "remedy": check.remedy,
            "scenario": check.scenario,
            "applies": list(check.applies),
            "probes": sorted({entry.probe for entry in check.asserts}),
            "title": check.title,
        }
        for check in catalogue.checks
    ]
    if json_:
        sys.stdout.write(json.dumps(rows, ensure_ascii=False) + "\n")
    else:
        for check in catalogue.checks:
            sys.stdout.write(f"{check.id}\t{check.remedy}\t{check.scenario}\t{check.title['en']}\n")
    return 0


@app.command("compile")
def compile_(*, out: _Out = None, source: _From = None) -> int:
    """Write the catalogue as one canonical JSON file (what the package installs)."""
    sources = load_sources(source)
    parse_sources(sources)  # nothing is compiled that is not in order
    _give(compile_catalogue(sources), out)
    return 0


@app.command("render")
def render(*, out: _Out = None, source: _From = None) -> int:
    """Write the traceability page: item by item, what shows it and what stays open."""
    _give(traceability(parse_sources(load_sources(source))).encode(), out)
    return 0


@app.command("paths", epilog="Example:  sekisho catalogue paths --out device-paths.md")
def paths(*, out: _Out = None, source: _From = None) -> int:
    """Write the table of device paths: what shuts each, what watches it, what stays open."""
    folder = find_catalogue() if source is None else source
    if not folder.is_dir():
        raise SekishoError(f"{folder} holds no device-paths.yml; expected a checkout's hardening/")
    found = parse_paths(read_yaml(folder / "device-paths.yml"))
    _give(render_paths(found, parse_sources(load_sources(folder))).encode(), out)
    return 0


def _give(data: bytes, out: Path | None) -> None:
    if out is None:
        sys.stdout.buffer.write(data)
    else:
        write_atomic(out, data, mode=0o644)
