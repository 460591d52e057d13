"""Whose disk it is: the list, the decision, and the wall's shell saying the same."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.core.errors import SekishoError
from sekisho.devices.disks import (
    Disk,
    Seen,
    fits_list,
    judge_disk,
    parse_disks,
    render,
)
from sekisho.host.kernel.disks import disks_present

WALL = Path(__file__).resolve().parents[3] / "agent/helpers/disk-wall"
SYSTEM: dict[str, Any] = {
    "name": "system",
    "path": "pci-0000:00:03.0",
    "serial": "SEKISHO-DISK-0013",
    "mode": "read-write",
}
NVME: dict[str, Any] = {
    "name": "data",
    "path": "pci-0000:01:00.0-nvme-1",
    "serial": "S6D1",
    "wwn": "eui.0025385100000001",
    "mode": "read-write",
}
SATA: dict[str, Any] = {
    "name": "spare",
    "path": "pci-0000:00:17.0-ata-2",
    "wwn": "naa.5002538e00000001",
    "mode": "read-only",
}
LISTED = [SYSTEM, NVME, SATA]
OWN = Seen("vda", "/devices/pci0000:00/0000:00:03.0/virtio0/block/vda", "", "SEKISHO-DISK-0013")


def code(seen: Seen) -> str:
    return judge_disk(seen, parse_disks(LISTED)).code


def test_the_machines_own_disk_is_named() -> None:
    told = judge_disk(OWN, parse_disks(LISTED))
    assert told.disk == Disk(**SYSTEM)
    assert told.code == "listed"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen("vda", OWN.place, "", "ANOTHER"), "serial"),
        (Seen("vda", OWN.place), "unknown"),
        (Seen("vdb", OWN.place.replace("03.0", "08.0"), "", OWN.serial), "path"),
        (Seen("vdb", OWN.place.replace("03.0", "08.0"), "", "X"), "not-listed"),
        (Seen("loop0", "/devices/virtual/block/loop0", "", OWN.serial), "path"),
        (Seen("nvme0n2", "/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n2", "2",
              "S6D1", NVME["wwn"]), "not-listed"),
        (Seen("nvme0n1", "/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1", "1",
              "S6D1", "eui.0025385100000002"), "wwn"),
        (Seen("sda", "/devices/pci0000:00/0000:00:17.0/ata1/host0/t/block/sda", "1", "",
              SATA["wwn"]), "not-listed"),
    ],
)  # fmt: skip
def test_another_disk_is_not(seen: Seen, expected: str) -> None:
    assert judge_disk(seen, parse_disks(LISTED)).disk is None
    assert code(seen) == expected


def test_the_nearest_function_counts_and_not_a_bridge_above_it() -> None:
    seen = Seen("sda", "/devices/pci0000:00/0000:00:03.0/0000:05:00.0/block/sda", "", OWN.serial)
    assert seen.pci == "0000:05:00.0"
    assert code(seen) == "path"


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        ["vda"],
        [{**SYSTEM, "extra": 1}],
        [{"name": "system", "path": SYSTEM["path"], "mode": "read-write"}],
        [{**SYSTEM, "serial": "with blank"}],
        [{**SYSTEM, "serial": "*"}],
        [{**SYSTEM, "serial": 7}],
        [{**SYSTEM, "path": "pci-0000:00:03.0 x"}],
        [{**SYSTEM, "path": "/dev/vda"}],
        [{**SYSTEM, "mode": "rw"}],
        [{**SYSTEM, "wwn": "naa.$(reboot)"}],
        [SYSTEM, SYSTEM],
        [SYSTEM, {**NVME, "path": SYSTEM["path"]}],
    ],
)
def test_a_garbled_list_is_refused_whole(value: Any) -> None:
    with pytest.raises(SekishoError) as caught:
        parse_disks(value)
    assert caught.value.problems[0].item == "6-iii-c"
    assert not fits_list("", value if isinstance(value, list) else [])


def test_the_walls_list_is_what_the_site_says_and_nothing_else() -> None:
    text = render(LISTED)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == [
        "0000:00:03.0 - SEKISHO-DISK-0013 - read-write system",
        "0000:01:00.0 1 S6D1 eui.0025385100000001 read-write data",
        "0000:00:17.0 2 - naa.5002538e00000001 read-only spare",
    ]
    assert fits_list(text, LISTED)
    assert not fits_list(text + "0000:00:09.0 - X - read-write more\n", LISTED)


_words = st.sampled_from(["", "S6D1", "SEKISHO-DISK-0013", "X", "*", "- -", ". ."])
_places = st.sampled_from(
    ["0000:00:03.0", "0000:01:00.0", "0000:00:17.0", "0000:00:09.0", "0000:00:03.0/0000:05:00.0"]
)


@given(_places, _words, st.sampled_from(["", "naa.5002538e00000001", NVME["wwn"], "x"]))
def test_no_disk_is_named_unless_place_and_every_listed_word_are_its_own(
    at: str, serial: str, wwn: str
) -> None:
    for port in ("", "1", "2"):
        seen = Seen("sda", f"/devices/pci0000:00/{at}/block/sda", port, serial, wwn)
        told = judge_disk(seen, parse_disks(LISTED))
        if told.disk is not None:
            assert told.disk.pci == seen.pci
            assert told.disk.port in ("", port)
            assert told.disk.serial in ("", serial)
            assert told.disk.wwn in ("", wwn)
            assert serial or wwn


class Sys:
    """A made-up /sys with disks, as the wall's shell and the agent read it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "block").mkdir(parents=True, exist_ok=True)
        (root / "list").write_text(render(LISTED), encoding="ascii")
        (root / "cmdline").write_text("ro quiet\n", encoding="ascii")

    def disk(self, name: str, place: str, **attributes: str) -> None:
        folder = self.root / "devices" / place / "block" / name
        folder.mkdir(parents=True)
        for key, value in ({"ro": "0", "dev": "254:0"} | attributes).items():
            (folder / key).write_text(f"{value}\n", encoding="utf-8")
        (self.root / "block" / name).symlink_to(folder)

    def card(self, at: str, mac: str, *, flags: str = "0x1002", driver: bool = True) -> Path:
        """Add a network card on PCI; without ``driver`` it has none yet, and no interface."""
        device = self.root / "bus/pci/devices" / at
        device.mkdir(parents=True)
        (device / "class").write_text("0x020000\n", encoding="ascii")
        (device / "driver_override").write_text("(null)\n", encoding="ascii")
        if driver:
            holder = self.root / "bus/pci/drivers/e1000"
            holder.mkdir(parents=True, exist_ok=True)
            (device / "driver").symlink_to(holder)
            net = device / "net" / f"eth{at[-3]}"
            net.mkdir(parents=True)
            (net / "address").write_text(f"{mac}\n", encoding="ascii")
            (net / "flags").write_text(f"{flags}\n", encoding="ascii")
            (self.root / "class/net").mkdir(parents=True, exist_ok=True)
            (self.root / "class/net" / net.name).symlink_to(net)
        return device

    def wall(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "SEKISHO_DISKS": str(self.root / "list"),
            "SEKISHO_CARDS": str(self.root / "cards"),
            "SEKISHO_CMDLINE": str(self.root / "cmdline"),
            "SEKISHO_SYS": str(self.root),
            "SEKISHO_STATE": str(self.root / "state"),
            "SEKISHO_EXCEPTION": str(self.root / "exception"),
        }
        return subprocess.run(
            [str(WALL), *words], env=environment, capture_output=True, text=True, check=False
        )


