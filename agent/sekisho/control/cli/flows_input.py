"""Where `sekisho flows` takes rules and routes from: the site model, a listing, a bundle."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sekisho.compile.policy import compile_host
from sekisho.control.bundle.files import read_bundle, read_signer
from sekisho.control.inventory.read import read_inventory
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.evidence.verification import read_facts
from sekisho.facts.wire import Packed
from sekisho.policy.host_policy import HostPolicy
from sekisho.probes.model import ProbeError, output
from sekisho.prover.hostfacts import read_net
from sekisho.prover.hostnet import HostNet
from sekisho.prover.hostnet import compiled as compiled_net
from sekisho.prover.tables import garbled
from sekisho.site.model import Site
from sekisho.site.parse import parse_site
from sekisho.site.rules.invariants import check as check_site

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


@dataclass(frozen=True, slots=True)
class Given:
    """What the hosts have, as far as it was given.

    Attributes:
        rules: host → its rules, or a text that says why there are none.
        whole: the same for every host of the site; one that is not there as compiled.
        nets: host → what it routes by, likewise; or why nobody knows.

    """

    rules: dict[str, Any]
    whole: dict[str, Any]
    nets: dict[str, HostNet | SekishoError]


def compiled(site: Site, hosts: list[str]) -> dict[str, Any]:
    """Return the rules the site model gives its hosts, before anything is applied."""
    return {host: policy.nftables.value() for host, policy in _policies(site, hosts).items()}


def _policies(site: Site, hosts: list[str]) -> dict[str, HostPolicy]:
    now = datetime.now(UTC)
    return {host: compile_host(site, host, serial=0, issued=now) for host in hosts}


def loaded(raw: Mapping[str, Any] | None, reason: str | None) -> Any:
    """Return the rules in a host's raw facts, or a text that says why there are none."""
    if raw is None:
        return f"the host gave no facts: {printable(reason or 'no reason told', 200)}"
    probes = raw.get("probes")
    outcome = probes.get("nftables") if isinstance(probes, Mapping) else None
    try:
        return json.loads(output(outcome if isinstance(outcome, Mapping) else {}, "loaded"))
    except (ProbeError, ValueError, RecursionError) as bad:
        return f"the facts hold no listing of the rules: {printable(str(bad), 200)}"


@dataclass(frozen=True, slots=True)
class Signed:
    """An evidence bundle and the public key of who signed it: without one nobody vouches for it."""

    bundle: Path
    key: Path | None


def signed(bundle: Path | None, key: Path | None) -> Signed | None:
    """Return the bundle the command line named, None when it named none."""
    if bundle is None and key is not None:
        raise SekishoError("--key is of a bundle's signer: say --bundle too")
    return None if bundle is None else Signed(bundle, key)


def documents(
    site: Site, hosts: list[str] | None, ruleset: Path | None, bundle: Signed | None
) -> dict[str, Any]:
    """Return host → rules from where the command line said; `SekishoError` for what is wrong."""
    return given(site, hosts, ruleset, bundle).rules


def given(
    site: Site, hosts: list[str] | None, ruleset: Path | None, bundle: Signed | None
) -> Given:
    """Return rules and routes from where the command line said; `SekishoError` for what is wrong.

    A listing has no routes: they are taken as the site model compiles them.
    """
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
    held = _bundle(bundle) if bundle is not None else {}
    there = [name for name in site.machines if name in held]
    own = {name: loaded(*held[name]) for name in there}
    others = _policies(site, [name for name in site.machines if name not in there])
    made = {name: policy.nftables.value() for name, policy in others.items()}
    if ruleset is not None:
        if len(names) != 1:
            raise SekishoError("--ruleset is one host's: say --host HOST too")
        rules = own = {names[0]: read_listing(ruleset)}
    elif bundle is not None:
        rules = {name: own.get(name, "the bundle does not hold this host") for name in names}
    else:
        rules = {name: made[name] for name in names}
    nets: dict[str, HostNet | SekishoError] = {
        name: compiled_net(policy) for name, policy in others.items()
    }
    return Given(rules, made | own, nets | {name: _net(name, *held[name]) for name in there})


def _net(name: str, raw: Mapping[str, Any] | None, reason: str | None) -> HostNet | SekishoError:
    probes = (raw or {}).get("probes")
    if not isinstance(probes, Mapping):
        told = printable(reason or "no facts", 200)
        return SekishoError(f"the routes of {name} are not known: {told}")
    try:
        with garbled(name):
            return read_net(probes, name)
    except SekishoError as bad:
        return bad


def _bundle(told: Signed) -> dict[str, tuple[Mapping[str, Any] | None, str | None]]:
    """Return host → raw facts, or why there are none, of a bundle that is whole and signed.

    What was judged, and by which catalogue, does not matter here.
    """
    path = told.bundle
    if told.key is None:
        raise SekishoError(
            "nobody vouches for the evidence bundle",
            (Problem(str(path), "--key", "nothing", "the signer's public key (PEM)"),),
        )
    found = read_facts(read_bundle(path), key=read_signer(told.key), now=datetime.now(UTC))
    if found.run is None or found.broken or found.unknown:
        wrong = (*found.broken, *found.unknown)
        raise SekishoError(
            "the evidence bundle cannot be relied on",
            tuple(Problem(str(path), "", one, "a bundle as it was written") for one in wrong),
        )
    return {
        host.name: (host.raw.value() if isinstance(host.raw, Packed) else host.raw, host.reason)
        for host in found.run.hosts
    }


def read_listing(path: Path) -> Any:
    """Return the JSON of a listing, or a text that says why it is none; ``-`` is standard input.

    A file that is not there is the caller's mistake (`SekishoError`); what stands in it is the
    host's, of which then nothing can be told.
    """
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(MAX_LISTING + 1)
        else:
            with path.open("rb") as handle:
                data = handle.read(MAX_LISTING + 1)
    except OSError as bad:
        raise SekishoError(
            "cannot read the rules", (Problem(str(path), "", str(bad), "nft -j list ruleset"),)
        ) from None
    if len(data) > MAX_LISTING:
        return f"{path} is too long for a listing: more than {MAX_LISTING} bytes"
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as bad:
        return f"{path} holds no listing of nft -j: {printable(str(bad), 200)}"
