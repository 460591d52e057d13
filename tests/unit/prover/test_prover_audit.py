"""The proof as a check: judged from raw facts, again from the bundle, and never vacuously."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from evidenceworld import check, seal, whole, write
from sekisho.catalogue.compiled import compile_catalogue
from sekisho.catalogue.model import Verdict
from sekisho.cli.main import main
from sekisho.control.catalogue_files import load_sources, parse_sources
from sekisho.control.cli import audit, flows_input
from sekisho.core.errors import SekishoError
from sekisho.evidence.bundle import MANIFEST, make_bundle
from sekisho.evidence.report import AuditRun, HostRecord, judge_run
from sekisho.evidence.verification import Verdicts
from sekisho.policy.forms import Record
from sekisho.policy.host_policy import HostPolicy
from sekisho.policy.parts import Way
from sekisho.probes.nftables import RULES
from sekisho.prover import hooks
from sekisho.prover.prove import prove_way
from siteworld import policy

CHECK = "6-iv-e.only-declared-through"
SOURCES = load_sources(items=(), checks=(CHECK,))
CATALOGUE = parse_sources(SOURCES)
OWN = SOURCES  # of a tool that knows this one check
GATE = policy("gate-in")
ACCEPT = {"family": "inet", "table": "sekisho", "chain": "bare", "expr": [{"accept": None}]}


def opened() -> dict[str, Any]:
    """Return gate-in's rules with payload let out of the replies' chain."""
    changed = copy.deepcopy(GATE["nftables"])
    first = next(i for i, one in enumerate(changed["nftables"]) if "rule" in one.get("add", {}))
    changed["nftables"].insert(first, {"add": {"rule": ACCEPT}})
    return changed


def run(loaded: Any, *, solver: str | None = "z3 0", there: Any = GATE) -> AuditRun:
    entry = {"mode": 0o600, "uid": 0, "gid": 0, "kind": "file",
             "text": json.dumps(GATE["nftables"])}  # fmt: skip
    outcome = {
        "loaded": {"rc": 0, "stdout": json.dumps(loaded), "stderr": "", "truncated": False},
        "disk": {"files": {RULES: entry}},
    }
    raw = {"schema": 1, "milliseconds": 1, "probes": {"nftables": outcome}}
    return whole(AuditRun(
        mode="ssh", site="lab", profile="producer", started="2026-11-25T02:00:00Z",
        finished="2026-11-25T02:00:05Z", tool="sekisho test", solver=solver,
        hosts=(HostRecord("gate-in", raw, None if there is None else HostPolicy.parse(there)),),
    ), OWN)  # fmt: skip


def found(a_run: AuditRun) -> tuple[Verdict, str]:
    (finding,) = judge_run(CATALOGUE, a_run).findings
    return finding.verdict, finding.observed


def again(a_run: AuditRun) -> Verdicts:
    return check(write(a_run, SOURCES), OWN)


def test_the_rules_as_declared_are_proven_and_a_hole_is_told_by_its_rule() -> None:
    assert found(run(GATE["nftables"])) == (Verdict.PASS, "proven")
    verdict, told = found(run(opened()))
    assert verdict is Verdict.FAIL
    assert "inet sekisho bare rule 1" in told


@pytest.mark.parametrize("statement", [{"xt": {"name": "string"}}, {"jump": {"target": "?"}}, 3])
def test_what_the_prover_does_not_know_is_could_not_tell(statement: Any) -> None:
    changed = opened()
    for entry in changed["nftables"]:
        if entry.get("add", {}).get("rule") == ACCEPT:
            entry["add"]["rule"] = ACCEPT | {"expr": [statement]}
    verdict, told = found(run(changed))
    assert verdict is Verdict.ERROR
    assert "cannot be determined" in told


def test_without_solver_policy_or_rules_it_could_not_tell() -> None:
    assert found(run(GATE["nftables"], solver=None))[0] is Verdict.ERROR
    assert found(run(GATE["nftables"], there=None))[0] is Verdict.ERROR
    older = {key: part for key, part in GATE.items() if key != "declared"}
    assert found(run(GATE["nftables"], there=older))[0] is Verdict.ERROR
    garbled = {**GATE, "declared": {"forward": {"way": "forward", "lines": [["x"]]}}}
    with pytest.raises(SekishoError, match="refused"):
        run(GATE["nftables"], there=garbled)


def test_jumps_that_multiply_are_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "MAX_WALKED", 500)
    chains = [{"chain": {"family": "inet", "table": "t", "name": f"c{n}"}} for n in range(16)]
    jumps = [
        {"rule": {"family": "inet", "table": "t", "chain": f"c{n}",
                  "expr": [{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": k}},
                           {"jump": {"target": f"c{n + 1}"}}]}}
        for n in range(15) for k in range(3)
    ]  # fmt: skip
    hook = {"chain": {"family": "inet", "table": "t", "name": "c0", "type": "filter",
                      "hook": "forward", "prio": 0, "policy": "drop"}}  # fmt: skip
    listed = [{"table": {"family": "inet", "name": "t"}}, *chains[1:], hook, *jumps]
    with pytest.raises(SekishoError, match="does not know"):
        prove_way({"nftables": listed}, GATE["declared"]["forward"])


def test_a_bundle_is_proven_again_offline_and_only_with_a_solver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for loaded in (GATE["nftables"], opened()):
        assert again(run(loaded)).broken == []
        assert again(run(loaded)).exit_code == 0
    assert again(run(GATE["nftables"], solver=None)).exit_code == 0, "it said it had no solver"
    held = write(run(GATE["nftables"]), SOURCES)
    monkeypatch.setitem(sys.modules, "sekisho.prover.prove", None)
    blind = check(held, OWN)
    assert (blind.exit_code, blind.broken) == (2, [])
    assert "no solver" in blind.unknown[0]


def test_a_forged_verdict_does_not_survive() -> None:
    honest, forged = run(opened()), run(opened())
    good = judge_run(CATALOGUE, run(GATE["nftables"]))
    bundle = make_bundle(CATALOGUE, compile_catalogue(SOURCES), forged, good)
    told = check(seal(dict(bundle.files) | {MANIFEST: bundle.manifest}), OWN)
    assert told.exit_code == 1
    assert any("pass written, fail judged" in line for line in told.broken)
    assert judge_run(CATALOGUE, honest).exit_code == 1


def test_a_line_survives_its_row_and_nothing_else_does() -> None:
    form = Record(Way)
    for told in GATE["declared"].values():
        assert form.write(Way.parse(told)) == told
        for row in told["lines"]:
            for place in range(len(row)):
                with pytest.raises(ValueError, match="declared"):
                    Way.parse(told | {"lines": [[*row[:place], None, *row[place + 1 :]]]})


def test_an_audit_of_an_unconfigured_machine_asks_for_no_solver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> str:
        raise AssertionError("the solver was asked for")

    plain = replace(run(GATE["nftables"], solver=None, there=None), mode="local")
    monkeypatch.setattr(audit, "local_run", lambda *_: plain)
    monkeypatch.setattr(flows_input, "solver", refuse)
    assert main(["audit", "--local", "--check", CHECK, "--evidence", "machine"]) == 2