@pytest.mark.process
def test_the_wall_says_nothing_of_the_machines_own_disk(tmp_path: Path) -> None:
    world = Sys(tmp_path)
    world.disk("vda", "pci0000:00/0000:00:03.0/virtio0", serial="SEKISHO-DISK-0013")
    done = world.wall("look")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.process
def test_the_wall_names_a_foreign_disk_and_what_stays_writable(tmp_path: Path) -> None:
    world = Sys(tmp_path)
    world.disk("vda", "pci0000:00/0000:00:03.0/virtio0", serial="SEKISHO-DISK-0013")
    world.disk("nvme0n1", "pci0000:00/0000:01:00.0/nvme/nvme0", serial="S6D1", nsid="1")
    done = world.wall("look")
    assert done.returncode == 1, done
    assert "nvme0n1 at 0000:01:00.0 serial 'S6D1' is not listed" in done.stdout


@pytest.mark.process
def test_the_wall_could_not_tell_without_any_disk(tmp_path: Path) -> None:
    assert Sys(tmp_path).wall("look").returncode == 2


@pytest.mark.process
def test_the_wall_changes_nothing_without_a_list_or_with_anothers(tmp_path: Path) -> None:
    world = Sys(tmp_path)
    world.disk("vda", "pci0000:00/0000:00:09.0/virtio0", serial="X")
    for text in ("", "# nothing\n", render(LISTED)):
        (tmp_path / "list").write_text(text, encoding="ascii")
        assert world.wall("sweep").returncode == 2
        assert (tmp_path / "block/vda").exists()
    assert world.wall("raise").returncode == 2
    assert (tmp_path / "state").read_text(encoding="ascii").startswith("down ")


