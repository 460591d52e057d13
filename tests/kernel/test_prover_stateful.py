"""Stateful rule sets, kinds mixed: nothing the kernel passes is excluded by the prover's model."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import stategrammar
from statemutants import MUTANTS, found_at
from stateworld import Tally, answers, read

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

#: The recorded battery is `stateworld.py --rulesets 2000`; here as many as fit into a minute.
FIRST, LAST, PACKETS = 1, 301, 10
#: Rule sets of the battery that once showed the model unsound.
FOUND = (1723,)
#: Unsound models that these few rule sets find; `statemutants.py` asks all of them.
QUICK = (
    "a packet leaves as it came",
    "equal priorities in listed order",
    "notrack works behind tracking",
    "a zone makes no template", "one variable per ct key", "transport checksums stay",
    "the transport header never moves", "no mark kept over the loopback",
)  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the kernel did, rule set by rule set."""
    path = tmp_path_factory.mktemp("stateful") / "answers"
    try:
        lines = [
            json.dumps(one)
            for first, last in ((FIRST, LAST), *((seed, seed + 1) for seed in FOUND))
            for one in answers(first, last, PACKETS, [["nft"]])
        ]
    except subprocess.CalledProcessError as bad:
        if "unshare" in (bad.stderr or "") and not os.environ.get("CI"):
            pytest.skip(f"no namespaces here: {bad.stderr.strip()}")
        raise AssertionError(bad.stderr) from bad
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_no_packet_that_passes_is_excluded(kept: Path) -> None:
    tally = Tally()
    for answer in read(kept):
        tally.add(answer)
    told = "\n".join(tally.lines())
    assert tally.unsound == [], told
    assert tally.counts["rule sets"] > 200, told
    assert tally.counts["passed"] > 0.3 * tally.counts["pairs"] > 600, told
    assert tally.counts["pairs not understood"] < 0.2 * tally.counts["pairs"], told
    assert tally.counts["dropped: excluded"] > 20, told
    assert all(tally.sets[kind] >= 5 for kind in stategrammar.KINDS), told


@pytest.mark.parametrize("name", QUICK)
def test_an_unsound_model_is_found(kept: Path, name: str) -> None:
    assert found_at(name, kept), f"{name}: no packet shows that it is unsound"


def test_every_kind_is_in_many_rule_sets_and_each_seed_gives_the_same() -> None:
    made: list[dict[str, Any]] = [stategrammar.made(seed, PACKETS) for seed in range(1, 2001)]
    kinds = [kind for one in made for kind in one["kinds"]]
    assert {kind for kind in stategrammar.KINDS if kinds.count(kind) < 100} == set()
    assert len({one["text"] for one in made}) > 1990
    assert made[:20] == [stategrammar.made(seed, PACKETS) for seed in range(1, 21)]
    assert set(QUICK) <= set(MUTANTS)
