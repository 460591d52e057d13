"""Whatever the kernel announces, and however much: each device that came is judged, and once.

The scenes are in deviceworld.py; each is also played with the part that it is about taken out.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ownspace import scene

WORLD = Path(__file__).with_name("deviceworld.py")

pytestmark = pytest.mark.kernel


@cache
def played(name: str, mutant: str = "") -> Any:
    return scene(WORLD, name, mutant)


def test_the_monitor_reads_what_the_kernel_itself_writes() -> None:
    assert played("own")["failures"] == []


@pytest.mark.parametrize(
    "name", ["burst", "overflow", "drained", "reopened", "vanished", "hostile", "elsewhere"]
)
def test_each_device_that_came_is_judged_and_none_twice(name: str) -> None:
    told = played(name)
    assert (told["missed"], told["twice"]) == ([], [])
    assert told["counted"] == told["attached"] > 0
    assert told["up"] == 1


def test_a_burst_that_is_read_in_time_loses_nothing() -> None:
    told = played("burst")
    assert told["attached"] == 5000
    assert told["losses"] == []
    assert {one["when"] for one in told["attempts"]} == {"plugged"}


@pytest.mark.parametrize("name", ["overflow", "drained", "elsewhere"])
def test_a_full_buffer_is_counted_told_and_made_good_by_looking(name: str) -> None:
    told = played(name)
    (loss,) = told["losses"]
    assert loss["lost"] >= 400
    assert told["dropped"] >= loss["lost"]
    assert loss["found"] >= 4
    assert told["failures"] == []


def test_after_a_loss_the_monitor_hears_again() -> None:
    """pyudev's never did: it took the full buffer for the socket's end."""
    (loss,) = played("overflow")["losses"]
    assert played("overflow")["attached"] == 5001
    assert loss["found"] < 5000


def test_what_came_while_no_monitor_was_open_is_found() -> None:
    told = played("reopened")
    assert [one["when"] for one in told["attempts"]] == [
        "plugged", "found", "found", "found", "plugged",
    ]  # fmt: skip
    assert told["failures"] == ["devices: [Errno 5] Input/output error", "up: 0"]


def test_a_device_that_is_gone_or_replaced_is_told_by_its_announcement() -> None:
    attempts = played("vanished")["attempts"]
    assert [one["decision"] for one in attempts] == ["unknown"] * 2 + ["refused"] + ["unknown"] * 3
    assert {one["reason"] for one in attempts if one["decision"] == "unknown"} == {
        "it was gone before it could be read"
    }
    assert (attempts[0]["vendor"], attempts[0]["product"]) == ("46f4", "0001")
    assert [one["class"] for one in attempts[3:]] == ["block", "network", "thunderbolt"]


def test_strings_of_a_devices_maker_are_tamed_and_garbled_announcements_are_losses() -> None:
    told = played("hostile")
    assert told["losses"] == [{"lost": 8, "found": 0}]
    assert len(told["attempts"]) == 11
    for attempt in told["attempts"]:
        texts = [text for text in attempt.values() if isinstance(text, str)]
        assert all(text.isprintable() and len(text) <= 128 for text in texts)
    assert told["attempts"][-1]["subsystem"] == "usb"


def test_the_machines_own_parts_are_not_told() -> None:
    told = played("elsewhere")
    assert sorted(one["name"] for one in told["attempts"]) == ["0-1", "eth1", "sda", "sdb"]
    assert {one["when"] for one in told["attempts"]} == {"found"}


@pytest.mark.parametrize(
    ("name", "mutant", "shown"),
    [
        ("drained", "no resync", "missed"),
        ("reopened", "no resync", "missed"),
        ("elsewhere", "no resync", "missed"),
        ("drained", "told at once", "missed"),
        ("drained", "no memory", "twice"),
    ],
)
def test_each_part_of_it_is_needed(name: str, mutant: str, shown: str) -> None:
    assert played(name, mutant)[shown]


def test_a_loss_that_is_not_counted_would_be_seen() -> None:
    told = played("drained", "no counter")
    assert told["dropped"] == 0
    assert told["counted"] == 0
