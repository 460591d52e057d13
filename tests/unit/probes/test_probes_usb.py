"""USB facts: which buses are open, who is admitted, whose rules are in force, which disks hang."""

from __future__ import annotations

import json
from typing import Any

import pytest
from probes_raw import held, link, unreadable

from sekisho.catalogue.judge import compare
from sekisho.catalogue.model import Op
from sekisho.devices.udev_rules import PATH, render
from sekisho.probes.model import ProbeError
from sekisho.probes.usb import PROBES
from siteworld import policy as policy_of

BY_NAME = {probe.name: probe for probe in PROBES}
BUS = "/sys/bus/usb/devices"
KEYBOARD = {
    "name": "console-keyboard",
    "vendor": "0627",
    "product": "0001",
    "serial": "SEKISHO-KBD-1",
    "port": "1",
    "interfaces": ["03:01:01"],
}


def told_by(**parts: Any) -> str:
    """Return the text of the host's policy with these parts."""
    return json.dumps(policy_of("core-1") | parts)


def device(name: str, *, authorized: str = "1", interfaces: str = "03:01:01", **other: str) -> dict:
    attributes = {
        "authorized": authorized,
        "idVendor": "0627",
        "idProduct": "0001",
        "serial": "SEKISHO-KBD-1",
        "devpath": name.partition("-")[2],
    } | other
    found = {f"{BUS}/{name}/{key}": f"{value}\n" for key, value in attributes.items()}
    if authorized == "1":
        for index, triple in enumerate(interfaces.split()):
            for part, value in zip(
                ("Class", "SubClass", "Protocol"), triple.split(":"), strict=True
            ):
                found[f"{BUS}/{name}:1.{index}/bInterface{part}"] = f"{value}\n"
            found[f"{BUS}/{name}:1.{index}/authorized"] = "1\n"
    return found


def bus(number: int, default: str = "0") -> dict[str, str]:
    return {
        f"{BUS}/usb{number}/authorized": "1\n",
        f"{BUS}/usb{number}/authorized_default": f"{default}\n",
    }


def usb(found: dict[str, Any], *, listed: Any = (KEYBOARD,), parameter: str | None = "0") -> Any:
    core = (
        {}
        if parameter is None
        else {"/sys/module/usbcore/parameters/authorized_default": f"{parameter}\n"}
    )
    return BY_NAME["usb"].parse(
        {
            "bus": held(found),
            "core": held(core),
            "policy": held({"/etc/sekisho/policy.json": told_by(devices=list(listed))}),
        }
    )


def admitted_is_listed(told: Any, policy: list[dict[str, Any]]) -> bool:
    return compare(Op.SUBSET_OF, told["admitted"], policy)[0]


def test_an_open_bus_is_named() -> None:
    assert usb(bus(1) | bus(2, "1"))["open_buses"] == ["usb2"]


def test_the_default_minus_one_is_open_too() -> None:
    assert usb(bus(1, "-1"))["open_buses"] == ["usb1"]


def test_a_machine_without_usb_has_no_open_bus_and_says_that_there_is_none() -> None:
    told = usb({}, parameter=None)
    assert (told["stack"], told["new_buses"], told["open_buses"]) == ("absent", "absent", [])


def test_the_listed_keyboard_is_judged_as_the_site_lists_it() -> None:
    told = usb(bus(1) | device("1-1"))
    assert told["admitted"] == [KEYBOARD]
    assert admitted_is_listed(told, [KEYBOARD])


@pytest.mark.parametrize(
    "change",
    [
        {"idVendor": "0628"},
        {"idProduct": "0002"},
        {"serial": "SEKISHO-KBD-2"},
        {"devpath": "2"},
        {"interfaces": "03:01:01 08:06:50"},
        {"interfaces": "03:01:02"},
    ],
)
def test_a_device_that_differs_in_one_thing_is_not_listed(change: dict[str, str]) -> None:
    told = usb(bus(1) | device("1-1", **change))
    assert len(told["admitted"]) == 1
    assert not admitted_is_listed(told, [KEYBOARD])


def test_a_forged_policy_on_the_host_admits_nothing_at_the_auditor() -> None:
    stick = KEYBOARD | {"serial": "STICK", "interfaces": ["08:06:50"]}
    told = usb(
        bus(1) | device("1-2", serial="STICK", interfaces="08:06:50", devpath="2"),
        listed=[KEYBOARD, stick | {"name": "stick", "port": "2"}],
    )
    assert not admitted_is_listed(told, [KEYBOARD])
    other = KEYBOARD | {"name": "other-keyboard", "serial": "OTHER", "port": "2"}
    told = usb(bus(1) | device("1-2", serial="OTHER", devpath="2"), listed=[KEYBOARD, other])
    assert told["admitted"] == [other]
    assert not admitted_is_listed(told, [KEYBOARD])


def test_a_denied_device_is_shown_as_shut() -> None:
    told = usb(bus(1) | device("1-2", authorized="0"))
    assert told["admitted"] == []
    assert [one["sysname"] for one in told["shut"]] == ["1-2"]


def test_an_authorised_device_without_interfaces_is_not_listed() -> None:
    found = {k: v for k, v in (bus(1) | device("1-1")).items() if ":1." not in k}
    assert not admitted_is_listed(usb(found), [KEYBOARD])


@pytest.mark.parametrize("missing", ["authorized", "authorized_default"])
def test_a_bus_or_device_whose_state_cannot_be_read_is_an_error(missing: str) -> None:
    raw = held(bus(1) | device("1-1"))
    for path in raw["files"]:
        if path.endswith(f"/{missing}"):
            raw["files"][path] = unreadable()
    with pytest.raises(ProbeError):
        BY_NAME["usb"].parse({"bus": raw, "core": held({}), "policy": held({})})


