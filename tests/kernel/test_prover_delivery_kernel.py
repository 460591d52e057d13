"""What the prover says of deliverability is what the kernel does, over a set of broken networks."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from deliveryworld import CHANGES
from ownspace import scene

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

#: Changes that stop nothing; every other stops something.
HARMLESS = {
    "nothing", "a default route by the same hop", "no forwarding at management",
    "one more address", "a rule that leads the same way", "a rule of another interface",
    "a rule of nobody", "a rule that leaves out the default", "a worse route elsewhere",
    "ARP by route", "the same, and ARP asks as the packet's source",
    "the same, and ARP answers for all", "ARP of others dropped", "a policy not asked",
    "a policy for others", "a policy that encrypts where none may",
}  # fmt: skip


@cache
def seen() -> Any:
    """Return what was said and what arrived, in namespaces that ended with it."""
    return scene(Path(__file__).with_name("deliveryworld.py"), timeout=900)


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_said_to_arrive_arrives_and_nothing_else(name: str) -> None:
    rows = seen()[name]
    assert len(rows) > 10
    wrong = {key: row for key, row in rows.items() if (row[0] == "proven") is not row[2]}
    assert wrong == {}
    assert {row[0] for row in rows.values()} <= {"proven", "undeliverable"}
    assert all(row[2] for row in rows.values()) is (name in HARMLESS)


def test_every_flow_here_was_stopped_by_something_and_arrived_otherwise() -> None:
    for relation in ("intake", "store"):
        assert {rows[relation][2] for rows in seen().values()} == {True, False}
