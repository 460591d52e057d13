"""A whole site judged: expectations from the inventory, facts from the hosts, one bundle."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko
import pytest

from sekisho.catalogue.compiled import compile_catalogue
from sekisho.catalogue.model import Verdict
from sekisho.cli import audit_site
from sekisho.cli.audit_site import SiteOptions, site_run
from sekisho.edge.catalogue_files import load_sources, parse_sources
from sekisho.edge.ssh_audit import Access, Reply, Target
from sekisho.errors import SekishoError
from sekisho.evidence.bundle import MANIFEST, make_bundle
from sekisho.evidence.report import AuditRun, as_json, judge_run, needed_probes
from sekisho.evidence.verification import Stored, verify
from sekisho.evidence.wire import Response
from siteworld import copy_lab

NOW = dt.datetime(2026, 11, 22, 2, 0, tzinfo=dt.UTC)
SOURCES = load_sources(items=["6-iv-a"])
CATALOGUE = parse_sources(SOURCES)
RAW = {"schema": 1, "milliseconds": 5, "probes": {}}


class Silent:
    """Nobody watches."""

    def begin(self, total: int) -> None:
        self.total = total

    def done(self, reply: Reply) -> None:
        """Nothing to do."""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    where = tmp_path / "site"
    copy_lab(where)
    paramiko.ECDSAKey.generate().write_private_key_file(str(where / "keys/auditor"))
    (where / "keys/known_hosts").write_text("", encoding="utf-8")
    return where


def options(inventory: Path, **changes: Any) -> SiteOptions:
    told: dict[str, Any] = {
        "inventory": inventory,
        "hosts": (),
        "user": "auditor",
        "key": inventory / "keys/auditor",
        "known_hosts": inventory / "keys/known_hosts",
        "timeout": 5.0,
        "jobs": 4,
    }
    return SiteOptions(**(told | changes))


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """Answer for the hosts: gate-out is lost, the others give facts without a single probe."""
    asked: list[Target] = []

    def audit_hosts(
        targets: list[Target],
        probes: tuple[str, ...],  # noqa: ARG001 - the real one's arguments
        access: Access,  # noqa: ARG001
        *,
        jobs: int,  # noqa: ARG001
        done: Callable[[Reply], None],
        read: object,  # noqa: ARG001
    ) -> list[Reply]:
        asked.extend(targets)
        replies = [
            Reply(target, None, "no connection within 5 s", None, 5000)
            if target.name == "gate-out"
            else Reply(target, Response("", "sekisho 0.1.0", "", RAW), None, "SHA256:x", 900)
            for target in targets
        ]
        for reply in replies:
            done(reply)
        return replies

    monkeypatch.setattr(audit_site, "audit_hosts", audit_hosts)
    return asked


def run_site(inventory: Path, **changes: Any) -> AuditRun:
    return site_run(
        options(inventory, **changes),
        needed_probes(CATALOGUE),
        ("machine",),
        "sekisho test",
        Silent(),
        clock=lambda: NOW,
    )


def test_every_host_of_the_site_is_asked_at_its_management_address(
    inventory: Path, hosts: list[Target]
) -> None:
    run = run_site(inventory)
    assert {(one.name, one.address) for one in hosts} >= {
        ("inbound-1", "10.77.0.12"),
        ("core-1", "10.77.0.13"),
        ("gate-out", "10.77.0.15"),
    }
    assert run.flow_modes == ("one-way-tcp",)
    assert run.profile == "producer"
    assert run.site_problems == ()
    roles = {host.name: host.policy["role"] for host in run.hosts if host.policy is not None}
    assert roles["core-1"] == "core"


def test_a_lost_host_is_could_not_tell_and_the_others_are_judged(
    inventory: Path, hosts: list[Target]
) -> None:
    run = run_site(inventory)
    judged = judge_run(CATALOGUE, run)
    assert len(hosts) == len(run.hosts)
    lost = [finding for finding in judged.findings if finding.host == "gate-out"]
    assert {finding.verdict for finding in lost} == {Verdict.ERROR}
    assert all("no connection within 5 s" in finding.observed for finding in lost)
    told = as_json(CATALOGUE, run, judged)
    assert [host["answered"] for host in told["hosts"] if host["name"] == "gate-out"] == [False]
    # Hosts that answered without the facts asked for pass nothing.
    assert Verdict.PASS not in {finding.verdict for finding in judged.findings}
    assert judged.exit_code == 2


def test_the_sites_bundle_verifies_and_names_every_host(
    inventory: Path, hosts: list[Target]
) -> None:
    run = run_site(inventory)
    judged = judge_run(CATALOGUE, run)
    bundle = make_bundle(CATALOGUE, compile_catalogue(SOURCES), run, judged)
    found = verify(Stored(dict(bundle.files) | {MANIFEST: bundle.manifest}), tool="sekisho test")
    assert found.broken == []
    assert found.exit_code == 0
    page = bundle.files["report.html"].decode()
    assert all(target.name in page for target in hosts)
    assert "one-way-tcp" in page
    assert "IP-VPN" in page
    policies = [name for name in bundle.files if name.startswith("policies/")]
    assert len(policies) == len(hosts)
    assert json.loads(bundle.files["policies/core-1.json"])["host"] == "core-1"


def test_only_the_named_hosts_are_asked(inventory: Path, hosts: list[Target]) -> None:
    run = run_site(inventory, hosts=("core-1",))
    assert [target.name for target in hosts] == ["core-1"]
    assert [host.name for host in run.hosts] == ["core-1"]


def test_a_host_the_site_does_not_have_is_named(inventory: Path) -> None:
    with pytest.raises(SekishoError, match="no such host") as wrong:
        run_site(inventory, hosts=("core-9",))
    assert wrong.value.problems[0].got == "core-9"


def test_a_site_that_breaks_its_own_rules_is_a_breach(inventory: Path, hosts: list[Target]) -> None:
    # Outbound is said to be the same computer as core.
    path = inventory / "host_vars/outbound-1.yml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("000000000014", "000000000013"), encoding="utf-8")
    run = run_site(inventory)
    assert run.site_problems
    assert judge_run(CATALOGUE, run).exit_code == 1
    assert hosts


@pytest.mark.parametrize("missing", ["auditor", "known_hosts"])
def test_without_key_or_pins_nobody_is_asked(
    inventory: Path, hosts: list[Target], missing: str
) -> None:
    (inventory / "keys" / missing).unlink()
    with pytest.raises(SekishoError):
        run_site(inventory)
    assert hosts == []