def udev(rules: dict[str, Any], helper: dict[str, Any] | None = None) -> Any:
    return BY_NAME["udev"].parse(
        {
            "rules": held(rules),
            "helper": {"files": {"/usr/lib/sekisho/usb-admit": helper}} if helper else held({}),
            "policy": held({"/etc/sekisho/policy.json": told_by(devices=[KEYBOARD])}),
        }
    )


def test_the_compiled_rules_are_read_back_into_the_list() -> None:
    told = udev({PATH: render([KEYBOARD])})
    assert (told["rules"], told["devices"]) == ("compiled", [KEYBOARD])


def test_one_line_more_is_a_change() -> None:
    told = udev({PATH: render([KEYBOARD]) + 'ATTR{authorized}="1"\n'})
    assert told["rules"].startswith("changed")
    assert "devices" not in told


def test_missing_rules_are_missing() -> None:
    assert udev({})["rules"] == "missing"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('SUBSYSTEM=="usb", ATTR{authorized}="1"', True),
        ('SUBSYSTEM=="usb", ATTR{authorized_default}="1"', True),
        ('SUBSYSTEM=="usb", ATTR{interface_authorized_default} = "1"', True),
        ('SUBSYSTEM=="usb", \\\n  ATTR{authorized}:="1"', True),
        ('SUBSYSTEM=="usb", ATTR{authorized}=="1", ENV{X}="1"', False),
        ('SUBSYSTEM=="usb", ATTR{authorized}!="1"', False),
        ('# ATTR{authorized}="1"', False),
    ],
)
def test_a_rule_elsewhere_that_authorises_is_named(line: str, found: bool) -> None:
    told = udev({"/etc/udev/rules.d/99-x.rules": line + "\n"})
    assert bool(told["assigning_elsewhere"]) is found


@pytest.mark.parametrize(
    ("entry", "state"),
    [
        (None, "missing"),
        ({"mode": 0o755, "uid": 0, "gid": 0, "kind": "file"}, "in place"),
        ({"mode": 0o757, "uid": 0, "gid": 0, "kind": "file"}, "writable"),
        ({"mode": 0o755, "uid": 1000, "gid": 0, "kind": "file"}, "writable"),
        (link("/tmp/x"), "missing"),
    ],
)
def test_the_helper_must_be_roots_own(entry: dict[str, Any] | None, state: str) -> None:
    assert udev({PATH: render([KEYBOARD])}, entry)["helper"] == state


PCI = "../../devices/pci0000:00/0000:00"


@pytest.mark.parametrize(
    ("name", "target", "removable", "size", "attached"),
    [
        ("vda", f"{PCI}:03.0/virtio0/block/vda", "0", "100", False),
        ("nvme0n1", f"{PCI}:04.0/nvme/nvme0/nvme0n1", "0", "100", False),
        ("sda", f"{PCI}:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda", "0", "100", False),
        ("sdb", f"{PCI}:02.0/usb2/2-2/2-2:1.0/host2/target2:0:0/block/sdb", "0", "1", True),
        ("sdc", f"{PCI}:1f.2/ata2/host1/block/sdc", "1", "100", True),
        ("sr0", f"{PCI}:1f.2/ata2/host1/block/sr0", "1", "0", True),
        ("mmcblk0", f"{PCI}:05.0/mmc_host/mmc0/block/mmcblk0", "0", "9", True),
        ("fd0", "../../devices/platform/floppy.0/block/fd0", "1", "8", True),
        ("nbd0", "../../devices/virtual/block/nbd0", "0", "0", False),
        ("nbd1", "../../devices/virtual/block/nbd1", "0", "512", True),
        ("loop0", "../../devices/virtual/block/loop0", "0", "0", False),
        ("dm-0", "../../devices/virtual/block/dm-0", "0", "100", False),
        ("sdd", "../../devices/platform/host9/session1/target9:0:0/block/sdd", "0", "9", True),
    ],
)
def test_a_disk_is_attached_by_what_it_hangs_on(
    name: str, target: str, removable: str, size: str, attached: bool
) -> None:
    path = f"/sys/class/block/{name}"
    told = BY_NAME["block"].parse(
        {
            "links": {"files": {path: link(target)}},
            "attributes": held(
                {f"{path}/removable": f"{removable}\n", f"{path}/size": f"{size}\n"}
            ),
            "tables": held({"/proc/1/mountinfo": mountinfo(name)}),
        }
    )
    assert told["attached"] == ([name] if attached else [])
    assert told["mounted"] == ([f"/dev/{name} /srv"] if attached else [])


def mountinfo(name: str) -> str:
    return (
        "22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n"
        f"30 22 8:16 / /srv rw - ext4 /dev/{name} rw\n"
    )


def test_a_partition_of_a_removable_disk_is_told_where_it_is_mounted() -> None:
    """An ext4 stick was no file system of removable media, and so nothing foreign."""
    block = "/sys/class/block"
    disk = f"{PCI}:1f.2/ata2/host1/block/sdc"
    told = BY_NAME["block"].parse(
        {
            "links": {"files": {f"{block}/sdc": link(disk), f"{block}/sdc1": link(f"{disk}/sdc1")}},
            "attributes": held({f"{block}/sdc/removable": "1\n", f"{block}/sdc/size": "9\n"}),
            "tables": held({"/proc/1/mountinfo": mountinfo("sdc1")}),
        }
    )
    assert told["mounted"] == ["/dev/sdc1 /srv"]
