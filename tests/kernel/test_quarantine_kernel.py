"""The quarantine's switch in real kernels: cut, left, kept, set free."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ownspace import scene

from sekisho.host.kernel.quarantine import FILE

pytestmark = pytest.mark.kernel

WORLD = Path(__file__).with_name("quarantineworld.py")
FREE = {"ssh": True, "flow": True, "desk": True, "metrics": True,
        "metrics from the controller": False, "time": True, "loopback": True}  # fmt: skip
SHUT = FREE | {"ssh": False, "flow": False, "desk": False}


@cache
def seen(name: str) -> Any:
    """Return what a scene saw, in namespaces that ended with it."""
    return scene(WORLD, name)


def test_a_quarantined_host_keeps_its_monitor_and_nothing_else() -> None:
    assert seen("host")["before"] == FREE
    assert seen("host")["on"] == SHUT
    assert seen("host")["dropped"]


def test_a_session_that_was_open_ends_with_the_switch() -> None:
    assert (seen("host")["session before"], seen("host")["session on"]) == (True, False)


def test_a_restart_keeps_the_host_quarantined_by_the_switch_s_own_file() -> None:
    assert seen("host")["kept"]
    assert seen("host")["the rules alone, restarted"]  # the control: it is the file that does it
    assert seen("host")["restarted"] == SHUT
    assert seen("host")["the unit asks for the file"] == str(FILE)


def test_set_free_everything_declared_passes_again_and_stays_so() -> None:
    assert seen("host")["off"] == FREE
    assert not seen("host")["kept when off"]


def test_a_quarantined_gateway_passes_nothing_on_not_even_an_open_push() -> None:
    assert seen("gateway") == {"before": [True, True], "on": [False, False], "off": [True]}


def test_no_table_passes_by_its_name_but_the_guards_own_before_the_first_load() -> None:
    both = [["inet", name] for name in ("sekisho_twin", "sekisho_untracked", "visitor")]
    assert seen("tables")["beside our own"] == [*both, *(["ip", name] for _, name in both)]
    assert seen("tables")["before the first load"] == [both[0], both[2]]


def test_a_full_disk_does_not_keep_the_switch_from_being_thrown_and_kept() -> None:
    seen_there = seen("full_disk")
    assert seen_there == {"refused": "No space left on device", "on": True, "kept": True}


def test_the_switch_is_thrown_at_once() -> None:
    # Ten milliseconds are the goal for the kernel's transaction (docs/flows.md has the figures);
    # a busy machine is no defect, a second would be.
    assert seen("speed")["whole"]["median"] < 1000
