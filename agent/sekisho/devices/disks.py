"""Whose disk is it: a block device, the site's list of the machine's own disks, a decision. Pure.

A disk is the machine's own only by a rule that names both where it hangs (the PCI function, and
the ATA port or NVMe namespace there) and what it is (serial number, WWN, or both). Everything is
read from sysfs, so that the wall in the initrd, the probe and the agent compare the same words.
Sources: systemd's ``path_id`` (by-path names), Documentation/ABI/testing/sysfs-block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.devices.pci import PLACE

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
#: As in /dev/disk/by-path: the PCI function, then what hangs below it.
PATH = re.compile(
    rf"pci-({PLACE.pattern})"
    r"(?:-ata-([1-9][0-9]{0,2})(?:\.[0-9]{1,2})?|-nvme-([1-9][0-9]{0,4})|-(?:scsi|sas)-[0-9a-zx:-]{1,64})?",
    re.ASCII,
)
#: No blank, quote or pattern: the wall's list is read by a shell.
SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,63}", re.ASCII)
WWN = re.compile(r"(naa|eui|nvme|uuid)\.[0-9a-f][0-9a-f-]{7,159}", re.ASCII)
MODES = ("read-write", "read-only")
LIST = "/etc/sekisho/disks"
MAX_DISKS = 64
_KEYS = ("name", "path")
_OPTIONAL = ("serial", "wwn", "mode")
_PCI = re.compile(rf"/({PLACE.pattern})(?=/)", re.ASCII)
_HEAD = """\
# Compiled from the site's policy: the machine's own disks, and no other block device. Read by
# /usr/lib/sekisho/disk-wall in the initrd and at boot. PCI function, port, serial, WWN, mode, name.
"""


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk of the machine's own, as the site names it.

    Attributes:
        name: the site's name of it.
        path: its by-path name.
        serial: its serial number, or "" where the WWN alone is listed.
        wwn: its world-wide name as sysfs writes it (``naa.…``, ``eui.…``), or "".
        mode: one of `MODES`.

    """

    name: str
    path: str
    serial: str = ""
    wwn: str = ""
    mode: str = MODES[0]

    @property
    def pci(self) -> str:
        """The PCI function it hangs on."""
        found = PATH.fullmatch(self.path)
        return found[1] if found else ""

    @property
    def port(self) -> str:
        """The ATA port or NVMe namespace, or ""."""
        found = PATH.fullmatch(self.path)
        return (found[2] or found[3] or "") if found else ""

    def as_json(self) -> dict[str, str]:
        """Return the disk as the host's policy writes it."""
        return {
            "name": self.name,
            "path": self.path,
            **({"serial": self.serial} if self.serial else {}),
            **({"wwn": self.wwn} if self.wwn else {}),
            "mode": self.mode,
        }


@dataclass(frozen=True, slots=True)
class Seen:
    """One whole disk as the kernel has it; "" where it says nothing.

    Attributes:
        name: the kernel's name, ``vda``.
        place: its place in sysfs, with every PCI function above it.
        port: ATA port or NVMe namespace.
        serial: serial number, blanks at the ends gone.
        wwn: world-wide name.

    """

    name: str
    place: str
    port: str = ""
    serial: str = ""
    wwn: str = ""

    @property
    def pci(self) -> str:
        """The nearest PCI function above it, or ""."""
        found = _PCI.findall(self.place)
        return found[-1] if found else ""

    def as_json(self) -> dict[str, str]:
        """Return what is known of it, safe to print."""
        told = {"name": self.name, "path": f"pci-{self.pci}" if self.pci else self.place}
        told |= {"serial": self.serial, "wwn": self.wwn}
        return {key: printable(value, 160) for key, value in told.items() if value}


@dataclass(frozen=True, slots=True)
class Named:
    """Which entry names a disk (None: none does), why, and the reason as one word.

    ``code`` is listed, or path, serial, wwn, unknown, not-listed.
    """

    disk: Disk | None
    reason: str
    code: str


def judge_disk(seen: Seen, disks: Iterable[Disk]) -> Named:
    """Return which of the site's disks this is. Total; a disk that says nothing is none."""
    worst = Named(None, "no disk of the list hangs there", "not-listed")
    for disk in disks:
        if disk.pci != seen.pci:
            if (disk.serial and disk.serial == seen.serial) or (disk.wwn and disk.wwn == seen.wwn):
                worst = Named(None, f"it is {disk.name}, and hangs elsewhere than listed", "path")
            continue
        if disk.port and disk.port != seen.port:
            continue
        for code, listed, found in (
            ("serial", disk.serial, seen.serial),
            ("wwn", disk.wwn, seen.wwn),
        ):
            if listed and not found:
                worst = Named(
                    None, f"it says no {code}, and {disk.name} is listed by it", "unknown"
                )
                break
            if listed and listed != found:
                worst = Named(None, f"another {code} than {disk.name} has", code)
                break
        else:
            if disk.serial or disk.wwn:
                return Named(disk, f"listed as {disk.name}", "listed")
    return worst


def parse_disks(value: Any) -> tuple[Disk, ...]:
    """Return the disks of a policy's ``disks``.

    Raises:
        SekishoError: not a list of whole, well-formed entries, or a name or place told twice.

    """
    if not isinstance(value, list) or not 0 < len(value) <= MAX_DISKS:
        raise _refuse("", value, f"a list of 1 to {MAX_DISKS} disks")
    found: list[Disk] = []
    for index, entry in enumerate(value):
        disk = _disk(f"[{index}]", entry)
        if any(other.name == disk.name or other.path == disk.path for other in found):
            raise _refuse(f"[{index}]", f"{disk.name} at {disk.path} again", "a name, a place once")
        found.append(disk)
    return tuple(found)


def _refuse(key: str, got: object, expected: str) -> SekishoError:
    problem = Problem("disks", key, printable(got, 80), expected, "6-iii-c")
    return SekishoError("the list of the machine's own disks was not read", (problem,))


def _disk(key: str, entry: Any) -> Disk:
    if not isinstance(entry, dict) or not set(_KEYS) <= set(entry) <= {*_KEYS, *_OPTIONAL}:
        raise _refuse(key, entry, f"a mapping with {', '.join((*_KEYS, *_OPTIONAL))}")
    for name, pattern in (("name", NAME), ("path", PATH), ("serial", SERIAL), ("wwn", WWN)):
        text = entry.get(name)
        if name in entry and not (isinstance(text, str) and pattern.fullmatch(text)):
            raise _refuse(f"{key}.{name}", text, pattern.pattern)
    if "serial" not in entry and "wwn" not in entry:
        raise _refuse(f"{key}.serial", "nothing", "a serial number or a WWN")
    if entry.get("mode", MODES[0]) not in MODES:
        raise _refuse(f"{key}.mode", entry["mode"], " or ".join(MODES))
    return Disk(**entry)


def render(disks: Any) -> str:
    """Return the wall's list (`LIST`) of a policy's ``disks``; `SekishoError` for a garbled one.

    No word is quoted because none that needs it is accepted: see `SERIAL` and `WWN`.
    """
    lines = [
        " ".join((one.pci, one.port or "-", one.serial or "-", one.wwn or "-", one.mode, one.name))
        for one in parse_disks(disks)
    ]
    return _HEAD + "".join(f"{line}\n" for line in lines)


def fits_list(text: str, disks: Sequence[Any]) -> bool:
    """Tell whether a file holds exactly the list that `render` writes for ``disks``."""
    try:
        return text == render(list(disks))
    except SekishoError:
        return False
