"""The kernel's announcement of a device (uevent), from bytes to a checked value. Pure.

Format (lib/kobject_uevent.c): ``ACTION@DEVPATH``, then ``KEY=value`` fields, each ended by a zero
byte. The kernel writes ACTION, DEVPATH and SUBSYSTEM before anything a driver adds, so the first
of two equal keys is the kernel's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sekisho.core.errors import SekishoError, printable
from sekisho.devices.attempts import Attempt, other_attempt, usb_attempt

#: Bytes of one announcement: the kernel's UEVENT_BUFFER_SIZE (2048) and a path before it.
MAX_UEVENT = 8192
#: Subsystem → the number that tells two devices at one place apart: the announcement's key, and
#: the attribute under /sys that holds it.
_NUMBERS = {
    "usb": ("DEVNUM", "devnum"),
    "block": ("DISKSEQ", "diskseq"),
    "net": ("IFINDEX", "ifindex"),
}
_USB_PRODUCT = re.compile(r"([0-9a-f]{1,4})/([0-9a-f]{1,4})/[0-9a-f]{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Uevent:
    """One announcement of the kernel's.

    Attributes:
        action: ``add``, ``remove``, ``change`` …
        path: the device's place under /sys; bytes that are no UTF-8 as lone surrogates.
        subsystem: ``usb``, ``block`` … or "".
        devtype: ``usb_device``, ``disk`` … or "".
        values: the other fields, by name.

    """

    action: str
    path: str
    subsystem: str
    devtype: str
    values: Mapping[str, str]

    @property
    def number(self) -> tuple[str, int] | None:
        """Return the sysfs attribute that tells this device from a later one at its place."""
        key, attribute = _NUMBERS.get(self.subsystem, ("", ""))
        text = self.values.get(key, "")
        return (attribute, int(text)) if re.fullmatch(r"[0-9]{1,20}", text, re.ASCII) else None

    def attempt(self) -> Attempt:
        """Return the attempt as far as the announcement itself tells: the device is gone."""
        if self.subsystem != "usb":
            return other_attempt(self.subsystem, self.path, {})
        told: dict[str, str] = {}
        if product := _USB_PRODUCT.fullmatch(self.values.get("PRODUCT", "")):
            told = {"idVendor": product[1].zfill(4), "idProduct": product[2].zfill(4)}
        return usb_attempt(self.path, told, b"")


def parse_uevent(data: bytes) -> Uevent:
    """Return the announcement in ``data``.

    Raises:
        SekishoError: it is not what the kernel writes.

    """
    head, *fields = data.split(b"\0")
    values: dict[str, str] = {}
    for field in fields:
        key, equals, value = _text(field).partition("=")
        if equals:
            values.setdefault(key, value)
    action, path = values.pop("ACTION", ""), values.pop("DEVPATH", "")
    whole = len(data) <= MAX_UEVENT and data.endswith(b"\0")
    if not whole or not action or _text(head) != f"{action}@{path}" or not _is_place(path):
        raise SekishoError(f"an announcement of the kernel's is garbled: {printable(repr(head))}")
    return Uevent(action, path, values.pop("SUBSYSTEM", ""), values.pop("DEVTYPE", ""), values)


def _is_place(path: str) -> bool:
    """Tell whether a path stays below /sys when it is put behind it."""
    return path.startswith("/") and not {"", ".", ".."} & set(path[1:].split("/"))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
