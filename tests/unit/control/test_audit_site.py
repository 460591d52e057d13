"""A whole site judged: expectations from the inventory, facts from the hosts, one bundle."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko
import pytest

from evidenceworld import answer
from sekisho.catalogue.compiled import compile_catalogue
from sekisho.catalogue.model import Verdict
from sekisho.control.catalogue_files import load_sources, parse_sources
from sekisho.control.cli import audit_site
from sekisho.control.cli.audit_site import SiteOptions, record, site_run
from sekisho.control.ssh.audit import Access, Reply, Target
from sekisho.core.canonical import digest
from sekisho.core.errors import SekishoError
from sekisho.evidence.bundle import MANIFEST, make_bundle
from sekisho.evidence.report import AuditRun, as_json, judge_run, needed_probes
from sekisho.evidence.scope import Scope
from sekisho.evidence.verification import Stored, Trust, verify
from sekisho.facts.answer import Answer, host_nonce
from sekisho.facts.wire import Response
from siteworld import copy_lab

NOW = dt.datetime(2026, 11, 22, 2, 0, tzinfo=dt.UTC)
SOURCES = load_sources(items=["6-iv-a"])
CATALOGUE = parse_sources(SOURCES)
_WHOLE = load_sources()
SCOPE = Scope(items=tuple(_WHOLE.items), checks=tuple(_WHOLE.checks), only_items=("6-iv-a",))
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


def response(run: str, host: str) -> Response:
    return Response("", "sekisho 0.1.0", "", RAW, Answer(host_nonce(run, host)))


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """Answer for the hosts: gate-out is lost, the others give facts without a single probe."""
    asked: list[Target] = []

    def audit_hosts(
        targets: list[Target],
        probes: tuple[str, ...],  # noqa: ARG001 - the real one's arguments
        access: Access,
        *,
        jobs: int,  # noqa: ARG001
        done: Callable[[Reply], None],
        read: object,  # noqa: ARG001
    ) -> list[Reply]:
        asked.extend(targets)
        replies = [
            Reply(target, None, "no connection within 5 s", None, 5000)
            if target.name == "gate-out"
            else Reply(target, response(access.nonce, target.name), None, "SHA256:x", 900)
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
        scope=SCOPE,
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
    roles = {host.name: host.policy.role for host in run.hosts if host.policy is not None}
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
    found = verify(
        Stored(dict(bundle.files) | {MANIFEST: bundle.manifest}),
        trust=Trust(catalogue=load_sources()),
        tool="sekisho test",
    )
    assert found.broken == []
    assert found.exit_code == 2
    assert ["unsigned" in line for line in found.unknown] == [True]
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


def test_the_run_says_what_there_was_and_what_was_asked_for(
    inventory: Path, hosts: list[Target]
) -> None:
    run = run_site(inventory, hosts=("core-1", "core-1"))
    everyone = run_site(inventory)
    assert run.scope.only_hosts == ("core-1",)
    assert run.scope.hosts == tuple(host.name for host in everyone.hosts)
    assert dict(run.scope.options) == {"jobs": 4, "timeout_ms": 5000, "user": "auditor"}
    told = as_json(CATALOGUE, run, judge_run(CATALOGUE, run))
    assert "gate-out" in told["left_out"]["hosts"]
    assert "core-1" not in told["left_out"]["hosts"]
    assert len(told["left_out"]["items"]) == len(_WHOLE.items) - 1
    assert as_json(CATALOGUE, everyone, judge_run(CATALOGUE, everyone))["left_out"]["hosts"] == []
    assert run.nonce != everyone.nonce
    assert hosts


def test_without_a_machine_check_every_host_is_named_and_none_is_asked(
    inventory: Path, hosts: list[Target]
) -> None:
    run = site_run(options(inventory), (), ("attested",), "sekisho test", Silent(), scope=SCOPE)
    assert hosts == []
    assert [host.name for host in run.hosts] == list(run.scope.hosts)
    assert all(host.reason is not None for host in run.hosts)


def test_a_signature_that_is_not_over_the_facts_makes_the_host_unknown() -> None:
    target = Target("core-1", "127.0.0.1")
    facts = digest(RAW)
    good = answer("2026-11-22T02:00:00Z", "core-1", "sekisho 0.1.0", facts)
    told = record(Reply(target, Response("", "sekisho 0.1.0", facts, RAW, good), None, "x", 1), {})
    assert (told.reason, told.signed) == (None, True)
    bad = answer("2026-11-22T02:00:00Z", "core-1", "sekisho 0.1.0", "0" * 64)
    told = record(Reply(target, Response("", "sekisho 0.1.0", facts, RAW, bad), None, "x", 1), {})
    assert (told.raw, told.signed) == (None, False)
    assert told.reason is not None
    assert "signature" in told.reason


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
