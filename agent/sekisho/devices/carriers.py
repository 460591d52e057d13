"""What can carry files out of a machine: labels of devices, USB or not. Pure."""

from __future__ import annotations

import re

from sekisho.devices.attempts import CLASSES, interface_label, worst
from sekisho.devices.export_db import Record

#: Labels of what carries no files by itself: everything else, known or not, is taken to.
HARMLESS = frozenset({"keyboard", "pointer", "hid", "smartcard", "audio", "video", "hub"})

_BY_SUBSYSTEM = {
    "block": "block",
    "nvme": "block",
    "nd": "block",
    "dax": "block",
    "mtd": "block",
    "ubi": "block",
    "scsi_tape": "scsi",
    "scsi_generic": "scsi",
    "scsi_changer": "scsi",
    "bsg": "scsi",
    "mmc": "card",
    "sdio": "card",
    "memstick": "card",
    "pcmcia": "pci",
    "thunderbolt": "thunderbolt",
    "firewire": "firewire",
    "net": "network",
    "infiniband": "network",
    "wwan": "network",
    "ieee80211": "wireless",
    "ieee802154": "wireless",
    "nfc": "wireless",
    "bluetooth": "bluetooth",
    "usb-serial": "serial",
    "usbmisc": "vendor",
    "printer": "printer",
    "ppdev": "printer",
    "udc": "vendor",  # the machine itself pretends to be a device
}
#: udev's own marks of cameras and players, by whatever interface class they speak.
_MEDIA = ("ID_MTP_DEVICE", "ID_MEDIA_PLAYER", "ID_GPHOTO2", "GPHOTO2_DRIVER")
_STORAGE_DRIVER = re.compile(r"usb-storage|uas|ums-.+|rtsx_usb.*", re.ASCII)


def carries(label: str) -> bool:
    """Tell whether a device of this label can carry files."""
    return label not in HARMLESS


def label_of_interfaces(interfaces: frozenset[str] | None) -> str:
    """Return the worst label of a USB device's interfaces; none known is ``other``."""
    return worst([interface_label(code) for code in interfaces or ()])


def worse(one: str, other: str) -> str:
    """Return the worse of two labels."""
    return min(one, other, key=CLASSES.index)


def label_of_record(record: Record) -> str | None:
    """Return the label of a record that is no USB device, or None where it carries no files."""
    subsystem, name = record.subsystem, record.name
    kind = record.fields.get("DEVTYPE", "")
    if subsystem == "block":
        if name.startswith("sr"):
            return "optical"
        return "card" if name.startswith(("mmcblk", "mspblk")) else "block"
    if subsystem == "scsi":
        return "scsi" if kind == "scsi_device" else None
    if subsystem == "tty":  # terminals of the machine's own are software
        return None if software(record) else "serial"
    if subsystem == "usb" and kind == "" and ":" not in name:
        subsystem = "usbmisc"  # as older kernels call it
    if subsystem == "usbmisc" and name.startswith("hiddev"):
        return None  # another face of an input device
    return _BY_SUBSYSTEM.get(subsystem)


def software(record: Record) -> bool:
    """Tell whether a record is the kernel's own making (loop, ram, lo), attached to nothing."""
    return record.path.startswith("/devices/virtual/")


def mark_of(record: Record) -> str | None:
    """Return the label that a USB record's marks or driver give away, or None."""
    if any(record.fields.get(key) for key in _MEDIA):
        return "media"
    return "storage" if _STORAGE_DRIVER.fullmatch(record.fields.get("DRIVER", "")) else None
