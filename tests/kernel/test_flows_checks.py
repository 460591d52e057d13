"""Every check on the packet filter is green on the compiled rules and red once they are broken."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sekisho.catalogue.judge import Fact, HostFacts, judge
from sekisho.catalogue.model import Check, Verdict
from sekisho.catalogue.parse import parse_check
from sekisho.nft.readback import differences, normalise
from sekisho.probes.nftables import PROBES, RULES
from sekisho.probes.registry import registry
from sekisho.prover.prove import prove_way
from siteworld import policy

pytestmark = pytest.mark.kernel

PARSE = next(probe.parse for probe in PROBES if probe.name == "nftables")
CHECKS = Path(__file__).resolve().parents[2] / "hardening" / "checks"
HOSTS = {
    "inbound": "inbound-1",
    "core": "core-1",
    "outbound": "outbound-1",
    "gateway": "gate-in",
    "monitor": "monitor-1",
    "terminal": "terminal-1",
}


def _ours() -> list[str]:
    """Return the checks that need nothing but the loaded rules."""
    found = []
    for path in sorted(CHECKS.iterdir()):
        value = yaml.safe_load((path / "check.yml").read_text(encoding="utf-8"))
        probes = {entry["probe"] for entry in value["asserts"]}
        if "nftables" in probes and probes <= {"nftables", "legacy-tables"}:
            found.append(path.name)
    return found


def _check(name: str) -> Check:
    raw = yaml.safe_load((CHECKS / name / "check.yml").read_text(encoding="utf-8"))
    check, problems = parse_check(name, raw, frozenset(registry()))
    assert check is not None, problems
    return check


@functools.cache  # the rules as they were compiled are loaded once a host
def _run(host: str, *scripts: Path) -> str:
    """Load the host's rules in a namespace, run scripts there, return the rules as read back."""
    lines = ["set -eu", "nft -j -f -", *(f"sh {script}" for script in scripts)]
    lines.append("nft -j list ruleset")
    done = subprocess.run(
        ("unshare", "--user", "--map-root-user", "--net", "sh", "-c", "\n".join(lines)),
        input=json.dumps(policy(host)["nftables"]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode and "unshare" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def _verdict(check: Check, host: str, loaded: str) -> tuple[Verdict, str]:
    rules = policy(host)
    raw: dict[str, Any] = {
        "loaded": {"rc": 0, "stdout": loaded, "stderr": "", "truncated": False},
        "disk": {
            "files": {
                RULES: {"mode": 0o600, "uid": 0, "gid": 0, "kind": "file",
                        "text": json.dumps(rules["nftables"])}
            }
        },
    }  # fmt: skip
    facts = HostFacts(
        host=host,
        role=rules["role"],
        # Of iptables' own tables there are none in a namespace just made.
        facts={"nftables": Fact(PARSE(raw)), "legacy-tables": Fact({"tables": []})},
        policy=rules,
    )
    finding = judge(check, facts, prove_way)
    return finding.verdict, finding.observed


def test_there_are_checks_on_the_rules() -> None:
    assert len(_ours()) >= 12


@pytest.mark.parametrize("name", _ours())
def test_the_check_is_green_red_when_broken_and_green_in_a_legitimate_variation(name: str) -> None:
    check = _check(name)
    roles = check.applies if "all" not in check.applies else tuple(HOSTS)
    for role in roles:
        host = HOSTS[role]
        verdict, why = _verdict(check, host, _run(host))
        assert verdict is Verdict.PASS, (host, why)
    variation = CHECKS / name / "pass.sh"
    host = HOSTS[roles[0]]
    if variation.exists():
        verdict, why = _verdict(check, host, _run(host, variation))
        assert verdict is Verdict.PASS, (host, why)
    for role in roles:
        host = HOSTS[role]
        verdict, why = _verdict(check, host, _run(host, CHECKS / name / "fail.sh"))
        assert verdict is Verdict.FAIL, (host, why)


@pytest.mark.parametrize("host", HOSTS.values())
def test_what_is_read_back_is_what_was_loaded(host: str) -> None:
    loaded = json.loads(_run(host))
    assert differences(normalise(policy(host)["nftables"]), normalise(loaded)) == ()
