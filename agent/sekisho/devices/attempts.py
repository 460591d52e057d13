"""Attempts to attach something: what the kernel said of a device, as one bounded value. Pure.

Strings of a device are its maker's: hostile bytes, any length. They are tamed here, once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Label of a class, worst first: what a device of several interfaces is counted as.
CLASSES = (
    "storage",
    "media",  # MTP, PTP
    "network",
    "serial",
    "wireless",
    "printer",
    "vendor",  # speaks a protocol of its own
    "block",
    "optical",
    "card",
    "thunderbolt",
    "firewire",
    "pci",
    "bluetooth",
    "scsi",
    "other",  # unknown, so worse than what is known to carry no files
    "keyboard",
    "pointer",
    "hid",
    "smartcard",
    "audio",
    "video",
    "hub",
)
#: admitted: listed and let in; refused: not listed; appeared: came into use past the USB gate.
DECISIONS = ("admitted", "refused", "appeared", "unknown")

#: USB class code (usb.org) → label; a few need the subclass too.
_USB_CLASSES = {
    0x01: "audio",
    0x02: "serial",
    0x06: "media",
    0x07: "printer",
    0x08: "storage",
    0x09: "hub",
    0x0A: "serial",
    0x0B: "smartcard",
    0x0E: "video",
    0x10: "video",
    0xE0: "wireless",
    0xFF: "vendor",
}
_NETWORK_SUBCLASSES = {0x06, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E}  # ECM, EEM, NCM, MBIM …

#: Kernel subsystem → label, for what comes another way than USB.
SUBSYSTEMS = {
    "block": "block",
    "mmc": "card",
    "memstick": "card",
    "thunderbolt": "thunderbolt",
    "firewire": "firewire",
    "pci": "pci",
    "bluetooth": "bluetooth",
    "scsi": "scsi",
    "net": "network",
    "nvme": "block",
    "usb": "other",
}
_INTERFACE = re.compile(r"([0-9a-f]{2}):([0-9a-f]{2}):([0-9a-f]{2})", re.ASCII)
_HEX4 = re.compile(r"[0-9a-f]{4}", re.ASCII)
MAX_TEXT = 128  # characters kept of a device's own strings
MAX_INTERFACES = 32  # the USB limit of one configuration


@dataclass(frozen=True, slots=True)
class Attempt:
    """One device that came, or was there at the start.

    Attributes:
        subsystem: the kernel's word: usb, block, net …
        label: one of `CLASSES`, for metrics.
        path: the device's place under /sys.
        name: the kernel's name of it: ``1-2``, ``sda``.
        vendor: USB vendor id, four hex digits, or "".
        product: USB product id, four hex digits, or "".
        serial: serial number the device claims, tamed.
        title: maker's and product's names the device claims, tamed.
        port: the physical port: ``1``, ``1.4`` behind a hub.
        interfaces: USB interfaces as ``03:01:01``, every configuration's.

    """

    subsystem: str
    label: str
    path: str
    name: str
    vendor: str = ""
    product: str = ""
    serial: str = ""
    title: str = ""
    port: str = ""
    interfaces: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the attempt as plain JSON values; what is not known is left out."""
        known = {
            "subsystem": self.subsystem,
            "class": self.label,
            "path": self.path,
            "name": self.name,
            "vendor": self.vendor,
            "product": self.product,
            "serial": self.serial,
            "title": self.title,
            "port": self.port,
            "interfaces": list(self.interfaces),
        }
        return {key: value for key, value in known.items() if value}


def tame(text: str | None) -> str:
    """Return a device's string with everything unprintable escaped, cut to `MAX_TEXT`."""
    if text is None:
        return ""
    cut = text.strip()[:MAX_TEXT]
    safe = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in cut
    )
    return safe[:MAX_TEXT]


