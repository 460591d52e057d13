"""Attack 7, asserted: every way out of inbound, pulling from core, and a flood."""

from __future__ import annotations

import pytest
from tests.vm.demo import attack
from tests.vm.trial import Lab

pytestmark = pytest.mark.vm


def test_nothing_gets_out_and_the_flood_shuts_nobody_out(provisioned: Lab) -> None:
    trial = attack(provisioned, "attack_7_one_way")
    assert trial.expectations, "nothing was tried"
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []
