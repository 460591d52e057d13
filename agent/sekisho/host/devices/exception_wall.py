"""The kernel's side of a device exception: let one device in, and shut it again.

Standard library only. For a disk the driver is bound by hand to that one interface: new interfaces
of its bus are unauthorised meanwhile (``interface_authorized_default``; Linux,
Documentation/usb/authorization.rst), and ``in`` makes the block device read-only before anybody is
told of it (``BLKROSET``).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sekisho.core.errors import SekishoError, printable
from sekisho.core.files import write_atomic
from sekisho.core.text import lines_of
from sekisho.devices.exception import BULK_ONLY, DeviceException
from sekisho.host.devices.exception_state import DISK, RUN

MODULES = Path("/proc/modules")
LOCKED = Path("/proc/sys/kernel/modules_disabled")
DRIVER = Path("/sys/bus/usb/drivers/usb-storage")
MODULE = "usb_storage"
EXCEPTED = RUN / DISK
_BLKROSET = 0x125D  # _IO(0x12, 93), include/uapi/linux/fs.h
_BLKROGET = 0x125E
_MNT_DETACH = 2
WAIT_S = 60.0


class WallError(SekishoError):
    """The kernel did not do what was asked of it."""


def loaded() -> bool:
    """Tell whether the driver of disks is in the kernel."""
    return any(line.split(" ", 1)[0] == MODULE for line in lines_of(MODULES.read_text()))


def may_load() -> bool:
    """Tell whether the kernel still takes modules (``kernel.modules_disabled``)."""
    try:
        return LOCKED.read_text().strip() == "0"
    except OSError:
        return False


def load(exception: DeviceException) -> None:
    """Load the driver of disks for this order, past modprobe's own ban.

    ``quirks=V:P:u``: a disk that also speaks UAS is driven as bulk-only, so one driver is enough.
    """
    if loaded():
        return
    if not may_load():
        raise WallError(
            "the kernel takes no modules any more (kernel.modules_disabled): a disk needs a "
            "maintenance order and a restart first"
        )
    quirk = f"quirks={exception.rule.vendor}:{exception.rule.product}:u"
    _run(["/usr/sbin/modprobe", "--ignore-install", MODULE, quirk])


def unload() -> None:
    """Take the driver of disks out of the kernel."""
    for _ in range(20):
        if not loaded():
            return
        done = subprocess.run(["/usr/sbin/rmmod", MODULE], check=False, capture_output=True)
        if done.returncode:
            time.sleep(0.5)
    if loaded():
        raise WallError(f"{MODULE} cannot be unloaded")


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        said = printable((done.stderr or done.stdout).strip(), 300)
        raise WallError(f"{' '.join(argv)}: exit status {done.returncode}: {said}")


def attach(folder: Path, exception: DeviceException) -> list[str]:
    """Let the device in ``folder`` (below /sys/bus/usb/devices) in; returns its disks' names.

    What cannot be done to the end is undone: the device is shut again, and `WallError` says why.
    """
    if not exception.storage:
        (folder / "authorized").write_text("1")
        return []
    bus = folder.parent / f"usb{folder.name.partition('-')[0]}" / "interface_authorized_default"
    try:
        mode = "read-only" if exception.direction == "in" else "read-write"
        write_atomic(EXCEPTED, f"{folder.name} {mode}\n".encode(), 0o600)
        bus.write_text("0")
        try:
            (folder / "authorized").write_text("1")
            _bind(folder)
        finally:
            bus.write_text("1")
        names = _await_disks(folder)
        for name in names:
            _guard(Path("/dev") / name, read_only=exception.direction == "in")
    except (OSError, WallError) as bad:
        shut(folder)
        said = bad.message if isinstance(bad, WallError) else (bad.strerror or str(bad))
        raise WallError(f"{folder.name} was not let in: {said}") from None
    return names


def _bind(folder: Path) -> None:
    """Authorise the one interface of a disk and bind the driver to it, by name."""
    bound = 0
    for interface in sorted(folder.glob(f"{folder.name}:*")):
        code = ":".join(
            (interface / f"bInterface{part}").read_text().strip()
            for part in ("Class", "SubClass", "Protocol")
        )
        # With UAS as another setting of it, the setting in use is still the first: bulk-only.
        if code != BULK_ONLY or bound:
            continue
        (interface / "authorized").write_text("1")
        if not (interface / "driver").exists():
            (DRIVER / "bind").write_text(interface.name)
        bound += 1
    if not bound:
        raise WallError("it has no interface that the driver of disks takes")


def disks(folder: Path) -> list[str]:
    """Return the names of the disks and partitions of a USB device, disks first."""
    found = {path.name for path in folder.glob(f"{folder.name}:*/host*/target*/*/block/*")}
    parts = {
        path.parent.name
        for name in found
        for path in Path("/sys/class/block", name).glob("*/partition")
    }
    return [*sorted(found), *sorted(parts)]


def _await_disks(folder: Path) -> list[str]:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        names = disks(folder)
        if names and all((Path("/dev") / name).exists() for name in names):
            return names
        if not names:
            _look(folder)
        time.sleep(0.1)
    raise WallError(f"no disk appears within {WAIT_S:.0f} s")


def _look(folder: Path) -> None:
    """Have the kernel look for the device's disk: behind the disk wall it looks for none itself."""
    for host in folder.glob(f"{folder.name}:*/host*/scsi_host/host*/scan"):
        host.write_text("- - -")


def _guard(node: Path, *, read_only: bool) -> None:
    """Keep a disk's node root's own, and where wanted, read-only in the kernel."""
    handle = os.open(node, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fchown(handle, 0, 0)
        os.fchmod(handle, 0o600)
        if read_only:
            fcntl.ioctl(handle, _BLKROSET, struct.pack("i", 1))
            told = struct.unpack("i", fcntl.ioctl(handle, _BLKROGET, struct.pack("i", 0)))[0]
            if told != 1:
                raise WallError(f"{node.name} cannot be made read-only")
    finally:
        os.close(handle)


def read_only(name: str) -> bool:
    """Tell whether the kernel refuses writes to a disk."""
    return (Path("/sys/class/block") / name / "ro").read_text().strip() == "1"


def shut(folder: Path) -> None:
    """Shut a device: its mounts are detached, its drivers let go, it is unauthorised."""
    for name in disks(folder):
        detach(name)
    if EXCEPTED.exists() and EXCEPTED.read_text().split(" ", 1)[0] == folder.name:
        EXCEPTED.unlink()
    try:
        (folder / "authorized").write_text("0")
    except FileNotFoundError:  # unplugged meanwhile
        return
    if (folder / "authorized").read_text().strip() != "0":
        raise WallError(f"{folder.name} cannot be shut")


def detach(name: str) -> None:
    """Detach every mount of a disk that this namespace sees, also ones in use (MNT_DETACH)."""
    try:
        number = (Path("/sys/class/block") / name / "dev").read_text().strip()
    except OSError:
        return
    library = ctypes.CDLL(None, use_errno=True)
    for target in list(_mounts(number)):
        library.umount2(os.fsencode(target), _MNT_DETACH)


def _mounts(number: str) -> Iterator[str]:
    for line in lines_of(Path("/proc/self/mountinfo").read_text()):
        words = line.split(" ")
        if len(words) > 4 and words[2] == number:
            yield words[4].encode().decode("unicode_escape")
