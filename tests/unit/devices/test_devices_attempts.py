"""What a device says of itself becomes one bounded, printable value."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.devices.attempts import (
    CLASSES,
    MAX_TEXT,
    descriptor_interfaces,
    interface_label,
    is_root_hub,
    other_attempt,
    tame,
    usb_attempt,
    worst,
    worth_telling,
)
from sekisho.host.kernel.udev import describe, driver_of, functions_here, outcome, present


def descriptors(*interfaces: str) -> bytes:
    """Return a device descriptor, one configuration and its interfaces."""
    raw = bytes([18, 1, 0, 2, 0, 0, 0, 64, 0xF4, 0x46, 1, 0, 0, 1, 1, 2, 3, 1])
    parts = b"".join(
        bytes([9, 4, number, 0, 1, *bytes.fromhex(code.replace(":", "")), 0])
        for number, code in enumerate(interfaces)
    )
    total = (9 + len(parts)).to_bytes(2, "little")
    return raw + bytes([9, 2, *total, len(interfaces), 1, 0, 0x80, 50]) + parts


@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("08:06:50", "storage"),
        ("08:06:62", "storage"),
        ("03:01:01", "keyboard"),
        ("03:01:02", "pointer"),
        ("03:00:01", "hid"),
        ("06:01:01", "media"),
        ("02:06:00", "network"),
        ("e0:01:03", "network"),
        ("e0:01:01", "wireless"),
        ("02:02:01", "serial"),
        ("ff:42:01", "vendor"),
        ("nonsense", "other"),
    ],
)
def test_interfaces_have_the_labels_people_use(code: str, label: str) -> None:
    assert interface_label(code) == label


def test_a_composite_device_counts_as_its_worst_interface() -> None:
    found = usb_attempt("/devices/x/1-2", {}, descriptors("03:01:01", "08:06:50"))
    assert found.label == "storage"
    assert found.interfaces == ("03:01:01", "08:06:50")
    assert worst(()) == "other"


@given(st.binary(max_size=300))
def test_no_descriptors_make_it_stumble(raw: bytes) -> None:
    for code in descriptor_interfaces(raw):
        assert interface_label(code) in CLASSES


@given(st.text(max_size=400))
def test_a_devices_own_words_are_bounded_and_printable(text: str) -> None:
    safe = tame(text)
    assert len(safe) <= MAX_TEXT
    assert safe.isprintable() or safe == ""
    found = usb_attempt("/d/1-1", {"serial": text, "product": text, "idVendor": text}, b"")
    assert len(str(found.as_json())) < 2000


@pytest.mark.parametrize(
    ("subsystem", "devtype", "path", "told"),
    [
        ("usb", "usb_device", "/devices/pci0/usb1/1-2", True),
        ("usb", "usb_device", "/devices/pci0/usb1", False),
        ("usb", "usb_interface", "/devices/pci0/usb1/1-2/1-2:1.0", False),
        ("block", "disk", "/devices/pci0/usb1/1-2/1-2:1.0/host2/block/sda", True),
        ("block", "partition", "/devices/pci0/usb1/1-2/1-2:1.0/host2/block/sda/sda1", False),
        ("block", "disk", "/devices/virtual/block/loop0", False),
        ("block", "disk", "/devices/virtual/block/nbd0", True),
        ("net", "", "/devices/virtual/net/veth0", False),
        ("net", "", "/devices/pci0/usb1/1-2/1-2:1.0/net/usb0", True),
        ("scsi", "scsi_device", "/devices/pci0/usb1/1-2/host2/target2:0:0/2:0:0:0", False),
        ("scsi", "scsi_device", "/devices/pci0/ata3/host2/target2:0:0/2:0:0:0", True),
        ("mmc", "", "/devices/pci0/mmc_host/mmc0/mmc0:0001", True),
        ("pci", "", "/devices/pci0000:00/0000:00:05.0", True),
        ("input", "", "/devices/pci0/usb1/1-2/input/input5", False),
    ],
)
def test_what_is_an_attempt_of_its_own(subsystem: str, devtype: str, path: str, told: bool) -> None:
    assert worth_telling(subsystem, devtype, path) is told


def test_other_ways_than_usb_have_labels_too() -> None:
    assert other_attempt("block", "/d/block/sr0", {}).label == "optical"
    assert other_attempt("block", "/d/block/mmcblk0", {}).label == "card"
    assert other_attempt("block", "/d/block/sda", {"model": "DISK"}).title == "DISK"
    assert other_attempt("thunderbolt", "/d/0-1", {}).label == "thunderbolt"
    assert is_root_hub("/devices/pci0/usb12")


def plug(sys: Path, name: str, *interfaces: str, authorized: str = "0") -> Path:
    """Put a USB device into a false /sys."""
    folder = sys / "bus/usb/devices" / name
    folder.mkdir(parents=True)
    (folder / "authorized").write_text(authorized + "\n")
    (folder / "descriptors").write_bytes(descriptors(*interfaces))
    for key, text in (("idVendor", "46f4"), ("idProduct", "0001"), ("devpath", name[2:])):
        (folder / key).write_text(text + "\n")
    (folder / "serial").write_bytes(b"S\x1b[31m\xff\n")
    return folder


def test_a_device_under_sys_is_described_whatever_bytes_it_gives(tmp_path: Path) -> None:
    plug(tmp_path, "1-2", "08:06:50")
    (attempt, folder), *rest = present(tmp_path)
    assert rest == []
    assert (attempt.label, attempt.vendor, attempt.port) == ("storage", "46f4", "2")
    assert "\x1b" not in attempt.serial
    assert folder.name == "1-2"


def test_what_the_kernel_let_a_device_do_is_read_from_its_interfaces(tmp_path: Path) -> None:
    folder = plug(tmp_path, "1-2", "03:01:01", authorized="1")
    for number, allowed in ((0, "1"), (1, "0")):
        child = folder / f"1-2:1.{number}"
        child.mkdir()
        (child / "authorized").write_text(allowed)
        for key, text in (("Class", "03"), ("SubClass", "01"), ("Protocol", "01")):
            (child / f"bInterface{key}").write_text(text)
    found = outcome(folder)
    assert found is not None
    assert (found.authorized, found.live) == (True, ("03:01:01",))
    assert outcome(tmp_path / "gone") is None


def test_a_removable_disk_is_present_and_a_built_in_one_is_not(tmp_path: Path) -> None:
    for name, removable in (("sdb", "1"), ("vda", "0")):
        folder = tmp_path / "block" / name
        folder.mkdir(parents=True)
        (folder / "removable").write_text(removable)
    assert [attempt.name for attempt, _ in present(tmp_path)] == ["sdb"]
    assert describe("block", tmp_path / "block/sdb", "/block/sdb").label == "block"


def stub(sys: Path, at: str, vendor: str = "1b36", device: str = "0005") -> Path:
    """Put a PCI function held by the stub into a false /sys."""
    folder = sys / "devices/pci0000:00" / at
    folder.mkdir(parents=True)
    for key, text in (("vendor", vendor), ("device", device), ("class", "010180")):
        (folder / key).write_text(f"0x{text}\n")
    bus = sys / "bus/pci/devices"
    bus.mkdir(parents=True, exist_ok=True)
    (bus / at).symlink_to(folder)
    driver = sys / "bus/pci/drivers/pci-stub"
    driver.mkdir(parents=True, exist_ok=True)
    (driver / at).symlink_to(folder)
    (driver / "new_id").touch()
    (folder / "driver").symlink_to(driver)
    return folder


def test_a_card_that_the_stub_holds_is_present(tmp_path: Path) -> None:
    stub(tmp_path, "0000:00:15.0")
    ((attempt, folder),) = present(tmp_path)
    assert (attempt.subsystem, attempt.label, attempt.name) == ("pci", "pci", "0000:00:15.0")
    assert attempt.path == "/devices/pci0000:00/0000:00:15.0"
    assert driver_of(folder) == "pci-stub"
    assert not driver_of(tmp_path)
    found = "0000:00:15.0 1b36:0005"
    assert list(functions_here(tmp_path)) == [(found, "010180", "pci-stub")]
    assert list(present(tmp_path, {found})) == []
    assert [one.name for one, _ in present(tmp_path, {"0000:00:15.0 1b36:0006"})] == [attempt.name]


def test_a_machine_without_usb_has_nothing_attached(tmp_path: Path) -> None:
    assert list(present(tmp_path)) == []
