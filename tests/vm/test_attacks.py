"""The proof, the seven attacks (the demo tells six) and the lock-out, asserted: nothing may be broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.vm import proof
from tests.vm.attacks import attack_4_loosening
from tests.vm.demo import (
    ATTACKS,
    AUDIT,
    TOLD,
    attacks,
    public_of,
    signing_key,
    verified,
)
from tests.vm.trial import Lab, Trial

pytestmark = pytest.mark.vm
SIX = [name for name in ATTACKS if name.split("_")[1] in TOLD]


def test_what_the_kernels_have_loaded_is_proven(provisioned: Lab, tmp_path: Path) -> None:
    key = signing_key(tmp_path / "auditor")
    seen = provisioned.inside(*AUDIT, "--out", tmp_path, "--sign-key", key, timeout=600)
    assert seen.code in (0, 2), seen.out[-2000:] + seen.err
    bundle = next(tmp_path.glob("evidence-*"))
    assert verified(bundle, key)["exit_code"] == 0
    trial = proof.main(bundle, public_of(key))
    assert trial.expectations, "nothing was tried"
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []


@pytest.fixture(scope="module")
def trials(provisioned: Lab) -> dict[str, Trial]:
    return {trial.name: trial for trial in attacks(provisioned, SIX)}


@pytest.mark.parametrize("name", SIX)
def test_an_attack_breaks_nothing(trials: dict[str, Trial], name: str) -> None:
    assert trials[name].expectations, "nothing was tried"
    assert [f"{entry.what}: {entry.seen}" for entry in trials[name].broken] == []


def test_rules_that_lock_the_owner_out_free_themselves(provisioned: Lab) -> None:
    trial = Trial("lockout")
    attack_4_loosening.lockout(provisioned, trial)
    assert trial.expectations, "nothing was tried"
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []
