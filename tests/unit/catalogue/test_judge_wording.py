"""How a finding words what it saw: without a policy, on one half only, or not set at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sekisho.catalogue.judge import Fact, HostFacts, judge
from sekisho.catalogue.model import Assertion, Check, Finding, Op, PolicyValue, Verdict
from sekisho.catalogue.wording import setting
from sekisho.control.catalogue_files import load_catalogue

CHECKS = load_catalogue(Path(__file__).resolve().parents[3] / "hardening").checks
BY_ID = {check.id: check for check in CHECKS}
SITE_BOUND = [
    check for check in CHECKS if any(isinstance(one.value, PolicyValue) for one in check.asserts)
]


def on(check: Check, facts: dict[str, Any], policy: dict[str, Any] | None = None) -> Finding:
    known = {name: Fact(value=value) for name, value in facts.items()}
    role = "core" if "all" in check.applies else check.applies[0]
    return judge(check, HostFacts(host="h", role=role, facts=known, policy=policy))


def put(fact: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    for part in key[:-1]:
        fact = fact.setdefault(part, {})
    fact[key[-1]] = value


def far_off(one: Assertion) -> Any:
    """Return a value that no machine should have there."""
    match one.op:
        case Op.EMPTY | Op.LACKS | Op.SUBSET_OF | Op.SAME_SET | Op.CONTAINS:
            return ["nobody-declared-this", *(one.value if one.op is Op.LACKS else ())]
        case Op.AT_MOST:
            return int(one.value) + 1
        case Op.AT_LEAST:
            return int(one.value) - 1
        case Op.NOT_EQUALS:
            return one.value
        case _:
            return "nobody-declared-this"


@pytest.mark.parametrize("check", SITE_BOUND, ids=lambda check: check.id)
def test_what_depends_on_the_site_is_no_breach_without_its_policy(check: Check) -> None:
    facts: dict[str, Any] = {}
    for one in check.asserts:
        if not one.always:
            put(facts.setdefault(one.probe, {}), one.key, far_off(one))
        elif one.op is Op.EMPTY:
            put(facts.setdefault(one.probe, {}), one.key, [])
    found = on(check, facts)
    assert found.verdict is Verdict.ERROR
    assert "no site policy" in found.observed
    if len(check.asserts) > 1:
        # With a policy, even one that says nothing of it, the rest of the check is judged.
        held = on(check, facts, policy={})
        assert "no site policy" not in held.observed


def test_what_is_wrong_on_any_machine_fails_without_a_policy_too() -> None:
    check = Check(
        id="6-iv-a.example", title={"en": "e", "ja": "j"}, applies=("all",), by_hand="-",
        remedy="kernel", scenario="root",
        asserts=(
            Assertion("disk", "p", ("bad",), Op.EMPTY, always=True),
            Assertion("disk", "p", ("own",), Op.SUBSET_OF, PolicyValue(("accounts",))),
        ),
    )  # fmt: skip
    assert on(check, {"p": {"bad": ["guest"], "own": []}}).verdict is Verdict.FAIL
    assert on(check, {"p": {"bad": [], "own": ["x"]}}).verdict is Verdict.ERROR
    assert on(check, {"p": {"bad": [], "own": []}}, {"accounts": []}).verdict is Verdict.PASS


def units(masked: list[str], active: list[str]) -> dict[str, Any]:
    return {
        "unit-files": {"masked": masked, "enabled": []},
        "units": {"active": [*active, "ssh.service"]},
    }


def test_a_unit_that_could_be_started_is_not_masked_rather_than_missing() -> None:
    check = BY_ID["6-iii-c.automounters-masked"]
    told = on(check, units(["autofs.service"], []))
    assert told.verdict is Verdict.FAIL
    assert told.observed == "in force now, not kept over a boot: not masked: udisks2.service"
    told = on(check, units(["autofs.service", "udisks2.service"], ["autofs.service"]))
    assert told.observed == "will hold after a boot, not in force now: running: autofs.service"
    told = on(check, units(["autofs.service"], ["autofs.service"]))
    assert "in force" not in told.observed
    assert "not masked: udisks2.service" in told.observed


def sysctl(check: str, disk: str | None, live: str) -> Finding:
    name = next(one.key[1] for one in BY_ID[check].asserts if one.where == "runtime")
    facts = {"disk": {} if disk is None else {name: disk}, "runtime": {name: live}}
    return on(BY_ID[check], {"sysctl": facts | {"interfaces": {}}})


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ("6-iv-a.kernel-log-restricted", "1", "0"),
        ("6-iv-a.syncookies-on", "1", "0"),
        ("6-iv-a.userfaultfd-restricted", "0", "1"),
        ("6-iv-a.bpf-unprivileged-off", "2", "0"),
    ],
)
def test_a_setting_says_which_half_of_it_holds(check: str, good: str, bad: str) -> None:
    only_now = sysctl(check, None, good)
    assert only_now.verdict is Verdict.FAIL
    assert only_now.observed == "in force now, not kept over a boot: not set"
    assert sysctl(check, bad, good).observed.startswith("in force now, not kept over a boot")
    assert sysctl(check, good, bad).observed.startswith("will hold after a boot, not in force now")
    assert "in force" not in sysctl(check, bad, bad).observed
    assert sysctl(check, good, good).verdict is Verdict.PASS


def test_a_half_is_named_only_where_the_other_half_was_seen_to_hold() -> None:
    """A check of several settings: the limits are no half of the kernel's pattern."""
    facts: dict[str, Any] = {}
    for one in BY_ID["6-iii-d.core-dumps-off"].asserts:
        put(facts.setdefault(one.probe, {}), one.key, one.value)
    facts["core-dumps"]["limits"].pop("root")
    told = on(BY_ID["6-iii-d.core-dumps-off"], facts)
    assert told.verdict is Verdict.FAIL
    assert told.observed == "not set"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_a_catalogues_mark_for_nothing_is_never_shown_as_observed(check: Check) -> None:
    for one in check.asserts:
        if not one.has_missing or isinstance(one.value, PolicyValue):
            continue
        alone = Check(
            id=check.id, title=check.title, applies=("all",), asserts=(one,), by_hand="-",
            remedy=check.remedy, scenario=check.scenario,
        )  # fmt: skip
        facts: dict[str, Any] = {}
        put(facts, one.key, None)
        held = facts
        for part in one.key[:-1]:
            held = held[part]
        held.pop(one.key[-1])
        told = on(alone, {one.probe: facts})
        bare = told.verdict is Verdict.FAIL or one.missing in (None, "", [])
        wanted = "not set" if bare else f"not set (default: {one.missing})"
        assert told.observed == wanted


def test_settings_of_two_probes_are_one_only_where_they_are() -> None:
    """Every pair that is taken for one setting on disk and at run time, in one list to read."""
    pairs = {
        (disk.probe, disk.key[-1], live.probe, live.key[-1])
        for check in CHECKS
        for disk in check.asserts
        for live in check.asserts
        if (disk.where, live.where) == ("disk", "runtime")
        and setting(disk) == setting(live)
        and disk.probe != live.probe
    }
    assert pairs <= {
        ("audit-rules", "b", "audit-status", "backlog_limit"),
        ("audit-rules", "e", "audit-status", "enabled"),
        ("audit-rules", "f", "audit-status", "failure"),
        ("audit-rules", "loginuid-immutable", "audit-status", "loginuid_immutable"),
        ("networkd", "addresses", "links", "addresses"),
        ("nftables", "tables", "legacy-tables", "tables"),
        ("networkd", "default", "routes", "default"),
        ("networkd", "leased", "links", "leased"),
        ("networkd", "macs", "links", "macs"),
        ("networkd", "routes", "routes", "routes"),
        ("time-configuration", "sources", "time", "sources"),
        ("unit-files", "enabled", "units", "active"),
        ("unit-files", "masked", "units", "active"),
    }
