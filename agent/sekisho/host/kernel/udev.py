"""Devices: what the kernel announces, and what is there already. Reads; never writes.

The kernel's own announcements are read, not udevd's: an agent that depends on udevd is blind when
udevd is stopped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.core.errors import SekishoError
from sekisho.devices.attempts import (
    SUBSYSTEMS,
    Attempt,
    is_root_hub,
    other_attempt,
    usb_attempt,
    worth_telling,
)
from sekisho.devices.pci import PLACE, function
from sekisho.devices.policy import Device
from sekisho.devices.uevent import MAX_UEVENT, Uevent, parse_uevent
from sekisho.host.devices.admit import read_device

MAX_ATTRIBUTE = 4096  # bytes of one sysfs attribute
MAX_DESCRIPTORS = 65536
RECEIVE_BUFFER = 2 * 1024 * 1024  # bytes of announcements the kernel keeps for us
#: linux/netlink.h, linux/kobject.h, asm/socket.h, linux/sock_diag.h
_NETLINK_KOBJECT_UEVENT, _KERNELS_GROUP = 15, 1
_SO_RCVBUFFORCE, _SO_MEMINFO, _RMEM, _DROPS = 33, 55, 0, 8
_USB_ATTRIBUTES = ("idVendor", "idProduct", "serial", "manufacturer", "product", "devpath")
_OTHER_ATTRIBUTES = ("serial", "model", "name", "address", "wwid")
_SCSI_DEVICE = re.compile(r"[0-9]+:[0-9]+:[0-9]+:[0-9]+", re.ASCII)
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
    for folder in _entries(sys / "bus/usb/devices"):
        if ":" in folder.name or is_root_hub(folder.name):
            continue
        yield describe("usb", folder, place(folder, sys)), folder
    for folder in _entries(sys / "block"):
        path = place(folder, sys)
        if not worth_telling("block", "disk", path):
            continue
        if read_attribute(folder, "removable") == "1" or any(way in path for way in _HOT_BUSES):
            yield describe("block", folder, path), folder

    for folder in _entries(sys / ("bus/pci/devices" if own else STUB)):
        if PLACE.fullmatch(folder.name) and function_at(folder) not in own:
            yield describe("pci", folder, place(folder, sys)), folder


def attached(sys: Path = Path("/sys")) -> Iterator[tuple[str, str, Path]]:
    """Yield (subsystem, place, folder) of all that is attached and would be announced if it came.

    The machine's own parts are among them: what is new is what was not there before.
    """
    for subsystem in sorted(SUBSYSTEMS):
        folders = [sys / "bus" / subsystem / "devices", sys / "class" / subsystem]
        if subsystem == "block":
            folders = [sys / "block"]  # of all block devices the whole disks
        for folder in (entry for one in folders for entry in _entries(one)):
            path = place(folder, sys)
            if worth_telling(subsystem, _devtype(subsystem, folder.name), path):
                yield subsystem, path, folder


def _devtype(subsystem: str, name: str) -> str:
    """Return the kernel's word for a device of a kind by its name; "" where it has none for us."""
    if subsystem == "block":
        return "disk"
    if subsystem == "usb":
        return "usb_interface" if ":" in name else "usb_device"
    if subsystem == "scsi":
        return "scsi_device" if _SCSI_DEVICE.fullmatch(name) else ""
    return ""


def identity(folder: Path) -> int | None:
    """Return a number that the kernel gives to this device and to no other until it restarts.

    It is the inode number of the device's folder: sysfs counts them up. None when it is gone.
    """
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def function_at(folder: Path) -> str:
    """Return the PCI function in ``folder`` as the site writes it."""
    return function(folder.name, read_attribute(folder, "vendor"), read_attribute(folder, "device"))


def functions_here(sys: Path = Path("/sys")) -> Iterator[tuple[str, str, str]]:
    """Yield the PCI functions of this machine, each with its class (six hex digits) and driver."""
    for folder in _entries(sys / "bus/pci/devices"):
        kind = (read_attribute(folder, "class") or "").removeprefix("0x")
        yield function_at(folder), kind, driver_of(folder)


def driver_of(folder: Path) -> str:
    """Return the driver that has the device in ``folder``; "" when none has it, or it is gone."""
    try:
        return (folder / "driver").readlink().name
    except OSError:
        return ""


def _entries(folder: Path) -> list[Path]:
    """Return the devices' own folders that the links in one of sysfs's lists lead to, sorted."""
    try:
        links = sorted(folder.iterdir())
    except FileNotFoundError:  # no such bus in this kernel
        return []
    here = folder.resolve()
    return [_led_to(here, link) for link in links]


def _led_to(here: Path, link: Path) -> Path:
    # One step: a link of sysfs leads to no other link, and `resolve` asks for each part of the way.
    try:
        return Path(os.path.normpath(here / link.readlink()))
    except OSError:  # no link, or gone
        return here / link.name


def place(folder: Path, sys: Path = Path("/sys")) -> str:
    """Return the place under /sys of a device's folder, as the kernel announces it."""
    text = str(folder)
    root = str(sys.resolve())
    return text.removeprefix(root) or text


class AnnouncementsLostError(Exception):
    """The kernel had more to announce than its buffer for us holds, or what we cannot read.

    Attributes:
        count: how many announcements told us nothing.

    """

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} of the kernel's announcements were lost")
        self.count = count


class DeviceMonitor:
    """The kernel's announcements of added devices, read from its own socket.

    pyudev is not used: it takes a full buffer for the socket's end, never reads the error off, and
    from then on tells of no device again.
    """

    def __init__(self, size: int = RECEIVE_BUFFER) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:  # beyond the default size only with CAP_NET_ADMIN
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        self._socket.bind((0, _KERNELS_GROUP))
        self._dropped, self._unreadable = 0, 0

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def added(self, limit: int = 64) -> Iterator[Uevent]:
        """Yield waiting announcements worth telling; ``limit`` are read.

        After a loss the kernel announces nothing more, and says nothing of it, until all that waits
        is read: so the loss is told only then, when a look at what is attached misses nothing.

        Raises:
            AnnouncementsLostError: some were lost, and none is waiting.
            OSError: the socket is of no use any more.

        """
        for _ in range(limit):
            try:
                data, sender = self._socket.recvfrom(MAX_UEVENT + 1)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue  # how many were lost is told when nothing waits
            if sender != (0, _KERNELS_GROUP):  # only the kernel announces; root could write to us
                continue
            try:
                event = parse_uevent(data)
            except SekishoError:
                self._unreadable += 1
                continue
            if event.action == "add" and worth_telling(event.subsystem, event.devtype, event.path):
                yield event
        self._tell_loss()

    def _tell_loss(self) -> None:
        info = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_DROPS + 1))
        waiting, drops = (struct.unpack_from("=I", info, 4 * at)[0] for at in (_RMEM, _DROPS))
        if waiting:
            return
        lost = (drops - self._dropped) % (1 << 32) + self._unreadable
        self._dropped, self._unreadable = drops, 0
        if lost:
            raise AnnouncementsLostError(lost)
