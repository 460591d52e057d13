"""Every check passes on its machine, turns red when broken, and green again after the playbook."""

from __future__ import annotations

import pytest
from tests.vm.scenarios import CHECKS, Outcome, assign, battery
from tests.vm.trial import Lab

pytestmark = pytest.mark.vm
ALL = sorted(path.name for path in CHECKS.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def outcomes(provisioned: Lab) -> dict[str, Outcome]:
    return battery(provisioned)


def test_only_checks_of_the_terminal_alone_are_not_tried_here() -> None:
    untried = set(ALL) - set(assign(ALL))
    assert all("terminal" in check for check in untried), untried


@pytest.mark.parametrize("check", sorted(assign(ALL)))
def test_a_check_is_green_then_red_then_green(outcomes: dict[str, Outcome], check: str) -> None:
    outcome = outcomes[check]
    assert outcome.script == "", f"scenario script on {outcome.host}: {outcome.script}"
    assert outcome.varied == "pass", f"before it is broken, on {outcome.host}"
    assert outcome.broken == "fail", f"{outcome.host}: {outcome.detail.get('observed')}"
    assert outcome.remedied == "pass", f"after the playbook, on {outcome.host}"
