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
from sekisho.devices.disks import (
    Disk,
    Seen,
    fits_list,
    judge_disk,
    parse_disks,
    render,
)
from sekisho.edge.disks_present import disks_present
from sekisho.errors import SekishoError

WALL = Path(__file__).resolve().parents[2] / "agent/helpers/disk-wall"
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

    def disk(self, name: str, place: str, **attributes: str) -> None:
        folder = self.root / "devices" / place / "block" / name
        folder.mkdir(parents=True)
        for key, value in ({"ro": "0", "dev": "254:0"} | attributes).items():
            (folder / key).write_text(f"{value}\n", encoding="utf-8")
        (self.root / "block" / name).symlink_to(folder)

    def wall(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "SEKISHO_DISKS": str(self.root / "list"),
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
