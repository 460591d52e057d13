"""Whole disks as sysfs shows them now. Reads; never writes."""

from __future__ import annotations

import re
from pathlib import Path

from sekisho.devices.disks import Seen

_ATA = re.compile(r"/(ata[0-9]+)/host[0-9]+/", re.ASCII)
MAX_ATTRIBUTE = 4096


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_ATTRIBUTE)
    except OSError:  # not there, gone meanwhile, or the disk gives none
        return b""


def _text(folder: Path, *names: str) -> str:
    for name in names:
        found = _read(folder / name).decode("utf-8", "backslashreplace").strip("\0 \n\t")
        if found:
            return found
    return ""


def disk_of(folder: Path, sys: Path = Path("/sys")) -> Seen:
    """Return the disk in ``folder`` as the site's list is compared with it; "" where unknown."""
    place = str(folder)
    ata = _ATA.search(place)
    port = _text(sys / "class/ata_port" / ata[1], "port_no") if ata else _text(folder, "nsid")
    serial = _text(folder, "serial", "device/serial")
    if not serial:  # SCSI and ATA: vital product data, four bytes of heading before the number
        page = _read(folder / "device/vpd_pg80")[4:]
        serial = page.decode("ascii", "backslashreplace").strip("\0 \n")
    return Seen(folder.name, place, port, serial, _text(folder, "wwid", "device/wwid"))


def disks_present(sys: Path = Path("/sys")) -> list[Seen]:
    """Return every whole disk on hardware; what the kernel makes of disks or memory is none."""
    try:
        folders = sorted(link.resolve() for link in (sys / "block").iterdir())
    except FileNotFoundError:
        return []
    return [disk_of(one, sys) for one in folders if "/virtual/" not in str(one)]
