"""Every kind of network drift in a real kernel: noticed within a second, put right where safe."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from networkworld import CHANGES
from ownspace import scene

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

WORLD = Path(__file__).with_name("networkworld.py")


@cache
def seen() -> Any:
    """Return what the scene saw, in namespaces that ended with it."""
    return scene(WORLD)


def test_a_network_as_declared_is_quiet_and_unwatched_drift_stays() -> None:
    assert seen()["at first"] == []
    assert seen()["quiet"] == []
    assert seen()["failed"] == []
    assert seen()["unwatched"] == ["route 10.8.0.0/16 via 10.77.3.1 dev eth1"]


@pytest.mark.parametrize("name", CHANGES)
def test_the_change_is_noticed_within_a_second_with_its_difference(name: str) -> None:
    one = seen()["changes"][name]
    assert one["told"], one
    assert one["told"][0], one
    assert one["ms"] < 1000


@pytest.mark.parametrize("name", [name for name, (_, mends) in CHANGES.items() if mends])
def test_what_is_safe_is_put_right(name: str) -> None:
    assert seen()["changes"][name]["left"] == []


@pytest.mark.parametrize("name", [name for name, (_, mends) in CHANGES.items() if not mends])
def test_what_could_cut_the_administrator_or_is_not_ours_to_mend_is_left(name: str) -> None:
    assert seen()["changes"][name]["left"] != []


def test_forwarding_set_for_all_is_off_again_at_every_card() -> None:
    still = seen()["changes"]["forwarding of all"]["left"]
    assert {line for line in still if line.startswith("forwarding")} == {
        "forwarding ipv4 all", "forwarding ipv4 default",
    }  # fmt: skip


def test_what_is_undone_before_anybody_looks_and_what_comes_in_a_flood_is_told() -> None:
    assert seen()["in passing"] == [["rule ipv4 9: lookup 7 appeared"]]
    assert seen()["burst"]
    (told,) = seen()["burst"]
    assert all("10.200." in line for line in told[:-1])
    assert told[-1] == "and 180 more"


def test_idle_it_costs_next_to_nothing() -> None:
    assert seen()["idle share of a core"] < 0.01
