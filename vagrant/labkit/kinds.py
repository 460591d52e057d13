"""What the lab can plug in: how QEMU is told, and what a machine without a wall makes of it.

``{id}`` is the device's id, ``{at}`` its place (a USB port, or a PCI slot), ``{port}`` and ``{bus}``
the parts of a USB place, ``{drive}`` a disk with a known text, ``{folder}`` a folder with a file of
that text, ``{serial}`` the serial number when one is asked for. A device of several parts names
them ``part-{id}-…``. A model is a device of ``models.py``, played to QEMU over usbredir.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labkit.models import MODELS

USB, PCI = "usb", "pci"
#: What a machine may make of a device: sysfs classes, and what only trying shows.
#: text: the known text is read from the disk; mtp: the file is read over MTP; bulk: it is read
#: through usbfs without any driver; alternate: the same after another alternate setting is chosen.
GIVES = (
    "block", "net", "tty", "sound", "input", "hidraw", "usbmisc", "text", "mtp", "bulk", "alternate",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of device.

    Attributes:
        gives: what it becomes where nothing stops it, of ``GIVES``.
        commands: QEMU's monitor commands, in order; those of a model are made.
        words: QEMU's own arguments for what can only be there from power-on.
        bus: where it is plugged in.
        model: the usbredir model that plays it.

    """

    gives: tuple[str, ...]
    commands: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    bus: str = USB
    model: str = ""

    @property
    def has_disk(self) -> bool:
        """Return whether a disk image belongs to it."""
        return bool(self.model) or any("{drive}" in c for c in (*self.commands, *self.words))


_DISK = ("block", "text")
_DRIVE = "drive_add 0 if=none,id={drive},file={file},format=raw"
_ATTACH = "qom-set /machine/peripheral/{id} attached true"
_HUBS = (
    "device_add usb-hub,id={id}{at}",
    "device_add usb-hub,id=part-{id}-1,bus={bus},port={port}.1",
)
_MODEL_GIVES: Mapping[str, tuple[str, ...]] = {
    "composite": (*_DISK, "input"),
    "clone": _DISK,
    "changing": (*_DISK, "input"),
    "late-alternate": ("alternate",),
    "second-configuration": ("input", "hidraw"),
    "rndis-storage": (*_DISK, "net"),
    "vendor": ("bulk",),
    "class-00": ("bulk",),
    "class-ef": ("bulk",),
    "class-ff": ("bulk",),
    "printer": ("usbmisc",),
    "garbled": _DISK,
}

KINDS: Mapping[str, Kind] = {
    "storage": Kind(_DISK, (_DRIVE, "device_add usb-storage,drive={drive},id={id}{at}{serial}")),
    "uas": Kind(_DISK, (
        _DRIVE, "device_add usb-uas,id={id}{at}{serial}",
        # QEMU lets a hot-plugged UAS host wait for its disks before it shows on the bus.
        "device_add scsi-hd,id=part-{id}-1,bus={id}.0,drive={drive}", _ATTACH,
    )),
    "bot": Kind(_DISK, (
        _DRIVE, "device_add usb-bot,id={id}{at}{serial}",
        "device_add scsi-hd,id=part-{id}-1,bus={id}.0,drive={drive}", _ATTACH,
    )),
    "bot-cd": Kind(_DISK, (
        _DRIVE, "device_add usb-bot,id={id}{at}{serial}",
        "device_add scsi-cd,id=part-{id}-1,bus={id}.0,drive={drive}", _ATTACH,
    )),
    "hub-storage": Kind(_DISK, (
        _DRIVE, *_HUBS,
        "device_add usb-storage,drive={drive},id=part-{id}-2,bus={bus},port={port}.1.1{serial}",
    )),
    "hub-keyboard": Kind(("input", "hidraw"), (
        *_HUBS, "device_add usb-kbd,id=part-{id}-2,bus={bus},port={port}.1.1{serial}",
    )),
    "mtp": Kind(("mtp",), ("device_add usb-mtp,rootdir={folder},id={id}{at}{serial}",)),
    "keyboard": Kind(("input", "hidraw"), ("device_add usb-kbd,id={id}{at}{serial}",)),
    "mouse": Kind(("input", "hidraw"), ("device_add usb-mouse,id={id}{at}{serial}",)),
    "tablet": Kind(("input", "hidraw"), ("device_add usb-tablet,id={id}{at}{serial}",)),
    "network": Kind(("net",), (
        "netdev_add hubport,hubid=77,id=net-{id}", "device_add usb-net,netdev=net-{id},id={id}{at}",
    )),
    "serial": Kind(("tty",), (
        "chardev-add null,id=chr-{id}", "device_add usb-serial,always-plugged=on,chardev=chr-{id},id={id}{at}{serial}",
    )),
    "ccid": Kind(("bulk",), ("device_add usb-ccid,id={id}{at}",)),
    "audio": Kind(("sound",), ("device_add usb-audio,audiodev=audio1,id={id}{at}",)),
    "nvme": Kind(_DISK, (
        _DRIVE, "device_add nvme,drive={drive},id={id}{at},serial=LAB-NVME-1",
    ), bus=PCI),
    "virtio-disk": Kind(_DISK, (_DRIVE, "device_add virtio-blk-pci,drive={drive},id={id}{at}"), bus=PCI),
    "scsi-disk": Kind(_DISK, (
        _DRIVE, "device_add virtio-scsi-pci,id={id}{at}",
        "device_add scsi-hd,id=part-{id}-1,bus={id}.0,drive={drive}",
    ), bus=PCI),
    "scsi-cd": Kind(_DISK, (
        _DRIVE, "device_add virtio-scsi-pci,id={id}{at}",
        "device_add scsi-cd,id=part-{id}-1,bus={id}.0,drive={drive}",
    ), bus=PCI),
    "pci-network": Kind(("net",), (
        "netdev_add hubport,hubid=77,id=net-{id}",
        "device_add e1000,netdev=net-{id},id={id}{at},mac=02:5e:61:50:00:02",
    ), bus=PCI),
    "pci-serial": Kind(("tty",), (
        "chardev-add null,id=chr-{id}", "device_add pci-serial,chardev=chr-{id},id={id}{at}",
    ), bus=PCI),
    # No emulated SD or AHCI bus takes a newcomer: they are there from power-on, and the medium comes.
    "sd-card": Kind(_DISK, (), (
        "-drive", "if=none,id={drive},file={file},format=raw",
        "-device", "sdhci-pci,id={id}{at}", "-device", "sd-card,drive={drive},id=part-{id}-1",
    ), bus=PCI),
    "ahci-cd": Kind(_DISK, (), (
        "-drive", "if=none,id={drive},file={file},format=raw,media=cdrom",
        "-device", "ich9-ahci,id={id}{at}",
        "-device", "ide-cd,drive={drive},bus={id}.0,id=part-{id}-1",
    ), bus=PCI),
} | {name: Kind(_MODEL_GIVES[name], model=name) for name in MODELS}  # fmt: skip