@pytest.mark.process
def test_the_wall_leaves_a_mounted_disk_and_says_so(tmp_path: Path) -> None:
    world = Sys(tmp_path)
    world.disk("vda", "pci0000:00/0000:00:03.0/virtio0", serial="SEKISHO-DISK-0013")
    root = os.stat("/").st_dev
    number = f"{os.major(root)}:{os.minor(root)}"
    world.disk("vdb", "pci0000:00/0000:00:09.0/virtio1", serial="X", dev=number)
    assert world.wall("stakes").returncode == 1
    done = world.wall("sweep")
    assert done.returncode == 2
    assert "vdb: is mounted, NOT taken off" in done.stdout
    world.disk("vdc", "pci0000:00/0000:00:0a.0/virtio2", serial="X", dev="254:999")
    assert "vdc: CANNOT be taken off" in world.wall("sweep", str(tmp_path / "block/vdc")).stdout


@pytest.mark.process
@pytest.mark.parametrize(
    ("excepted", "code"),
    [("1-3 read-only\n", 0), ("1-4 read-only\n", 1), ("1 read-only\n", 1), ("* *\n", 1), ("", 1)],
)
def test_the_wall_leaves_the_disk_that_an_open_order_names(
    tmp_path: Path, excepted: str, code: int
) -> None:
    world = Sys(tmp_path)
    world.disk("vda", "pci0000:00/0000:00:03.0/virtio0", serial="SEKISHO-DISK-0013")
    place = "pci0000:00/0000:00:02.0/usb1/1-3/1-3:1.0/host2/target2:0:0/2:0:0:0"
    world.disk("sda", place, serial="X", ro="1", dev="8:0")
    (tmp_path / "exception").write_text(excepted, encoding="ascii")
    assert world.wall("look").returncode == code


@pytest.mark.process
@pytest.mark.parametrize("state", ["up stub=up early=", "down stub=down early=", ""])
def test_newcomers_belong_to_the_stub_once_the_boot_is_through(tmp_path: Path, state: str) -> None:
    world = Sys(tmp_path)
    world.disk("vda", "pci0000:00/0000:00:03.0/virtio0", serial="SEKISHO-DISK-0013")
    (tmp_path / "state").write_text(state, encoding="ascii")
    claims = tmp_path / "bus/pci/drivers/pci-stub/new_id"
    claims.parent.mkdir(parents=True)
    claims.write_text("", encoding="ascii")
    for at, driven in (("0000:00:02.0", True), ("0000:00:09.0", False)):
        device = tmp_path / "bus/pci/devices" / at
        (device / "driver" if driven else device).mkdir(parents=True)
        (device / "driver_override").write_text("(null)\n", encoding="ascii")
    world.wall("seal")
    overrides = [
        (tmp_path / "bus/pci/devices" / at / "driver_override").read_text(encoding="ascii")
        for at in ("0000:00:02.0", "0000:00:09.0")
    ]
    assert overrides == ["(null)\n", "\n" if state[:2] == "up" else "(null)\n"]
    claimed = claims.read_text(encoding="ascii")
    assert claimed == ("ffffffff ffffffff ffffffff ffffffff 0 0\n" if state[:2] == "up" else "")
    assert (tmp_path / "state.newcomers").exists() == bool(claimed)
    claims.write_text("", encoding="ascii")
    world.wall("seal")
    assert state[:2] != "up" or claims.read_text(encoding="ascii") == "", "claimed twice"


