"""Foreign disks: with the wall down each is readable, with it up there is no block device at all.

The agent and udev are stopped: what holds is the kernel. Cold boot with the disks in place, too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from labkit.api import Lab as Driver
from tests.vm.trial import Lab, until

pytestmark = pytest.mark.vm
HOST = "core-1"
TEXT = "this disk is not the machine's own"
KINDS: dict[str, tuple[str, ...]] = {
    "nvme": ("nvme,drive={drive},serial=FOREIGN,id={id}",),
    "virtio-blk": ("virtio-blk-pci,drive={drive},serial=FOREIGN,id={id}",),
    "virtio-scsi": (
        "virtio-scsi-pci,id={id}-bus",
        "scsi-hd,bus={id}-bus.0,drive={drive},serial=FOREIGN,id={id}",
    ),
}
BLOCKS = "ls /sys/block | grep -vE '^(loop|ram|zram)' | sort | tr '\\n' ' '"


def _plug(lab: Driver, kind: str, folder: Path) -> None:
    image = folder / f"{kind}.raw"
    image.write_bytes(TEXT.encode().ljust(1 << 20, b"\0"))
    name = f"foreign-{kind}"
    said = lab.monitor(HOST, f"drive_add 0 if=none,id=drive-{name},file={image},format=raw")
    assert said in ("", "OK"), said
    for words in KINDS[kind]:
        said = lab.monitor(HOST, f"device_add {words.format(drive=f'drive-{name}', id=name)}")
        assert said == "", said


def _readable(site: Lab, driver: str) -> bool:
    """Tell whether any block device but the machine's own holds the foreign text."""
    seen = site.root(
        HOST,
        f"modprobe -a {driver} sd_mod; sleep 2; for b in /sys/block/*; do n=${{b##*/}}; "
        "[ $n = vda ] || head -c 64 /dev/$n 2>/dev/null; done",
    )
    return TEXT in seen.out


@pytest.fixture(scope="module")
def media() -> Path:
    """A folder that QEMU inside the lab reads; the lab's own, gone with it."""
    from labkit.usb import MEDIA  # noqa: PLC0415 - the lab's driver, on its own path

    folder = MEDIA / "disks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("kind", "driver"),
    [("nvme", "nvme"), ("virtio-blk", "virtio_blk"), ("virtio-scsi", "virtio_scsi")],
)
def test_a_disk_plugged_in_gives_no_block_device_but_with_the_wall_down_it_does(
    lab: Driver, machine: Lab, media: Path, kind: str, driver: str
) -> None:
    assert machine.root(HOST, "cat /run/sekisho-disk-wall").out.startswith("up "), "the wall"
    own = machine.root(HOST, BLOCKS).out
    machine.root(HOST, "systemctl stop sekisho-agent systemd-udevd systemd-udevd-control.socket "
                       "systemd-udevd-kernel.socket")  # fmt: skip
    _plug(lab, kind, media)
    assert not _readable(machine, driver)
    assert machine.root(HOST, BLOCKS).out == own
    # The same disk with the wall down: else the case proves nothing.
    machine.root(
        HOST,
        "echo 1 >/sys/bus/virtio/drivers_autoprobe; "
        "[ ! -e /sys/module/scsi_mod/parameters/scan ] || echo sync >/sys/module/scsi_mod/parameters/scan; "
        "for d in /sys/bus/pci/drivers/pci-stub/0000:*; do [ -e $d ] || continue; "
        "echo ${d##*/} >/sys/bus/pci/drivers/pci-stub/unbind; done; rmmod pci_stub; "
        f"modprobe -a {driver} sd_mod; for d in /sys/bus/pci/devices/*; do [ -e $d/driver ] || "
        "echo ${d##*/} >/sys/bus/pci/drivers_probe; done; "
        "for d in /sys/bus/virtio/devices/*; do [ -e $d/driver ] || "
        "echo ${d##*/} >/sys/bus/virtio/drivers_probe; done",
    )
    found, _ = until(lambda: _readable(machine, driver), timeout=30)
    assert found, "with the wall down the disk must be readable"


def test_a_disk_that_is_there_when_the_machine_boots_is_gone_before_anything_runs(
    lab: Driver, machine: Lab, media: Path
) -> None:
    own = machine.root(HOST, BLOCKS).out
    _plug(lab, "nvme", media)
    _plug(lab, "virtio-blk", media)

    def boot() -> str:
        return machine.root(HOST, "cat /proc/sys/kernel/random/boot_id").out

    before = boot()
    machine.root(HOST, "systemctl reboot", timeout=30)
    again, _ = until(lambda: (now := boot()) not in ("", before) and now, timeout=900, every=5)
    assert again, "the machine did not come back"
    assert machine.root(HOST, BLOCKS).out == own
    assert not _readable(machine, "nvme virtio_blk")
    said = machine.root(HOST, "journalctl -b -k --no-pager | grep disk-wall").out
    assert "is not listed" in said, said
