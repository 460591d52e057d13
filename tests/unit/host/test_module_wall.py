"""The wall's hand on the host, in a root of its own: a kernel that remembers, no real modprobe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from probes_raw import held

from sekisho.core.errors import SekishoError
from sekisho.host.devices.maintenance import Maintenance, Opened
from sekisho.host.devices.module_wall import Places, Wall
from sekisho.probes.model import ProbeError
from sekisho.probes.module_wall import PROBES
from siteworld import host_policy

ALLOW = ["ext4", "hid_generic", "usbhid", "virtio_net"]


class World:
    """A host below a folder; ``modprobe -a`` loads what this kernel has."""

    def __init__(self, root: Path) -> None:
        self.root, self.has = root, {*ALLOW, "loop"}
        self.ran: list[tuple[str, ...]] = []
        self.order, self.opens = "", frozenset({"modules"})
        self.put("proc/sys/kernel/modules_disabled", "0\n")
        self.put("sys/bus/usb/devices/usb1/busnum", "1\n")
        self.put(f"lib/modules/{os.uname().release}/modules.builtin", "kernel/fs/x/built-in.ko\n")
        (root / "run").mkdir()
        (root / "var/lib/sekisho").mkdir(parents=True)
        self.policy("enforce")
        self.start("boot-1")

    def put(self, path: str, text: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def policy(self, lock: str, allow: Sequence[str] = ALLOW) -> None:
        told = {"lock": lock, "allow": list(allow), "disabled": "0"}
        value = host_policy("core-1", console="listed-keyboard", modules=told)
        self.put("etc/sekisho/policy.json", value.as_bytes().decode())
        (self.root / "etc/sekisho/policy.json").chmod(0o644)

    def start(self, boot: str) -> None:
        """Start anew: the kernel is open again and holds the disk's driver."""
        self.put("proc/sys/kernel/random/boot_id", f"{boot}\n")
        self.put("proc/sys/kernel/modules_disabled", "0\n")
        self.put("proc/modules", "ext4 1 1 - Live 0x0\n")

    def run(self, argv: Sequence[str]) -> int:
        self.ran.append(tuple(argv))
        if argv[0] == "modprobe":
            for name in argv[argv.index("--") + 1 :]:
                if name in self.has:
                    self.load(name)
        if argv[0] == "udevadm" and self.udev:
            self.load(self.udev)
        if argv[0] == "rmmod" and argv[1] != self.busy and not self.wall.closed():
            path = self.root / "proc/modules"
            lines = path.read_text().splitlines()
            path.write_text("".join(f"{x}\n" for x in lines if x.split()[0] != argv[1]))
        return 0

    busy = ""
    udev = ""  # what it is still loading until it is waited for

    def load(self, name: str) -> None:
        path = self.root / "proc/modules"
        if f"{name} " not in path.read_text() and not self.wall.closed():
            path.write_text(path.read_text() + f"{name} 1 0 - Live 0x0\n")

    def begin(self) -> Opened:
        if self.order == "garbled":
            raise SekishoError("garbled")
        return self.current()

    def current(self) -> Opened:
        return Opened(self.order, self.opens if self.order else frozenset(), "2026-11-25T07:00:00Z")

    def take_down(self) -> None:
        self.ran.append(("take down",))

    @property
    def wall(self) -> Wall:
        return Wall(Places(self.root), self.run, cast(Maintenance, self))

    @property
    def told(self) -> Mapping[str, Any]:
        return self.wall.told()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def proven(world: World) -> World:
    world.wall.boot()
    assert world.wall.settle()["changed"]
    world.start("boot-2")
    return world


def test_what_udev_still_loads_during_the_trial_boot_did_not_come_later(world: World) -> None:
    world.udev = "kvm_amd"  # found by the processor's flags, and not listed
    world.wall.boot()
    world.load("kvm_amd")  # there at the latest now, waited for or not
    assert world.wall.settle()["closed"]


def test_off_tried_by_a_boot_then_on_and_closed_at_every_boot_after(world: World) -> None:
    assert world.wall.settle()["needs_boot"]  # provisioned, not started anew yet
    assert world.wall.boot() == 0
    assert (world.told["closed"], world.told["why"]) == (
        False,
        "trial boot: the list is not proven yet",
    )
    assert world.wall.settle(dry=True)["changed"]
    assert not world.wall.closed()
    first = world.wall.settle()
    assert (first["changed"], first["closed"]) == (True, True)
    assert world.wall.settle()["changed"] is False
    world.start("boot-2")
    assert world.wall.boot() == 0
    assert world.told["closed"]
    assert world.wall.settle()["changed"] is False


def test_what_is_listed_is_loaded_before_the_wall_closes(world: World) -> None:
    proven(world).ran.clear()
    world.wall.boot()
    assert [argv[0] for argv in world.ran] == ["modprobe", "udevadm"]
    assert world.wall.loaded() == set(ALLOW)
    world.load("loop")
    assert "loop" not in world.wall.loaded()


def test_a_listed_module_that_cannot_be_loaded_is_told_and_the_wall_closes(world: World) -> None:
    proven(world).has.remove("virtio_net")
    assert world.wall.boot() == 0
    assert world.told["closed"]
    assert world.told["missing"] == ["virtio_net"]


def test_a_module_built_into_the_kernel_is_not_missing(world: World) -> None:
    world.policy("dry-run", [*ALLOW, "built_in"])
    world.wall.boot()
    assert world.told["missing"] == []


