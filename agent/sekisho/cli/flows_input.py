"""Where `sekisho flows` takes rules from: the site model, a listing, an evidence bundle."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sekisho.edge.bundle_io import read_bundle
from sekisho.edge.inventory import read_inventory
from sekisho.errors import Problem, SekishoError, printable
from sekisho.evidence.verification import verify
from sekisho.probes.model import ProbeError, output
from sekisho.site.compile import compile_host
from sekisho.site.invariants import check as check_site
from sekisho.site.model import Site
from sekisho.site.parse import parse_site

#: A listing of 10,000 peers is a few megabytes.
MAX_LISTING = 64 * 1024 * 1024


def solver() -> str | None:
    """Return the solver's name and version, None when it is not installed here."""
    try:
        return f"z3 {importlib.metadata.version('z3-solver')}"
    except importlib.metadata.PackageNotFoundError:
        return None


def need_solver(otherwise: str = "") -> None:
    """Raise `SekishoError` when the solver is not installed here; ``otherwise``: a way without."""
    if solver() is None:
        raise SekishoError(
            "the prover needs z3",
            (
                Problem(
                    "z3-solver", "", "not installed", "the control side's packages",
                    hint="`make dev`, or pip install -r requirements/control.lock" + otherwise,
                ),
            ),
        )  # fmt: skip


def load_site(inventory: Path) -> Site:
    """Return a site that parsed and holds its invariants; `SekishoError` otherwise."""
    site = parse_site(read_inventory(inventory))
    problems = check_site(site, now=datetime.now(UTC).date())
    if problems:
        raise SekishoError(f"{inventory} is no sound site", tuple(problems))
    return site


def compiled(site: Site, hosts: list[str]) -> dict[str, Any]:
    """Return the rules the site model gives its hosts, before anything is applied."""
    now = datetime.now(UTC)
    return {host: compile_host(site, host, serial=0, issued=now)["nftables"] for host in hosts}


def loaded(raw: Mapping[str, Any] | None, reason: str | None) -> Any:
    """Return the rules in a host's raw facts, or a text that says why there are none."""
    if raw is None:
        return f"the host gave no facts: {printable(reason or 'no reason told', 200)}"
    probes = raw.get("probes")
    outcome = probes.get("nftables") if isinstance(probes, Mapping) else None
    try:
        return json.loads(output(outcome if isinstance(outcome, Mapping) else {}, "loaded"))
    except (ProbeError, ValueError) as bad:
        return f"the facts hold no listing of the rules: {printable(str(bad), 200)}"


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as bad:
        raise SekishoError(
            "cannot read the rules", (Problem(where, "", str(bad), "nft -j list ruleset"),)
        ) from None


def documents(
    site: Site, hosts: list[str] | None, ruleset: Path | None, bundle: Path | None
) -> dict[str, Any]:
    """Return host → rules from where the command line said; `SekishoError` for what is wrong."""
    names = list(hosts or site.machines)
    unknown = [name for name in names if name not in site.machines]
    if unknown:
        known = ", ".join(site.machines)
        raise SekishoError(
            "the site has no such host",
            tuple(Problem("--host", "", printable(name), f"one of {known}") for name in unknown),
        )
    if ruleset is not None and bundle is not None:
        raise SekishoError("say --ruleset or --bundle, not both")
    if ruleset is not None:
        if len(names) != 1:
            raise SekishoError("--ruleset is one host's: say --host HOST too")
        return {names[0]: read_listing(ruleset)}
    if bundle is not None:
        return _bundle(bundle, names)
    return compiled(site, names)


def _bundle(path: Path, names: list[str]) -> dict[str, Any]:
    """Return the rules of a bundle that is whole; a host without them gets the reason instead."""
    found = verify(read_bundle(path), key=None, tool="sekisho flows")
    if found.run is None or found.broken:
        told = (*found.broken, *found.unknown)
        raise SekishoError(
            "the evidence bundle cannot be relied on",
            tuple(Problem(str(path), "", one, "a bundle as it was written") for one in told),
        )
    hosts = {host.name: host for host in found.run.hosts}
    return {
        name: loaded(hosts[name].raw, hosts[name].reason)
        if name in hosts
        else "the bundle does not hold this host"
        for name in names
    }


def read_listing(path: Path) -> Any:
    """Return the JSON of a listing; ``-`` is standard input."""
    try:
        if str(path) == "-":
            text = sys.stdin.read(MAX_LISTING + 1)
        else:
            with path.open(encoding="utf-8") as handle:
                text = handle.read(MAX_LISTING + 1)
    except (OSError, UnicodeDecodeError) as bad:
        raise SekishoError(
            "cannot read the rules", (Problem(str(path), "", str(bad), "nft -j list ruleset"),)
        ) from None
    if len(text) > MAX_LISTING:
        raise SekishoError(
            "cannot read the rules",
            (Problem(str(path), "", "too long", f"at most {MAX_LISTING} characters"),),
        )
    return _json(text, str(path))
