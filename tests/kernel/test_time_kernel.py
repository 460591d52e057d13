"""No wrong packet passes the gateway at any time, and a right flow is not broken by a reload."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from ownspace import outcome
from timebench import KINDS
from timetable import phases, run

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.quiet_machine]

#: Scene → the phases in which the wall stands.
WALLED = {
    "boot": ("boot", "no rules", "after the control"),
    "reload": ("none", "guard", "unit", "agent", "rolled back"),
    "card": ("inner", "outer", "swapped", "new", "taken"),
    "flap": ("outer", "inner", "far"),
    "killed": ("killed", "owner lives"),
    "conntrack": ("seen",),
    "disk": ("seen",),
}
EVERY = [(scene, phase) for scene, names in WALLED.items() for phase in names]


@cache
def seen(scene: str) -> Any:
    """Return what a scene saw, in namespaces that ended with it."""
    return outcome(*run(scene))


def carried_on(phase: dict[str, Any]) -> None:
    """Assert that the delivery was whole and never more than a second behind.

    A machine that gives the prober no time for long gives the two ends of the flow none, either:
    only then is more allowed, twice as much.
    """
    flow = phase["flow"]
    assert flow["whole"], flow
    assert flow["got"] > 0
    assert 0 <= flow["pause"] < max(1.0, 2 * phase["probes"]["longest_silence"]), flow


@pytest.mark.parametrize(("scene", "name"), EVERY, ids=map(" ".join, EVERY))
def test_no_wrong_packet_reaches_the_hospital(scene: str, name: str) -> None:
    phase = seen(scene)[name]
    assert phase["wrong"] == {}, phase["samples"]
    assert phase["lost"] == 0, "the capture missed frames"
    assert phase["per_second"] >= 1000
    assert set(phase["probes"]["kinds"]) == set(KINDS)
    assert min(phase["probes"]["kinds"].values()) > 0


@pytest.mark.parametrize("scene", list(WALLED))
def test_no_phase_goes_unjudged(scene: str) -> None:
    walled = {name for name, _, control in phases(seen(scene)) if not control}
    assert walled == set(WALLED[scene])
    assert any(control for _, _, control in phases(seen(scene)))


@pytest.mark.parametrize("scene", ["reload", "conntrack", "disk"])
def test_without_rules_the_same_capture_sees_probes_of_every_kind(scene: str) -> None:
    assert set(seen(scene)["open"]["wrong"]) >= set(KINDS)


@pytest.mark.parametrize("scene", ["boot", "card", "flap", "killed"])
def test_a_hole_in_the_same_moment_is_seen(scene: str) -> None:
    assert sum(seen(scene)["control"]["wrong"].values()) > 100


def test_the_units_load_the_rules_first_and_without_them_no_link_comes_up() -> None:
    got = seen("boot")
    assert got["order"] == ["sekisho-nftables.service", "systemd-networkd.service"]
    assert got["started"] == got["order"]
    assert got["delivers"]
    assert got["started without rules"] == []
    assert set(got["links up"]) == {"lo", "eth0"}, "the scene leaves management alone"


@pytest.mark.parametrize("who", ["guard", "unit", "agent", "rolled back"])
def test_a_right_flow_is_not_broken_for_a_second_by_reloads(who: str) -> None:
    assert seen("reload")["count"] == 200
    carried_on(seen("reload")[who])


def test_a_load_in_two_transactions_leaks_which_proves_that_a_short_hole_is_seen() -> None:
    assert sum(seen("reload")["two transactions"]["wrong"].values()) > 0


def test_a_renamed_card_passes_nothing_and_the_delivery_goes_on_under_the_old_name() -> None:
    got = seen("card")
    assert not got["swapped"]["delivers meanwhile"]
    for name in ("inner", "outer", "swapped"):
        assert got[name]["flow"]["whole"], name
        # The delivery did stand still meanwhile: the name was what let it pass.
        assert got[name]["flow"]["pause"] > 0.7, name
    carried_on(got["new"])
    assert got["delivers"]


@pytest.mark.parametrize("link", WALLED["flap"])
def test_a_delivery_outlives_a_link_that_flaps(link: str) -> None:
    assert seen("flap")[link]["flow"]["whole"]
    assert seen("flap")["delivers"]


def test_a_killed_agent_leaves_the_rules_whole() -> None:
    got = seen("killed")
    assert got["whole"] == got["times"] > 0
    assert [(one["family"], one["name"]) for one in got["tables"]] == [("inet", "sekisho")]
    assert "owner" not in got["tables"][0].get("flags", [])
    carried_on(got["killed"])


def test_a_full_connection_table_opens_nothing_and_comes_back() -> None:
    got = seen("conntrack")
    assert got["delivers before"]
    assert got["half open"]
    assert got["delivers, half open"], "half-open entries give way"
    assert got["refused in a row"] == 5
    assert got["still full"]
    assert got["drained"]["count"] < got["limit"]
    assert got["delivers after"]
    carried_on(got["seen"])  # what was open before goes on all the while


@pytest.mark.parametrize("which", ["etc full", "state full"])
def test_rules_that_cannot_be_written_change_nothing(which: str) -> None:
    got = seen("disk")[which]
    assert got["refused"].startswith("GuardError")
    assert "No space left" in got["refused"]
    assert (got["file"], got["loaded"]) == ("old", "old")
    assert (got["left"], got["pending"], got["kept"]) == ([], False, ["lock"])


def test_with_room_the_same_change_is_made() -> None:
    got = seen("disk")["room"]
    assert (got["refused"], got["file"], got["loaded"]) == ("", "new", "new")


def test_a_full_disk_does_not_keep_loaded_rules_from_going_back() -> None:
    got = seen("disk")["rolled back, etc full"]
    assert (got["file"], got["loaded"]) == ("new", "old")
    assert got["refused"].startswith("GuardError: not put back on disk")
    assert got["pending"], "the next start tries again"
    again = seen("disk")["rolled back, room"]
    assert (again["refused"], again["file"], again["loaded"]) == ("", "old", "old")
    assert not again["pending"]
    carried_on(seen("disk")["seen"])