def interface_label(code: str) -> str:
    """Return the label of one interface, e.g. ``03:01:01`` → ``keyboard``."""
    found = _INTERFACE.fullmatch(code)
    if found is None:
        return "other"
    kind, sub, protocol = (int(part, 16) for part in found.groups())
    if kind == 0x03:
        return {1: "keyboard", 2: "pointer"}.get(protocol if sub == 1 else 0, "hid")
    if kind == 0x02 and sub in _NETWORK_SUBCLASSES:
        return "network"
    if kind == 0xE0 and (sub, protocol) == (0x01, 0x03):
        return "network"  # RNDIS
    return _USB_CLASSES.get(kind, "other")


def worst(labels: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    """Return the worst of some labels; none at all is ``other``."""
    return min(labels, key=CLASSES.index, default="other")


def descriptor_interfaces(raw: bytes) -> tuple[str, ...]:
    """Return class:subclass:protocol of every interface in a device's descriptors.

    A device may lie in lengths: reading stops at the first descriptor that does not fit.
    """
    found: list[str] = []
    at = 0
    while at + 2 <= len(raw) and len(found) < MAX_INTERFACES:
        length, kind = raw[at], raw[at + 1]
        if length < 2 or at + length > len(raw):
            break
        if kind == 4 and length >= 9:
            code = ":".join(f"{byte:02x}" for byte in raw[at + 5 : at + 8])
            if code not in found:
                found.append(code)
        at += length
    return tuple(found)


def usb_attempt(path: str, attributes: Mapping[str, str], descriptors: bytes) -> Attempt:
    """Return the attempt of a USB device from its sysfs attributes and raw descriptors."""
    interfaces = descriptor_interfaces(descriptors)

    def hex4(key: str) -> str:
        text = attributes.get(key, "").strip().lower()
        return text if _HEX4.fullmatch(text) else ""

    title = " ".join(
        part for key in ("manufacturer", "product") if (part := tame(attributes.get(key)))
    )
    return Attempt(
        subsystem="usb",
        label=worst([interface_label(code) for code in interfaces]),
        path=tame(path),
        name=tame(path.rpartition("/")[2]),
        vendor=hex4("idVendor"),
        product=hex4("idProduct"),
        serial=tame(attributes.get("serial")),
        title=title[:MAX_TEXT],
        port=tame(attributes.get("devpath")),
        interfaces=interfaces,
    )


def other_attempt(subsystem: str, path: str, attributes: Mapping[str, str]) -> Attempt:
    """Return the attempt of a device that came another way than USB."""
    label = SUBSYSTEMS.get(subsystem, "other")
    name = path.rpartition("/")[2]
    if subsystem == "block" and name.startswith("sr"):
        label = "optical"
    if subsystem == "block" and name.startswith(("mmcblk", "mspblk")):
        label = "card"
    serial = attributes.get("serial") or attributes.get("address")
    return Attempt(
        subsystem=tame(subsystem),
        label=label,
        path=tame(path),
        name=tame(name),
        serial=tame(serial),
        title=tame(attributes.get("model") or attributes.get("name")),
    )


def is_root_hub(path: str) -> bool:
    """Tell whether a USB device is the controller itself: ``usb1``, not ``1-2``."""
    return re.fullmatch(r"usb[0-9]+", path.rpartition("/")[2], re.ASCII) is not None


def worth_telling(subsystem: str, devtype: str, path: str) -> bool:
    """Tell whether an added device is an attempt of its own.

    A USB device is one; so is a disk or a network card wherever it hangs, since behind USB it
    means the gate failed. Other children of a USB device belong to their parent's attempt, and
    software devices (loop, dm, veth) are no attachment; a network block device is.
    """
    if subsystem == "usb":
        return devtype == "usb_device" and not is_root_hub(path)
    if subsystem not in SUBSYSTEMS:
        return False
    behind_usb = re.search(r"/usb[0-9]+/", path, re.ASCII) is not None
    if subsystem == "block":
        software = "/virtual/" in path and not re.search(r"/nbd[0-9]+$", path)
        return devtype == "disk" and not software
    if subsystem == "net":
        return "/virtual/" not in path
    if subsystem == "scsi":
        return devtype == "scsi_device" and not behind_usb
    return not behind_usb and "/virtual/" not in path
