"""Probes of disks: what is there, whether the wall stands, whether a terminal keeps anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from probes_raw import held, link

from sekisho.devices.disks import render
from sekisho.probes.disks import CARD_LIST, CARDS, HELPER, NEWCOMERS, STATE, UDEV
from sekisho.probes.disks import PROBES as DISKS
from sekisho.probes.model import ProbeError
from sekisho.probes.terminal import HELPER as TERMINAL_HELPER
from sekisho.probes.terminal import PROBES as TERMINAL
from sekisho.probes.terminal import STATE as TERMINAL_STATE
from sekisho.probes.terminal import WORDS
from siteworld import policy as policy_of

BY_NAME = {probe.name: probe for probe in (*DISKS, *TERMINAL)}
SYSTEM = {"name": "system", "path": "pci-0000:00:03.0", "serial": "D13", "mode": "read-write"}
VDA = "../../devices/pci0000:00/0000:00:03.0/virtio0/block/vda"
BLOCK = "/sys/class/block"


def told_by(**parts: Any) -> str:
    """Return the text of the host's policy with these parts."""
    return json.dumps(policy_of("core-1") | parts)


def links(targets: dict[str, str]) -> dict[str, Any]:
    return {"files": {f"{BLOCK}/{name}": link(target) for name, target in targets.items()}}


def disks(targets: dict[str, str], attributes: dict[str, str], *, policy: Any = (SYSTEM,),
          slaves: tuple[str, ...] = ()) -> Any:  # fmt: skip
    return BY_NAME["disks"].parse(
        {
            "links": links(targets),
            "attributes": held({f"{BLOCK}/{key}": value for key, value in attributes.items()}),
            "slaves": {"files": {f"{BLOCK}/{one}": link("x") for one in slaves}},
            "ports": held({"/sys/class/ata_port/ata3/port_no": "2\n"}),
            "policy": held({"/etc/sekisho/policy.json": told_by(disks=list(policy))}),
        }
    )


def test_the_machines_own_disk_is_told_as_the_policy_writes_it() -> None:
    told = disks({"vda": VDA}, {"vda/serial": "D13\n", "vda/ro": "0\n"})
    assert told == {"present": [SYSTEM], "foreign": {}, "writable": []}


def test_a_foreign_disk_and_one_without_a_serial_number_are_named() -> None:
    other = VDA.replace("03.0", "09.0").replace("vda", "vdb")
    told = disks({"vda": VDA, "vdb": other}, {"vdb/serial": "X"})
    assert set(told["foreign"]) == {"vda", "vdb"}
    assert SYSTEM not in told["present"]


def test_a_scsi_disk_is_known_by_its_vital_product_data_and_port() -> None:
    own = {"name": "a", "path": "pci-0000:00:17.0-ata-2", "serial": "S4X1", "mode": "read-only"}
    place = "../../devices/pci0000:00/0000:00:17.0/ata3/host2/target2:0:0/2:0:0:0/block/sda"
    page = {"sda/device/vpd_pg80": "\x00\\x80\x00\x14            S4X1", "sda/ro": "0"}
    told = disks({"sda": place}, page, policy=(own,))
    assert (told["foreign"], told["writable"]) == ({}, ["sda"])


def test_what_is_mapped_onto_own_disks_is_own_and_a_file_is_not() -> None:
    virtual = "../../devices/virtual/block/"
    made = ("dm-0", "dm-1", "loop0", "loop1", "zram0", "nbd0", "md0")
    targets = {"vda": VDA, "vda1": f"{VDA}/vda1"} | {one: f"{virtual}{one}" for one in made}
    attributes = {"vda/serial": "D13", "vda1/partition": "1", "loop0/loop/backing_file": "/x.img"}
    attributes |= {f"{name}/size": "8" for name in ("dm-0", "dm-1", "loop0", "zram0", "md0")}
    attributes |= {f"{name}/size": "0" for name in ("loop1", "nbd0")}
    slaves = ("dm-0/slaves/vda1", "dm-1/slaves/dm-0", "md0/slaves/vda1", "md0/slaves/sdz")
    told = disks(targets, attributes, slaves=slaves)
    assert set(told["foreign"]) == {"loop0", "md0"}


def test_a_machine_without_any_disk_could_not_be_told() -> None:
    with pytest.raises(ProbeError):
        disks({"loop0": "../../devices/virtual/block/loop0"}, {})


def wall(**changes: Any) -> Any:
    raw: dict[str, Any] = {
        "files": held({
            STATE: "up stub=up early=\n", "/etc/sekisho/disks": render([SYSTEM]), HELPER: "x",
            UDEV: "x", NEWCOMERS: "stub\n", CARDS: "up\n", CARD_LIST: "0000:00:04.0\n",
        }),
        "boot": {"files": {}},
        "wants": {"files": {}},
        "switches": held({
            "/sys/bus/virtio/drivers_autoprobe": "0\n",
            "/sys/module/scsi_mod/parameters/scan": "none\n",
        }),
        "classes": held({
            "/sys/bus/pci/devices/0000:00:03.0/class": "0x010000\n",
            "/sys/bus/pci/devices/0000:00:09.0/class": "0x010802\n",
            "/sys/bus/pci/devices/0000:00:04.0/class": "0x020000\n",
        }),
        "drivers": {"files": {
            "/sys/bus/pci/devices/0000:00:03.0/driver": link("../../bus/pci/drivers/virtio-pci"),
            "/sys/bus/pci/devices/0000:00:09.0/driver": link("../../bus/pci/drivers/pci-stub"),
            "/sys/bus/pci/devices/0000:00:04.0/driver": link("../../bus/pci/drivers/virtio-pci"),
        }},
        "virtio": {"files": {}},
        "policy": held({"/etc/sekisho/policy.json": told_by(disks=[SYSTEM])}),
    }  # fmt: skip
    return BY_NAME["disk-wall"].parse(raw | changes)