@pytest.mark.parametrize("damage", ["gone", "garbled", "writable", "odd"])
def test_once_proven_it_closes_whatever_became_of_the_policy(world: World, damage: str) -> None:
    path = proven(world).root / "etc/sekisho/policy.json"
    if damage == "gone":
        path.unlink()
    elif damage == "writable":
        path.chmod(0o666)
    else:
        odd = path.read_text().replace('"lock":"enforce"', '"lock":"perhaps"')
        assert odd != path.read_text()
        path.write_text("{" if damage == "garbled" else odd)
    assert world.wall.boot() == 2
    assert world.wall.closed()
    assert world.wall.loaded() == set(ALLOW)
    assert world.told["trouble"]


def test_without_policy_and_proof_nothing_is_closed_and_it_is_told(world: World) -> None:
    (world.root / "etc/sekisho/policy.json").unlink()
    assert world.wall.boot() == 2
    assert not world.wall.closed()


def test_a_garbled_proof_is_none(world: World) -> None:
    proven(world).put("var/lib/sekisho/modules-proven.json", "[]")
    assert world.wall.boot() == 0
    assert world.told["why"].startswith("trial boot")


def test_another_list_is_tried_by_a_boot_of_its_own(world: World) -> None:
    proven(world).wall.boot()
    world.policy("enforce", [*ALLOW, "loop"])
    answer = world.wall.settle()
    assert (answer["changed"], answer["closed"], answer["needs_boot"]) == (False, True, True)
    world.start("boot-3")
    world.wall.boot()
    assert not world.wall.closed()
    assert world.wall.settle()["closed"]


def test_what_was_loaded_later_keeps_it_open_by_name(world: World) -> None:
    world.wall.boot()
    world.load("loop")
    answer = world.wall.settle()
    assert (answer["changed"], answer["closed"]) == (False, False)
    assert "loop" in answer["why"]


@pytest.mark.parametrize("gone", ["driver", "controller"])
def test_a_console_that_is_lost_keeps_it_open(world: World, gone: str) -> None:
    if gone == "driver":
        world.has.remove("usbhid")
    else:
        (world.root / "sys/bus/usb/devices/usb1/busnum").unlink()
        (world.root / "sys/bus/usb/devices/usb1").rmdir()
    world.wall.boot()
    assert not world.wall.settle()["closed"]
    assert "keyboard" in world.wall.settle()["why"]


def test_dry_run_closes_nothing_and_tells_what_is_not_listed(world: World) -> None:
    world.policy("dry-run")
    world.put("proc/modules", "ext4 1 1 - Live 0x0\npcspkr 1 0 - Live 0x0\n")
    world.wall.boot()
    assert world.told["unlisted"] == ["pcspkr"]
    assert world.wall.settle()["changed"] is False
    assert not world.wall.closed()


def test_a_maintenance_order_leaves_that_boot_open_and_the_next_one_closes(world: World) -> None:
    proven(world).order = "20261122-0123456789abcdef"
    world.wall.boot()
    assert not world.wall.closed()
    assert world.told["maintenance"] == world.order
    assert world.wall.settle()["changed"] is False
    world.order = ""
    world.start("boot-3")
    world.wall.boot()
    assert world.wall.closed()


def test_an_order_that_cannot_be_read_opens_nothing(world: World) -> None:
    proven(world).order = "garbled"
    world.wall.boot()
    assert world.wall.closed()


def test_an_order_for_another_wall_does_not_open_this_one(world: World) -> None:
    proven(world).order, world.opens = "20261122-0123456789abcdef", frozenset({"other"})
    world.wall.boot()
    assert world.wall.closed()


@pytest.mark.parametrize("busy", ["", "loop"])
def test_the_end_of_maintenance_unloads_what_came_and_closes(world: World, busy: str) -> None:
    proven(world).order, world.busy = "20261122-0123456789abcdef", busy
    world.wall.boot()
    world.load("loop")
    assert world.wall.end() == ([busy] if busy else [])
    assert world.wall.closed()
    assert world.wall.loaded() == {*ALLOW, *([busy] if busy else [])}
    assert (busy in world.told["trouble"]) if busy else not world.told["trouble"]
    assert world.told["maintenance"] == ""
    assert ("take down",) in world.ran
    assert world.wall.end() == []  # the timer of an order that a restart ended already


def test_what_another_boot_told_is_not_believed(world: World) -> None:
    world.wall.boot()
    world.start("boot-2")
    assert world.told == {}
    assert world.wall.settle()["needs_boot"]


def test_a_kernel_that_does_not_say_is_an_error(world: World) -> None:
    world.put("proc/sys/kernel/modules_disabled", "maybe\n")
    with pytest.raises(SekishoError):
        world.wall.boot()
    (world.root / "proc/sys/kernel/modules_disabled").unlink()
    with pytest.raises(SekishoError):
        world.wall.settle()


# -- the probe -------------------------------------------------------------------------------------


def fact(switch: dict[str, Any]) -> Any:
    return PROBES[0].parse({"switch": held(switch)})


SWITCH = "/proc/sys/kernel/modules_disabled"


def test_the_probe_tells_the_kernels_word() -> None:
    assert fact({SWITCH: "1\n"}) == {"disabled": "1"}
    assert fact({SWITCH: "0\n"}) == {"disabled": "0"}


@pytest.mark.parametrize("switch", [{}, {SWITCH: "x"}, {SWITCH: ""}])
def test_what_the_probe_cannot_tell_is_an_error(switch: dict[str, Any]) -> None:
    with pytest.raises(ProbeError):
        fact(switch)
