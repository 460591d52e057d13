"""Devices: what the kernel announces, and what is there already. Reads; never writes.

The kernel's own announcements are read, not udevd's: an agent that depends on udevd is blind when
udevd is stopped.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.devices.attempts import (
    Attempt,
    is_root_hub,
    other_attempt,
    usb_attempt,
    worth_telling,
)
from sekisho.devices.pci import PLACE, function
from sekisho.devices.policy import Device
from sekisho.host.debian_python import load
from sekisho.host.devices.admit import read_device

MAX_ATTRIBUTE = 4096  # bytes of one sysfs attribute
MAX_DESCRIPTORS = 65536
RECEIVE_BUFFER = 2 * 1024 * 1024  # bytes of announcements the kernel keeps for us
_USB_ATTRIBUTES = ("idVendor", "idProduct", "serial", "manufacturer", "product", "devpath")
_OTHER_ATTRIBUTES = ("serial", "model", "name", "address", "wwid")
STUB = "bus/pci/drivers/pci-stub"
#: Ways by which a disk can be attached to a running machine.
_HOT_BUSES = ("/usb", "/mmc_host/", "/fw", "/thunderbolt", "/domain")


def read_attribute(folder: Path, name: str) -> str | None:
    """Return one sysfs attribute's text, any bytes escaped; None when it has none."""
    try:
        with (folder / name).open("rb") as stream:
            return stream.read(MAX_ATTRIBUTE).decode("utf-8", "backslashreplace").strip()
    except OSError:  # not there, gone meanwhile, or the device gives none
        return None


def _attributes(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    found = {name: read_attribute(folder, name) for name in names}
    return {name: text for name, text in found.items() if text is not None}


def describe(subsystem: str, folder: Path, path: str) -> Attempt:
    """Return the attempt of the device in ``folder``, called ``path`` (its place under /sys)."""
    if subsystem != "usb":
        attributes = _attributes(folder, _OTHER_ATTRIBUTES)
        return other_attempt(
            subsystem,
            path,
            attributes | _attributes(folder / "device", ("serial", "model", "name")),
        )
    raw = b""
    with contextlib.suppress(OSError), (folder / "descriptors").open("rb") as stream:
        raw = stream.read(MAX_DESCRIPTORS)
    return usb_attempt(path, _attributes(folder, _USB_ATTRIBUTES), raw)


def device_value(folder: Path) -> Device:
    """Return the USB device in ``folder`` as the site's list is compared with it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # gone already
        return Device(folder.name, None, None, None, None)
    try:
        return read_device(handle, folder.name)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the kernel let a USB device do: None where it is gone.

    Attributes:
        authorized: the device itself may be configured.
        live: interfaces that are authorized, as ``03:01:01``.
        drivers: drivers bound to them.

    """

    authorized: bool
    live: tuple[str, ...]
    drivers: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "authorized": self.authorized,
            "live": list(self.live),
            "drivers": list(self.drivers),
        }


def outcome(folder: Path) -> Outcome | None:
    """Return what became of a USB device; None when it is gone."""
    authorized = read_attribute(folder, "authorized")
    if authorized is None:
        return None
    live, drivers = [], []
    for child in sorted(folder.glob(f"{folder.name}:*")):
        if read_attribute(child, "authorized") == "0":
            continue
        live.append(
            ":".join(
                read_attribute(child, f"bInterface{part}") or "??"
                for part in ("Class", "SubClass", "Protocol")
            )
        )
        with contextlib.suppress(OSError):
            drivers.append((child / "driver").readlink().name)
    return Outcome(authorized == "1", tuple(live), tuple(drivers))


def present(sys: Path = Path("/sys"), own: Collection[str] = ()) -> Iterator[tuple[Attempt, Path]]:
    """Yield what is attached now by a way that can be used while the machine runs.

    Every USB device but the controllers, every disk that is removable or hangs on a bus for
    attaching things, and every PCI function that is not in ``own`` (`sekisho.devices.pci`);
    without a word of what is the machine's own, every one that the wall gave to the stub.
    """
    for link in sorted(_entries(sys / "bus/usb/devices")):
        if ":" in link.name or is_root_hub(link.name):
            continue
        folder = link.resolve()
        yield describe("usb", folder, _place(folder, sys)), folder
    for link in sorted(_entries(sys / "block")):
        folder = link.resolve()
        path = _place(folder, sys)
        if not worth_telling("block", "disk", path):
            continue
        if read_attribute(folder, "removable") == "1" or any(way in path for way in _HOT_BUSES):
            yield describe("block", folder, path), folder

    for link in sorted(_entries(sys / ("bus/pci/devices" if own else STUB))):
        folder = link.resolve()
        if PLACE.fullmatch(link.name) and function_at(folder) not in own:
            yield describe("pci", folder, _place(folder, sys)), folder


def function_at(folder: Path) -> str:
    """Return the PCI function in ``folder`` as the site writes it."""
    return function(folder.name, read_attribute(folder, "vendor"), read_attribute(folder, "device"))


def functions_here(sys: Path = Path("/sys")) -> Iterator[tuple[str, str, str]]:
    """Yield the PCI functions of this machine, each with its class (six hex digits) and driver."""
    for link in sorted(_entries(sys / "bus/pci/devices")):
        folder = link.resolve()
        kind = (read_attribute(folder, "class") or "").removeprefix("0x")
        yield function_at(folder), kind, driver_of(folder)


def driver_of(folder: Path) -> str:
    """Return the driver that has the device in ``folder``; "" when none has it, or it is gone."""
    try:
        return (folder / "driver").readlink().name
    except OSError:
        return ""


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:  # no such bus in this kernel
        return []


def _place(folder: Path, sys: Path) -> str:
    text = str(folder)
    root = str(sys.resolve())
    return text.removeprefix(root) or text


class DeviceMonitor:
    """The kernel's announcements of added devices."""

    def __init__(self) -> None:
        pyudev = load("pyudev", "python3-pyudev")
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        with contextlib.suppress(OSError):  # beyond the default size only with CAP_NET_ADMIN
            self._monitor.set_receive_buffer_size(RECEIVE_BUFFER)
        self._monitor.start()

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return int(self._monitor.fileno())

    def added(self, limit: int = 64) -> Iterator[tuple[str, str, Path]]:
        """Yield (subsystem, path, folder) of waiting announcements worth telling; ``limit`` read.

        Raises:
            OSError: announcements were lost (ENOBUFS); look at what is `present`.

        """
        for _ in range(limit):
            device = self._monitor.poll(timeout=0)
            if device is None:
                return
            if device.action != "add":
                continue
            subsystem, devtype = device.subsystem or "", device.device_type or ""
            path = str(device.device_path)
            if worth_telling(subsystem, devtype, path):
                yield subsystem, path, Path(str(device.sys_path))