def test_a_wall_that_stands() -> None:
    told = wall()
    assert (told["list"], told["state"], told["helper"], told["udev"]) == (
        "compiled", "up", "in place", "in place",
    )  # fmt: skip
    assert (told["open_buses"], told["loose"], told["before_the_wall"]) == ([], [], [])
    assert told["initrd"] == "not needed"
    assert (told["newcomers"], told["cards"]) == ("stub", "up")


def test_a_wall_that_is_lowered_in_each_of_its_parts() -> None:
    at = "/sys/bus/pci/devices/0000:00:09.0/driver"
    nvme = {"files": {at: link("../../bus/pci/drivers/nvme")}}
    assert wall(drivers=nvme)["loose"] == ["0000:00:09.0 nvme"]
    opened = held({"/sys/bus/virtio/drivers_autoprobe": "1\n",
                   "/sys/module/scsi_mod/parameters/scan": "sync\n"})  # fmt: skip
    assert wall(switches=opened)["open_buses"] == ["scsi", "virtio"]
    early = held({"/etc/sekisho/disks": "", STATE: "up stub=up early=nvme,ahci\n"})
    assert wall(files=early)["before_the_wall"] == ["ahci", "nvme"]
    assert wall(files=early)["list"] == "changed"
    assert wall(files=early)["newcomers"] == "anybody's"
    assert wall(files=early)["cards"] == "open"
    assert wall(files=held({"/etc/sekisho/disks": ""}))["state"] == "never raised"
    grub = held({"/boot/grub/grub.cfg": None})
    assert wall(boot=grub)["initrd"] == "missing"


@pytest.mark.parametrize("listed", ["", "0000:00:05.0\n", None])
def test_a_network_card_that_no_list_names_is_loose_whatever_the_list_says(
    listed: str | None,
) -> None:
    kept = {STATE: "up stub=up early=\n", "/etc/sekisho/disks": "", CARDS: "up\n"}
    found = held(kept if listed is None else kept | {CARD_LIST: listed})
    assert wall(files=found)["loose"] == ["0000:00:04.0 virtio-pci"]
    del kept[CARDS]
    assert wall(files=held(kept | {CARD_LIST: ""}))["cards"] == "open"
    disk = held({"/sys/bus/pci/devices/0000:00:03.0/class": "0x010000\n"})
    assert wall(files=held(kept | {CARD_LIST: ""}), classes=disk)["cards"] == "not needed"


def test_a_virtio_function_without_a_driver_for_its_disk_is_no_disk() -> None:
    at = "/sys/bus/pci/devices/0000:00:09.0/driver"
    bound = {"files": {at: link("../../bus/pci/drivers/virtio-pci")}}
    assert wall(drivers=bound)["loose"] == []
    used = {"files": {"/sys/bus/virtio/drivers/virtio_blk/virtio5": link(
        "../../../../devices/pci0000:00/0000:00:09.0/virtio5")}}  # fmt: skip
    assert wall(drivers=bound, virtio=used)["loose"] == ["0000:00:09.0 virtio-pci"]


GRUB = "/etc/default/grub.d/sekisho-terminal.cfg"
OVERLAY = "21 1 0:5 / / rw,relatime - overlay sekisho-root rw,lowerdir=/,upperdir=/mnt/upper\n"
PLAIN = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"


def terminal(mounts: str, *, ro: str = "1", words: tuple[str, ...] = WORDS,
             state: str = "read-only", boot: dict[str, str] | None = None) -> Any:  # fmt: skip
    told = " ".join(words)
    return BY_NAME["terminal"].parse(
        {
            "files": held({
                "/proc/1/mountinfo": mounts, "/proc/self/mountinfo": mounts,
                "/proc/cmdline": f"root=/dev/vda ro {told}\n", TERMINAL_HELPER: "x",
                TERMINAL_STATE: state,
            }),
            "boot": held(
                {GRUB: f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {told}"\n'} | (boot or {})
            ),
            "links": links({"vda": VDA, "loop0": "../../devices/virtual/block/loop0"}),
            "switches": held({f"{BLOCK}/vda/ro": f"{ro}\n", f"{BLOCK}/loop0/ro": "0\n"}),
        }
    )  # fmt: skip


def test_a_terminal_at_work_keeps_nothing() -> None:
    told = terminal(OVERLAY)
    assert (told["root"], told["state"]) == ("overlay", "read-only")
    assert not any(told[key] for key in ("writable", "kept", "cmdline_lacks", "boot_lacks"))


def test_a_terminals_words_are_those_of_the_next_boot_not_of_our_file_alone() -> None:
    later = {"/etc/default/grub.d/zz.cfg": 'GRUB_CMDLINE_LINUX=""\n'}
    assert terminal(OVERLAY, boot=later)["boot_lacks"] == list(WORDS)
    menu = {"/boot/grub/grub.cfg": "linux /vmlinuz root=/dev/vda ro\n"}
    assert terminal(OVERLAY, boot=menu)["boot_lacks"] == list(WORDS)


def test_a_terminal_that_can_write_is_told_in_each_way() -> None:
    assert terminal(OVERLAY, ro="0")["writable"] == ["vda"]
    told = terminal(PLAIN, words=WORDS[:1], state="maintenance\n")
    assert (told["kept"], told["root"], told["state"]) == (["/"], "ext4", "maintenance")
    assert told["cmdline_lacks"] == told["boot_lacks"] == list(WORDS[1:])


def test_a_word_that_only_begins_alike_is_another() -> None:
    assert terminal(OVERLAY, words=(f"{WORDS[0]}-not",))["cmdline_lacks"] == list(WORDS)