def walled(tmp_path: Path) -> tuple[Sys, Path]:
    """Return a machine with its own disk and the stub's file for new claims."""
    world = Sys(tmp_path)
    world.disk("vda", "pci0000:00/0000:00:03.0/virtio0", serial="SEKISHO-DISK-0013")
    (tmp_path / "bus/pci/devices/0000:00:03.0").mkdir(parents=True)
    (tmp_path / "bus/pci/devices/0000:00:03.0/class").write_text("0x010000\n", encoding="ascii")
    claims = tmp_path / "bus/pci/drivers/pci-stub/new_id"
    claims.parent.mkdir(parents=True)
    claims.write_text("", encoding="ascii")
    return world, claims


OWN_MAC, OTHER_MAC = "52:54:00:77:00:13", "52:54:00:00:00:99"
CARD_CLASSES = "ffffffff ffffffff ffffffff ffffffff 0d0000 ff0000\n"  # the last one written


@pytest.mark.process
def test_the_own_cards_are_found_by_their_addresses(tmp_path: Path) -> None:
    world, _ = walled(tmp_path)
    world.card("0000:00:04.0", OWN_MAC)
    world.card("0000:00:05.0", OTHER_MAC)
    assert world.wall("cards", OWN_MAC, "02:00:00:00:00:01").stdout == "0000:00:04.0\n"


@pytest.mark.process
@pytest.mark.parametrize("flags", ["0x1002", "0x1003"])
def test_a_card_that_is_not_the_machines_own_loses_its_driver_unless_it_is_in_use(
    tmp_path: Path, flags: str
) -> None:
    world, claims = walled(tmp_path)
    own = world.card("0000:00:04.0", OWN_MAC)
    unbound = world.card("0000:00:06.0", OWN_MAC, driver=False)
    world.card("0000:00:05.0", OTHER_MAC, flags=flags)
    (tmp_path / "cards").write_text("0000:00:04.0\n0000:00:06.0\n", encoding="ascii")
    done = world.wall("raise")
    unbind = tmp_path / "bus/pci/drivers/e1000/unbind"
    if flags == "0x1002":
        assert unbind.read_text(encoding="ascii") == "0000:00:05.0\n"
    else:
        assert not unbind.exists()
        assert "0000:00:05.0 is not the machine's own, but in use" in done.stdout
    assert claims.read_text(encoding="ascii") == CARD_CLASSES
    assert (tmp_path / "state.cards").exists()
    # Its own cards were out of the stub's reach meanwhile, and are given back.
    assert (unbound / "driver_override").read_text(encoding="ascii") == "\n"
    assert (own / "driver_override").read_text(encoding="ascii") == "(null)\n"


@pytest.mark.process
@pytest.mark.parametrize("listed", ["", "0000:00:04.0\n0000:00:08.0\n", "0000:00:03.0\n"])
def test_who_moved_a_card_is_not_shut_out(tmp_path: Path, listed: str) -> None:
    world, claims = walled(tmp_path)
    world.card("0000:00:04.0", OWN_MAC)
    world.card("0000:00:05.0", OTHER_MAC)
    (tmp_path / "cards").write_text(listed, encoding="ascii")
    world.wall("raise")
    assert not (tmp_path / "bus/pci/drivers/e1000/unbind").exists()
    assert claims.read_text(encoding="ascii") != CARD_CLASSES
    assert not (tmp_path / "state.cards").exists()


@pytest.mark.process
@settings(max_examples=examples(12), deadline=None)
@given(
    at=_places,
    serial=st.sampled_from(["", "S6D1", "SEKISHO-DISK-0013", "X", "* -"]),
    wwn=st.sampled_from(["", "naa.5002538e00000001", NVME["wwn"]]),
    port=st.sampled_from(["", "1", "2"]),
)
def test_shell_and_policy_name_the_same_disks(
    tmp_path_factory: pytest.TempPathFactory, at: str, serial: str, wwn: str, port: str
) -> None:
    world = Sys(tmp_path_factory.mktemp("sys"))
    told = {"serial": serial, "wwid": wwn, "nsid": port}
    world.disk("sda", f"pci0000:00/{at}/x", **{k: v for k, v in told.items() if v}, ro="1")
    (seen,) = disks_present(world.root)
    named = judge_disk(seen, parse_disks(LISTED)).disk
    assert world.wall("look").returncode == (0 if named is not None else 1)
