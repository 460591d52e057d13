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

from sekisho.core.languages import cite
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
        assert notes["runbook"] == f"/usr/share/sekisho/runbooks/{name}.md"
        for text in (notes["summary"], notes["summary_ja"]):
            assert text.strip()
        assert JAPANESE.search(notes["summary_ja"]), name


SECTIONS = {
    "English": ("What it says.", "What it means.", "First minute.", "What to do."),
    "日本語": ("表示。", "意味。", "最初の一分。", "対応。"),
}
SEVERITIES = {"critical": "重大", "warning": "警告", "none": "情報"}
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def sections(half: str) -> dict[str, str]:
    """Return the text under each bold heading of one language's half, in order."""
    _, *parts = re.split(r"^\*\*([^*]+)\*\*", half, flags=re.MULTILINE)
    return dict(zip(parts[::2], (text.strip() for text in parts[1::2]), strict=True))


def steps(text: str) -> list[str]:
    return re.findall(r"^[0-9]+\. (.+)$", text, flags=re.MULTILINE)


def commands(text: str) -> set[str]:
    """Return the commands a text names, without what stands for a value."""
    return {
        " ".join(re.findall(r"[\w./:=-]+", code))
        for code in re.findall(r"`([^`]+)`", text)
        if re.match(
            r"(sudo|playbooks/|sekisho |systemctl|ansible-playbook|amtool|promtool) ?", code
        )
    }


def halves_differ(english: dict[str, str], japanese: dict[str, str]) -> list[str]:
    """Return what one language's half says and the other does not."""
    found = []
    one, other = english["What to do."], japanese["対応。"]
    if not steps(one) or len(steps(one)) != len(steps(other)):
        found.append(f"{len(steps(one))} steps in English, {len(steps(other))} in Japanese")
    if differing := commands(one) ^ commands(other):
        found.append(f"only one language names {sorted(differing)}")
    found += [f"no Japanese: {text}" for text in japanese.values() if not JAPANESE.search(text)]
    found += [f"Japanese in English: {text}" for text in english.values() if JAPANESE.search(text)]
    return found


def summaries_differ(rule: dict[str, Any], english: str, japanese: str) -> list[str]:
    found = []
    for key, said in (("summary", english), ("summary_ja", japanese)):
        label = re.compile(r"\{\{ \$labels\.(\w+) \}\}")
        summary = label.sub(lambda found: found[1].upper(), rule["annotations"][key])
        if said.rstrip(".。") != summary.rstrip(".。"):
            found.append(f"{key} is {summary!r}, the page says {said!r}")
    return found


def test_every_runbook_says_the_same_in_both_languages(
    repository: Path, rules: dict[str, dict[str, Any]]
) -> None:
    """The same sections, as many steps, the same commands; the summary is the alert's own."""
    problems = []
    for name, rule in rules.items():
        item, severity = rule["labels"]["item"], rule["labels"]["severity"]
        page = (repository / f"monitors/runbooks/{name}.md").read_text(encoding="utf-8")
        head, *halves = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
        told = f"Item {cite(item, 'en')} {cite(item, 'ja')} · severity {severity} "
        found = dict(zip(halves[::2], (sections(half) for half in halves[1::2]), strict=True))
        if head.strip() != f"# {name}\n\n{told}{SEVERITIES[severity]}":
            problems.append(f"{name}: its head is not its alert's: {head!r}")
        if {key: tuple(one) for key, one in found.items()} != SECTIONS:
            problems.append(f"{name}: not the sections {SECTIONS}")
            continue
        english, japanese = found["English"], found["日本語"]
        says = summaries_differ(rule, english["What it says."], japanese["表示。"])
        problems += [f"{name}: {one}" for one in (*halves_differ(english, japanese), *says)]
    assert not problems, "\n".join(problems)


def test_the_first_minute_needs_no_root(repository: Path) -> None:
    """Whoever reads it at three in the morning has an account on the monitor and nothing else."""
    for path in sorted((repository / "monitors/runbooks").glob("*.md")):
        halves = re.split(r"^## .+$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        for half, heading in zip(halves, ("First minute.", "最初の一分。"), strict=True):
            first = sections(half)[heading]
            assert "sudo" not in first, path.name
            assert "/var/lib" not in first, path.name


def test_no_runbook_has_the_caller_expand_a_wildcard_in_roots_folder(repository: Path) -> None:
    """``sudo grep x /var/lib/sekisho/journal/*.jsonl`` finds no file: only root may list it."""
    for path in [
        *(repository / "monitors/runbooks").glob("*.md"),
        *(repository / "docs").glob("*.md"),
    ]:
        for code in re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8")):
            bare = re.sub(r"sh -c '[^']*'", "", code)
            assert not re.search(r"sudo [^|;]*/var/lib/sekisho/\S*\*", bare), f"{path.name}: {code}"


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
