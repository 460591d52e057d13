"""Alerts: every one has its runbook and three tests, and the real tool runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sekisho.host.agent.table import checks
from sekisho.host.metrics_table import METRICS

SITE = {"sekisho_site_policy_serial"}  # written by the role monitor
ALWAYS = "6-v-b.watchdog"


def load(folder: Path) -> list[Any]:
    found = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yml"))]
    assert found
    return found


@pytest.fixture(scope="module")
def rules(repository: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for document in load(repository / "monitors/rules"):
        for group in document["groups"]:
            for rule in group["rules"]:
                assert rule["alert"] not in found
                found[rule["alert"]] = rule
    return found


@pytest.fixture(scope="module")
def cases(repository: Path) -> list[dict[str, Any]]:
    return [case for document in load(repository / "monitors/tests") for case in document["tests"]]


def test_every_alert_has_its_labels_both_languages_and_its_runbook(
    repository: Path, rules: dict[str, dict[str, Any]]
) -> None:
    for name, rule in rules.items():
        labels, notes = rule["labels"], rule["annotations"]
        assert labels["severity"] in ("critical", "warning", "none"), name
        assert name.startswith(labels["item"] + "."), name
        assert labels.get("check", name) == name
        assert (repository / "hardening/catalogue" / f"{labels['item']}.yml").exists()
        assert notes["runbook"] == f"monitors/runbooks/{name}.md"
        page = (repository / notes["runbook"]).read_text()
        assert page.startswith(f"# {name}\n")
        for part in ("**What it means.**", "**What to do.**", "**日本語.**"):
            assert part in page, name
        for text in (notes["summary"], notes["summary_ja"]):
            assert text.strip()


def test_every_runbook_belongs_to_an_alert(
    repository: Path, rules: dict[str, dict[str, Any]]
) -> None:
    pages = {path.stem for path in (repository / "monitors/runbooks").glob("*.md")}
    assert pages == set(rules)


def test_every_alert_is_seen_firing_silent_and_with_its_source_silent(
    rules: dict[str, dict[str, Any]], cases: list[dict[str, Any]]
) -> None:
    for name in rules:
        if name == ALWAYS:
            continue
        mine = {case["name"].split(name, 1)[1] for case in cases if case["name"].startswith(name)}
        assert any(words == " fires" for words in mine), name
        assert any(words == " stays silent" for words in mine), name
        assert any("source" in words for words in mine), name
    tested = {test["alertname"] for case in cases for test in case["alert_rule_test"]}
    assert tested == set(rules)


def test_a_test_that_fires_expects_an_alert_and_a_silent_one_none(
    cases: list[dict[str, Any]],
) -> None:
    for case in cases:
        first = case["alert_rule_test"][0]
        if case["name"].endswith(" fires"):
            assert first["exp_alerts"], case["name"]
        if case["name"].endswith(" stays silent"):
            assert first["exp_alerts"] == []
            assert case["input_series"], case["name"]


def test_alerts_speak_of_metrics_and_checks_that_exist(rules: dict[str, dict[str, Any]]) -> None:
    known, ids = {metric.name for metric in METRICS} | SITE, set(checks())
    for name, rule in rules.items():
        assert set(re.findall(r"sekisho_[a-z_]+", rule["expr"])) <= known, name
        for check in re.findall(r'check="([^"]+)"', rule["expr"]):
            assert check in ids, name


def test_everything_the_agent_detects_reaches_an_alert(rules: dict[str, dict[str, Any]]) -> None:
    every = "\n".join(rule["expr"] for rule in rules.values())
    shown_otherwise = {
        "6-iii-c.device-let-in": "sekisho_device_let_in",
        "6-iii-c.disk-not-listed": "sekisho_disks_unlisted",
        "6-iii-c.exception-overdue": 'state="overdue"',
        "6-iii-c.exception-unproven": 'state="unproven"',
        "6-iii-c.modules-open": "sekisho_modules_open",
        "6-iv-a.policy-refused": "sekisho_policy_fallback",
        "6-iv-a.guarded-file-changed": "sekisho_file_drift",
        "6-iv-b.listener-opened": "sekisho_listener_unexpected",
        "6-v-b.probe-socket-missing": "sekisho_probe_socket_missing",
    }
    for check in checks():
        told = check.startswith("6-iv-b.") or f'check="{check}"' in every
        assert told or shown_otherwise.get(check, "nowhere") in every, check


@pytest.mark.process
def test_prometheus_own_tool_runs_the_tests(repository: Path) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is needed: apt install prometheus")
        pytest.skip("promtool is not installed")
    files = [path.name for path in sorted((repository / "monitors/tests").glob("*.yml"))]
    done = subprocess.run(
        [tool, "test", "rules", *files],
        cwd=repository / "monitors/tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("SUCCESS") == len(files)


@pytest.mark.process
@pytest.mark.slow
def test_a_rule_that_never_fires_turns_the_tests_red(repository: Path, tmp_path: Path) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    for name in ("rules", "tests"):
        shutil.copytree(repository / "monitors" / name, tmp_path / name)
    path = tmp_path / "rules/6-iii-c.yml"
    path.write_text(path.read_text().replace("device_let_in > 0", "device_let_in > 5"))
    done = subprocess.run(
        [tool, "test", "rules", "6-iii-c.yml"],
        cwd=tmp_path / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "6-iii-c.device-let-in" in done.stdout + done.stderr


def test_one_cause_does_not_fill_the_officers_list(
    repository: Path, rules: dict[str, dict[str, Any]]
) -> None:
    config = yaml.safe_load((repository / "monitors/alertmanager.yml").read_text())
    assert config["route"]["group_by"] == ["host", "item"]
    named = set(re.findall(r"6-[iv]+-[a-z]\.[a-z-]+", str(config)))
    assert named <= set(rules)
    for rule in config["inhibit_rules"]:
        assert "host" in rule["equal"]
