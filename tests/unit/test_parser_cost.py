"""What a host sends costs the reader in proportion: measured in processor time, not in rounds.

For every byte value and each separator 256 KiB take at most six times what 64 KiB take; the whole
table takes under a minute. Every probe is in it by itself, and none without a well-formed outcome.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hostiletexts import BIG, HUGE, SEPARATORS, SMALL, everything, outcomes, repeated, seconds
from hostiletexts import too_much
from sekisho.probes.registry import registry

SEEDS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "golden/outcomes.json").read_text(encoding="utf-8")
)
_spent = {"s": 0.0}


def test_every_probe_has_a_well_formed_outcome_to_begin_with() -> None:
    assert set(SEEDS) == set(registry()), "give the probe an outcome in golden/outcomes.json"
    for name, probe in registry().items():
        assert set(SEEDS[name]) == set(probe.operations), name
        probe.parse(SEEDS[name])


@pytest.mark.parametrize("name", sorted(registry()))
def test_a_probe_reads_in_proportion(name: str) -> None:
    probe, seed = registry()[name], SEEDS[name]
    began = time.process_time()
    slow: dict[str, str] = {}
    for label in probe.operations:
        for (what, big), (_, small) in zip(
            outcomes(probe, seed, label, BIG), outcomes(probe, seed, label, SMALL), strict=True
        ):
            told = too_much(lambda small=small: probe.parse(small), lambda big=big: probe.parse(big))
            if told:
                slow[f"{label}: {what}"] = told
    small, big = everything(seed, SMALL), everything(seed, BIG)
    if told := too_much(lambda: probe.parse(small), lambda: probe.parse(big)):
        slow["all at once"] = told
    _spent["s"] += time.process_time() - began
    assert slow == {}
