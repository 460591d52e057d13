"""The corpus both ways: every pointer of the catalogue points at something, nothing is an orphan.

All problems of the whole corpus come in one list: whoever breaks it sees everything at once.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import fnmatch
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sekisho.catalogue.judge import Unknown, walk
from sekisho.catalogue.model import ROLES, Catalogue, Op, PolicyValue
from sekisho.catalogue.parse import order
from sekisho.catalogue.paths import Path as DevicePath
from sekisho.catalogue.paths import alerts_of, checks_of, parse_paths, render_paths
from sekisho.catalogue.render import traceability
from sekisho.compile.policy import compile_host
from sekisho.control.catalogue_files import load_catalogue, read_yaml
from sekisho.control.inventory.read import read_inventory
from sekisho.core.languages import cite
from sekisho.devices.modules import GROUPS
from sekisho.probes.registry import registry
from sekisho.site.parse import parse_site
from siteworld import made_up_keys

#: Every item our reading of the regulation names; a file for each and no other.
ITEMS = (
    "6-i-a",
    "6-i-b",
    "6-i-c",
    "6-i-d",
    "6-i-e",
    "6-i-f",
    "6-ii-a",
    "6-ii-b",
    "6-ii-c",
    "6-ii-d",
    "6-iii-a",
    "6-iii-b",
    "6-iii-c",
    "6-iii-d",
    "6-iv-a",
    "6-iv-b",
    "6-iv-c",
    "6-iv-d-1",
    "6-iv-d-2",
    "6-iv-d-3",
    "6-iv-d-4",
    "6-iv-e",
    "6-v-a",
    "6-v-b",
    "6-v-c",
    "6-v-d",
    "12",
    "19",
    "26",
    "36",
    "37",
    "38",
)
GRUB = "hardening/grub/sekisho.cfg"
NOT_CONTENT = {"catalogue", "checks"}
SCENARIO_FILES = {"check.yml", "fail.sh", "pass.sh"}


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def catalogue(root: Path) -> Catalogue:
    return load_catalogue(root / "hardening")


def report(problems: list[str]) -> None:
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(f"  {p}" for p in problems)


def test_every_item_of_our_reading_has_its_file_and_no_other(root: Path) -> None:
    assert sorted(ITEMS, key=order) == sorted(
        (file.stem for file in (root / "hardening/catalogue").iterdir()), key=order
    )


def test_every_file_is_valid_by_its_schema(root: Path) -> None:
    problems = []
    for schema, pattern in (
        ("catalogue.schema.json", "catalogue/*.yml"),
        ("check.schema.json", "checks/*/check.yml"),
        ("device-paths.schema.json", "device-paths.yml"),
    ):
        value = json.loads((root / "hardening" / schema).read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(value)
        validator = jsonschema.Draft202012Validator(value)
        files = sorted((root / "hardening").glob(pattern))
        assert files
        problems += [
            f"{file.relative_to(root)}: {'.'.join(map(str, bad.path))}: {bad.message[:200]}"
            for file in files
            for bad in validator.iter_errors(read_yaml(file))
        ]
    report(problems)


def test_the_schema_says_what_the_parser_says(root: Path) -> None:
    schema = json.loads((root / "hardening/check.schema.json").read_text(encoding="utf-8"))
    assertion = schema["$defs"]["assertion"]["properties"]
    assert assertion["op"]["enum"] == [op.value for op in Op]
    assert schema["properties"]["applies"]["items"]["enum"] == ["all", *ROLES]


def test_the_catalogue_points_at_things_that_exist(root: Path, catalogue: Catalogue) -> None:
    tags, roles = _tags(root), {path.name for path in (root / "playbooks/roles").iterdir()}
    alerts = _alerts(root)
    exercised = "\n".join(_texts(root / "tests/vm"))
    problems = []
    for check in catalogue.checks:
        if check.remedy not in tags:
            problems.append(f"{check.id}: remedy {check.remedy} is no tag of playbooks/site.yml")
        elif check.remedy not in roles:
            problems.append(f"{check.id}: remedy {check.remedy} has no role")
    for item in catalogue.items:
        if item.citation != cite(item.id, "en"):
            problems.append(f"{item.id}: citation {item.citation}, not {cite(item.id, 'en')}")
        problems += [
            f"{item.id}: no alert {a} in monitors/" for a in item.alerts if a not in alerts
        ]
        problems += [
            f"{item.id}: no exercise {name} in tests/vm/"
            for name in item.exercises
            if f'"{name}"' not in exercised
        ]
    problems += [
        f"monitors/rules: alert {name} serves {item or 'no item'}, whose file does not name it"
        for name, item in alerts.items()
        if name not in {alert for one in catalogue.items if one.id == item for alert in one.alerts}
    ]
    report(problems)


def test_every_check_has_its_scenario_and_nothing_else_in_its_folder(root: Path) -> None:
    problems = []
    for folder in sorted((root / "hardening/checks").iterdir()):
        names = {path.name for path in folder.iterdir()}
        problems += [
            f"{folder.name}: no {name}" for name in ("check.yml", "fail.sh") if name not in names
        ]
        problems += [
            f"{folder.name}: {name} is not part of a check" for name in names - SCENARIO_FILES
        ]
        for script in sorted(folder.glob("*.sh")):
            lines = script.read_text(encoding="utf-8").splitlines()
            if lines[:1] != ["#!/bin/sh"] or "set -eu" not in lines[:6]:
                problems.append(f"{folder.name}/{script.name}: begins with #!/bin/sh and set -eu")
            if len([line for line in lines if line.strip() and not line.startswith("#")]) < 2:
                problems.append(f"{folder.name}/{script.name}: does nothing")
    report(problems)


def test_kinds_of_evidence_and_checks_agree(catalogue: Catalogue) -> None:
    checked = {check.item for check in catalogue.checks}
    problems = []
    for item in catalogue.items:
        machine = "machine" in item.evidence
        if item.id in checked and not machine:
            problems.append(f"{item.id}: has checks, but machine is not among its evidence")
        if machine and item.status in ("machine", "partial") and item.id not in checked:
            problems.append(f"{item.id}: status {item.status} without a single check")
        if item.status == "attested" and machine:
            problems.append(f"{item.id}: status attested with machine evidence")
        if item.status == "machine" and item.evidence != ("machine",):
            problems.append(f"{item.id}: status machine, but asks for other evidence too")
        if item.status != "machine" and not item.gaps:
            problems.append(f"{item.id}: status {item.status} without a gap that says why")
    report(problems)


def test_no_two_checks_say_the_same(catalogue: Catalogue) -> None:
    problems = []
    titles: dict[str, str] = {}
    facts: dict[str, list[tuple[str, frozenset[str]]]] = {}
    for check in catalogue.checks:
        problems += [
            f"{check.id}: titled like {titles[title]}: {title}"
            for title in check.title.values()
            if titles.setdefault(title, check.id) != check.id
        ]
        roles = frozenset(ROLES if "all" in check.applies else check.applies)
        # The same fact may serve two items, but not on the same machines.
        problems += [
            f"{check.id}: asserts the same as {other} on the same roles"
            for other, others in facts.setdefault(repr(check.asserts), [])
            if roles & others
        ]
        facts[repr(check.asserts)].append((check.id, roles))
    report(problems)


def test_there_are_at_least_eighty_checks(catalogue: Catalogue) -> None:
    assert len(catalogue.checks) >= 80


def test_every_probe_is_used_by_a_check(catalogue: Catalogue) -> None:
    used = {entry.probe for check in catalogue.checks for entry in check.asserts}
    report([f"probe {name}: no check uses it" for name in sorted(set(registry()) - used)])


def test_every_expectation_from_the_policy_stands_in_the_labs_policies(
    root: Path, catalogue: Catalogue
) -> None:
    policies = lab_policies(root)
    problems = []
    for check in catalogue.checks:
        hosts = {
            name: policy
            for name, policy in policies.items()
            if "all" in check.applies or policy["role"] in check.applies
        }
        if not hosts:
            problems.append(f"{check.id}: applies to no machine of the lab")
        for entry in check.asserts:
            if not isinstance(entry.value, PolicyValue):
                continue
            for name, policy in hosts.items():
                try:
                    walk(policy, entry.value.path)
                except Unknown as missing:
                    problems.append(f"{check.id}: the policy of {name} has {missing}")
    report(problems)


def test_no_content_is_an_orphan(root: Path) -> None:
    users = [root / "playbooks", root / "agent", root / "vagrant", root / "Makefile"]
    text = "\n".join(told for place in users for told in _texts(place))
    patterns = [
        word.removeprefix("hardening/") for word in re.findall(r"[\w./-]+/[\w.-]*\*[\w.*-]*", text)
    ]
    problems = []
    for folder in sorted((root / "hardening").iterdir()):
        if not folder.is_dir() or folder.name in NOT_CONTENT:
            continue
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = file.relative_to(root / "hardening")
            # Named by its path, composed from folder and name, or caught by a pattern.
            composed = f"{relative.parent}/" in text and re.search(
                rf"\b{re.escape(relative.name.partition('.')[0].rstrip('@'))}\b", text
            )
            caught = any(fnmatch.fnmatch(str(relative), pattern) for pattern in patterns)
            if str(relative) not in text and not composed and not caught:
                problems.append(f"hardening/{relative}: no role, unit or package uses it")
    report(problems)


def test_every_role_is_run_under_its_own_tag(root: Path) -> None:
    tags = _tags(root)
    report(
        [
            f"playbooks/roles/{role.name}: not run by playbooks/site.yml under its own tag"
            for role in sorted((root / "playbooks/roles").iterdir())
            if role.is_dir() and role.name not in tags and role.name not in {"guard", "policy"}
        ]
    )


def test_verify_knows_every_remedy_and_takes_them_in_the_order_of_the_site(
    root: Path, catalogue: Catalogue
) -> None:
    play = next(
        p for p in read_yaml(root / "playbooks/verify.yml") if "verify_order" in p.get("vars", {})
    )
    order = play["vars"]["verify_order"]
    assert {check.remedy for check in catalogue.checks if check.remedy} <= set(order)
    site = [entry["role"] for p in read_yaml(root / "playbooks/site.yml") for entry in p["roles"]]
    assert [role for role in site if role in order and role != "terminal"] == [
        role for role in order if role != "terminal"
    ]


def test_the_traceability_page_is_what_the_catalogue_says(root: Path, catalogue: Catalogue) -> None:
    page = root / "docs/reference/traceability.md"
    assert page.read_text(encoding="utf-8") == traceability(catalogue), "run: make docs"


def test_the_device_paths_point_at_things_that_exist_and_nothing_is_left_out(
    root: Path, catalogue: Catalogue
) -> None:
    paths = device_paths(root)
    checks = {check.id for check in catalogue.checks}
    alerts, exercised = _alerts(root), "\n".join(_texts(root / "tests/vm"))
    grub = re.findall(r'"\$GRUB_CMDLINE_LINUX ([^"]*)"', (root / GRUB).read_text(encoding="utf-8"))
    boot = set(grub[0].split())
    problems = []
    for path in paths:
        for kind, names, known in (
            ("check", path.checks, checks),
            ("alert", path.alerts, set(alerts)),
            ("group of modules", path.groups, set(GROUPS)),
            ("boot parameter", path.boot, boot),
        ):
            problems += [f"{path.id}: no {kind} {name}" for name in names if name not in known]
        problems += [
            f"{path.id}: no exercise {name} in tests/vm/"
            for name in path.exercises
            if f'"{name}"' not in exercised
        ]
    named = {check for path in paths for check in checks_of(path, catalogue)}
    problems += [f"{name}: in no path" for name in checks - named if name.startswith("6-iii-c.")]
    told = {alert for path in paths for alert in alerts_of(path)}
    problems += [
        f"{name}: in no path" for name in alerts if name[:8] == "6-iii-c." and name not in told
    ]
    held = {group for path in paths for group in path.groups}
    problems += [
        f"group {name}: in no path"
        for name, group in GROUPS.items()
        if group.area == "devices" and name not in held
    ]
    report(problems)


def test_a_path_of_the_issues_list_is_missing_from_no_table(root: Path) -> None:
    """Every way that somebody tried elsewhere: a row may be split, none may vanish."""
    told = " ".join(f"{path.path['en']} {path.kernel}" for path in device_paths(root)).lower()
    ways = """bot uas mtp ptp libusb tether modem audio printer keyboard hub several sd mmc optical
    virtual floppy firewire thunderbolt usb4 pci nvme sata sas virtio usbip vhci nbd iscsi nvme-of
    aoe drbd nfs smb fuse bluetooth wi-fi wwan irda nfc parallel serial loop gadget kdump netconsole
    ipmi vfio tape"""
    wanted = [*ways.split(), "usb serial"]
    report([f"{way}: in no row" for way in wanted if way not in told])


def test_the_page_of_device_paths_is_what_the_table_says(root: Path, catalogue: Catalogue) -> None:
    page = root / "docs/reference/device-paths.md"
    assert page.read_text(encoding="utf-8") == render_paths(device_paths(root), catalogue), (
        "run: make docs"
    )


def device_paths(root: Path) -> tuple[DevicePath, ...]:
    return parse_paths(read_yaml(root / "hardening/device-paths.yml"))


def test_no_sentence_of_the_regulation_is_in_the_catalogue(
    root: Path, catalogue: Catalogue
) -> None:
    shared = Path(os.environ.get("SEKISHO_SHARED", root.parent / "shared"))
    law = shared / "reference/regulation.txt"
    if not law.is_file():
        if os.environ.get("CI"):
            pytest.fail(f"the regulation's text is not at {law}")
        pytest.skip(f"the regulation's text is not at {law}")
    theirs = _runs(law.read_text(encoding="utf-8"), 9)
    problems = []
    for item in catalogue.items:
        ours = " . ".join((item.title["en"], item.reading["en"], *(gap["en"] for gap in item.gaps)))
        problems += [f"{item.id}: {' '.join(run)}" for run in sorted(_runs(ours, 9) & theirs)]
    for check in catalogue.checks:
        ours = f"{check.title['en']} . {check.rationale}"
        problems += [f"{check.id}: {' '.join(run)}" for run in sorted(_runs(ours, 9) & theirs)]
    report(problems)


def lab_policies(root: Path) -> dict[str, dict[str, Any]]:
    """Return the lab's compiled policies; keys that only a running lab has are made up."""
    site = parse_site(
        dataclasses.replace(read_inventory(root / "inventory/lab"), keys=made_up_keys())
    )
    issued = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
    compiled = (compile_host(site, name, serial=1, issued=issued) for name in site.machines)
    return {one.host: one.as_json() for one in compiled}


def _runs(text: str, size: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}


def _texts(place: Path) -> Iterator[str]:
    files = [place] if place.is_file() else sorted(place.rglob("*")) if place.exists() else []
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts and file.stat().st_size < 1 << 20:
            yield file.read_text(encoding="utf-8", errors="replace")


def _tags(root: Path) -> set[str]:
    found: set[str] = set()
    for play in yaml.safe_load((root / "playbooks/site.yml").read_text(encoding="utf-8")):
        for role in play.get("roles", []):
            if isinstance(role, dict) and role.get("role") in role.get("tags", []):
                found.add(role["role"])
    return found


def _alerts(root: Path) -> dict[str, str]:
    """Return every alert of the monitors' rules and the item it says it serves."""
    found: dict[str, str] = {}
    for file in sorted((root / "monitors/rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    found[rule["alert"]] = rule.get("labels", {}).get("item", "")
    return found


#: Private words of earlier texts, and Japanese that is wrong or mixed (the glossary).
_OLD_ENGLISH = re.compile(r"\b(beside|stands|garbled|stranger|hangs on)\b", re.IGNORECASE)
_OLD_JAPANESE = re.compile(
    "台帳|記録簿|施設|ドライバー|待受|無い|関門|橋渡し|機体|命令書|行規律|入退"
)
_LONGEST_SENTENCE = 25  # words


def test_titles_and_rationales_are_short_and_in_the_fields_words(catalogue: Catalogue) -> None:
    problems = []
    for check in catalogue.checks:
        sentences = re.split(r"(?<=[.!?])\s+", check.rationale.strip())
        if len(sentences) > 2:
            problems.append(f"{check.id}: a rationale of {len(sentences)} sentences, at most two")
        problems += [
            f"{check.id}: a sentence of {len(one.split())} words: {one}"
            for one in sentences
            if len(one.split()) > _LONGEST_SENTENCE
        ]
        for text, old in (
            (f"{check.title['en']} {check.rationale}", _OLD_ENGLISH),
            (check.title["ja"], _OLD_JAPANESE),
        ):
            problems += [f"{check.id}: {word}" for word in old.findall(text)]
    report(problems)
