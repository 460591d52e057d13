"""Hot-plug of USB devices: a stick, a UAS disk, a keyboard, and a composite of keyboard and stick.

QEMU emulates the first three. No emulated device is composite, so the fourth is our own: a small
server speaking the usbredir protocol plays a device whose one configuration holds a keyboard
interface and a mass-storage interface, as a BadUSB does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from labkit.base import STATE, VAGRANT, LabError, run
from labkit.holder import inside, virsh

KINDS = ("storage", "uas", "keyboard", "composite")
STICK_LABEL = "STICK"
STICK_TEXT = "this came in on a stick\n"
MEDIA = STATE / "media"


def hmp(machine: str, command: str) -> str:
    """Run one command in a machine's QEMU monitor; what it says is an error unless asked for."""
    return virsh("qemu-monitor-command", "--hmp", machine, command).strip()


def _must(machine: str, command: str) -> None:
    said = hmp(machine, command)
    if said and said != "OK":
        raise LabError(f"{machine}: {command}: {said}")


def medium(machine: str, name: str) -> Path:
    """Make the disk of a stick: 16 MiB, ext2, one file ``HELLO.TXT`` with a known text."""
    MEDIA.mkdir(parents=True, exist_ok=True)
    content = MEDIA / "content"
    content.mkdir(exist_ok=True)
    (content / "HELLO.TXT").write_text(STICK_TEXT)
    path = MEDIA / f"{machine}-{name}.img"
    path.unlink(missing_ok=True)
    run(["mke2fs", "-q", "-t", "ext2", "-L", STICK_LABEL, "-d", content, path, "16M"])
    return path


def plugged(machine: str) -> list[str]:
    """Return the ids of what the lab has plugged into ``machine``."""
    found = []
    for line in hmp(machine, "info usb").splitlines():
        _device, _comma, name = line.partition("ID: ")
        if name.strip().startswith("lab-"):
            found.append(name.strip())
    return found


def plug(machine: str, kind: str, *, serial: str = "", port: str = "") -> str:
    """Plug a device in and return its id.

    Args:
        machine: the machine's name.
        kind: one of ``KINDS``.
        serial: the device's serial number; QEMU's own when empty.
        port: the root port, "1" to "8"; the first free one when empty.

    """
    if kind not in KINDS:
        raise LabError(f"no such USB device {kind!r}; there are: {' '.join(KINDS)}")
    count = len(plugged(machine)) + 1
    name = f"lab-{kind}-{port or count}"
    if name in plugged(machine):
        raise LabError(f"{machine}: {name} is plugged in already")
    options = f"id={name}" + (f",serial={serial}" if serial and kind != "composite" else "")
    options += f",port={port}" if port else ""
    drive = f"drive-{name}-{int(time.time() * 1000)}"
    if kind in {"storage", "uas"}:
        path = medium(machine, name)
        _must(machine, f"drive_add 0 if=none,id={drive},file={path},format=raw")
    if kind == "storage":
        _must(machine, f"device_add usb-storage,drive={drive},{options}")
    elif kind == "uas":
        _must(machine, f"device_add usb-uas,{options}")
        _must(machine, f"device_add scsi-hd,id={name}-disk,bus={name}.0,drive={drive}")
        # QEMU lets a hot-plugged UAS host wait for its disks before it shows on the bus.
        _must(machine, f"qom-set /machine/peripheral/{name} attached true")
    elif kind == "keyboard":
        _must(machine, f"device_add usb-kbd,{options}")
    else:
        _composite(machine, name, serial or "LAB-COMPOSITE-1", f",port={port}" if port else "")
    return name


def _composite(machine: str, name: str, serial: str, port: str) -> None:
    socket = MEDIA / f"{machine}-{name}.sock"
    path = medium(machine, name)
    socket.unlink(missing_ok=True)
    player = VAGRANT / "labkit" / "usbredir.py"
    words = [sys.executable, str(player), str(socket), str(path), serial]
    log = (MEDIA / f"{machine}-{name}.log").open("wb")
    subprocess.Popen(
        inside(words, orphan=True), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
    )
    deadline = time.monotonic() + 10
    while not socket.exists():
        if time.monotonic() > deadline:
            raise LabError(f"{machine}: the composite device did not start; see {MEDIA}")
        time.sleep(0.05)
    _must(machine, f"chardev-add socket,id=chr-{name},path={socket},server=off")
    _must(machine, f"device_add usb-redir,chardev=chr-{name},id={name}{port}")


def unplug(machine: str, name: str) -> None:
    """Pull a device out."""
    if name not in plugged(machine):
        raise LabError(f"{machine}: {name} is not plugged in: {' '.join(plugged(machine))}")
    _must(machine, f"device_del {name}")
    deadline = time.monotonic() + 10
    while name in plugged(machine):
        if time.monotonic() > deadline:
            raise LabError(f"{machine}: {name} did not go away within 10 s")
        time.sleep(0.1)
    if name.startswith("lab-composite"):
        time.sleep(0.3)
        hmp(machine, f"chardev-remove chr-{name}")
    for path in MEDIA.glob(f"{machine}-{name}.*"):
        path.unlink(missing_ok=True)


def unplug_all(machine: str) -> None:
    """Pull out whatever the lab plugged into ``machine``."""
    for name in plugged(machine):
        unplug(machine, name)
