"""The agent's modules part: what the kernel says against what the site says, told once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentworld import Host, parsed
from sekisho.core.errors import SekishoError
from sekisho.host.agent.parts.modules import OPEN, ModulesPart


class World:
    def __init__(self, root: Path) -> None:
        self.host = Host(root)
        (self.host.paths.proc / "sys/kernel").mkdir(parents=True)
        (root / "run").mkdir(exist_ok=True)
        self.part = ModulesPart(self.host.book, self.host.paths)
        self.want("enforce")
        self.kernel("1")

    def want(self, lock: str) -> None:
        self.host.book.policy = parsed(modules={"lock": lock, "allow": [], "disabled": "0"})

    def kernel(self, word: str) -> None:
        (self.host.paths.proc / "sys/kernel/modules_disabled").write_text(f"{word}\n")

    def boot(self, **state: Any) -> None:
        (self.host.root / "run/sekisho-modules.json").write_text(json.dumps(state))

    def metric(self, name: str) -> float:
        return self.host.metrics.get(f"sekisho_{name}")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_shut_wall_is_shown_and_told_once(world: World) -> None:
    for _ in range(3):
        world.part.look()
    assert (world.metric("modules_shut"), world.metric("modules_open")) == (1, 0)
    assert world.host.journal.kinds() == ["modules.wall"]


def test_an_open_wall_that_the_site_shut_is_detected_once(world: World) -> None:
    world.kernel("0")
    world.boot(why="trial boot: the list is not proven yet", missing=[], unlisted=["pcspkr"])
    for _ in range(3):
        world.part.look()
    assert (world.metric("modules_shut"), world.metric("modules_open")) == (0, 1)
    assert world.metric("modules_unlisted") == 1
    assert world.host.journal.detections() == [OPEN]
    world.kernel("1")
    world.part.look()
    assert world.metric("modules_open") == 0


@pytest.mark.parametrize("lock", ["off", "dry-run"])
def test_an_open_wall_that_the_site_leaves_open_is_no_detection(world: World, lock: str) -> None:
    world.want(lock)
    world.kernel("0")
    world.part.look()
    assert world.metric("modules_open") == 0
    assert world.host.journal.detections() == []


def test_maintenance_and_what_is_missing_are_shown(world: World) -> None:
    world.kernel("0")
    world.boot(maintenance="20261122-0123456789abcdef", missing=["esp4"], unlisted=[])
    world.part.look()
    assert (world.metric("maintenance"), world.metric("modules_missing")) == (1, 1)
    assert "20261122-0123456789abcdef" in json.dumps(world.host.journal.events)
    world.kernel("1")  # its end
    world.part.look()
    assert world.metric("maintenance") == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"missing": 3}'])
def test_what_cannot_be_read_is_an_error_and_not_a_shut_wall(world: World, text: str) -> None:
    (world.host.root / "run/sekisho-modules.json").write_text(text)
    with pytest.raises(SekishoError):
        world.part.look()
    assert world.metric("modules_shut") == 0


def test_a_kernel_that_does_not_say_is_an_error(world: World) -> None:
    world.kernel("perhaps")
    with pytest.raises(SekishoError):
        world.part.look()
