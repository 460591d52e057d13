"""What may be attached to a machine, its own disks, and how its owner gets in. Pure."""

from __future__ import annotations

import re

from sekisho.core.names import NAME
from sekisho.core.yaml_nodes import Node, Reader
from sekisho.devices.boot_line import MAX_WORDS, WORD, risky_words
from sekisho.devices.disks import MODES as DISK_MODES
from sekisho.devices.disks import PATH, WWN
from sekisho.devices.disks import SERIAL as DISK_SERIAL
from sekisho.devices.pci import FUNCTION, MAX_FUNCTIONS, twice
from sekisho.devices.policy import MAX_COUNT, SERIAL_HASH
from sekisho.site.fields import day
from sekisho.site.model import Console, ConsoleProof, Device, Disk

MODES = ("enforce", "dry-run")
_DEVICE = {
    "name": True,
    "vendor": True,
    "product": True,
    "serial": False,  # one of these two
    "serial_hash": False,
    "port": True,
    "interfaces": True,
    "count": False,
}
_CONSOLE = {"kind": True, "reference": True, "tested": True}
_DISK = {"name": True, "path": True, "serial": False, "wwn": False, "mode": False}
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:+-]{0,62}")
_HEX4 = re.compile(r"[0-9a-f]{4}")
_PORT = re.compile(r"[1-9][0-9]?(\.[1-9][0-9]?){0,5}")
_CLASS = re.compile(r"[0-9a-f]{2}:[0-9a-f]{2}:[0-9a-f]{2}")
_REFERENCE = re.compile(
    r"(?!\s)[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]{3,200}"
)


def console(read: Reader, node: Node | None) -> tuple[Console, ConsoleProof | None]:
    """Return the way in: a kind alone, or ``{kind, reference, tested}`` with somebody's word."""
    if node is None or node.pairs is None:
        return Console(read.one_of(node, "console", tuple(Console))), None
    body = read.mapping(node, "console", _CONSOLE) or {}
    kind = Console(read.one_of(body.get("kind"), "console.kind", tuple(Console)))
    expected = "where it is written down: 3 to 200 characters"
    reference = read.text(body.get("reference"), "console.reference", _REFERENCE, expected)
    tested = day(read, body.get("tested"), "console.tested")
    return kind, ConsoleProof(reference, tested, read.at(node.line))


def mode(read: Reader, node: Node | None) -> str:
    """Return whether what is not listed is refused, or only told of."""
    return "enforce" if node is None else read.one_of(node, "devices_mode", MODES)


def attached_devices(read: Reader, node: Node | None) -> tuple[Device, ...]:
    """Return the list of USB devices admitted."""
    return tuple(
        _device(read, entry, f"devices[{index}]")
        for index, entry in enumerate(read.entries(node, "devices", least=0))
    )


def _device(read: Reader, entry: Node, key: str) -> Device:
    body = read.mapping(entry, key, _DEVICE) or {}
    if body and ("serial" in body) == ("serial_hash" in body):
        read.wrong(
            entry.line,
            f"{key}.serial",
            "nothing" if "serial" not in body else "it and serial_hash",
            "a serial number, or instead of it a serial_hash",
        )
    hex4 = "four lower-case hex digits"
    return Device(
        name=read.text(body.get("name"), f"{key}.name", NAME, "a name"),
        vendor=read.text(body.get("vendor"), f"{key}.vendor", _HEX4, hex4),
        product=read.text(body.get("product"), f"{key}.product", _HEX4, hex4),
        serial=read.text(
            body.get("serial"), f"{key}.serial", _SERIAL, "the device's serial number"
        ),
        port=read.text(body.get("port"), f"{key}.port", _PORT, "a USB port path such as 1 or 1.4"),
        interfaces=tuple(
            read.text(one, f"{key}.interfaces", _CLASS, "class:subclass:protocol")
            for one in read.entries(body.get("interfaces"), f"{key}.interfaces", least=1)
        ),
        at=read.at(entry.line),
        serial_hash=read.text(
            body.get("serial_hash"),
            f"{key}.serial_hash",
            SERIAL_HASH,
            "hmac-sha256:KEY:HASH as `sekisho devices propose` writes it",
        ),
        count=read.number(body.get("count"), f"{key}.count", 1, MAX_COUNT),
    )


def functions(read: Reader, node: Node | None) -> tuple[str, ...]:
    """Return the PCI functions the machine is made of, sorted; none where the site does not say."""
    if node is None:
        return ()
    entries = read.entries(node, "pci", least=1)
    if len(entries) > MAX_FUNCTIONS:
        read.wrong(node.line, "pci", f"{len(entries)} entries", f"at most {MAX_FUNCTIONS}")
    expected = "a place and numbers such as 0000:00:1f.2 8086:a102 (`sekisho devices pci`)"
    found = [read.text(one, "pci", FUNCTION, expected) for one in entries[:MAX_FUNCTIONS]]
    if place := twice(filter(None, found)):
        read.wrong(node.line, "pci", f"{place} again", "each place once")
    return tuple(sorted(filter(None, found)))


def boot_words(read: Reader, node: Node | None) -> tuple[str, ...]:
    """Return the machine's own words on the kernel's command line, sorted; usually none."""
    if node is None:
        return ()
    entries = read.entries(node, "boot", least=0)
    if len(entries) > MAX_WORDS:
        read.wrong(node.line, "boot", f"{len(entries)} words", f"at most {MAX_WORDS}")
    expected = "one word of the kernel's command line, such as console=ttyS0,115200n8"
    found = []
    for entry in entries[:MAX_WORDS]:
        word = read.text(entry, "boot", WORD, expected)
        if risky_words(word):
            read.wrong(
                entry.line,
                "boot",
                word,
                "a word that opens no shell and switches no protection off",
                "6-iv-c",
            )
        found.append(word)
    return tuple(sorted({word for word in found if word}))


def disks(read: Reader, node: Node | None) -> tuple[Disk, ...]:
    """Return the machine's own disks, at least one; every problem is kept by ``read``."""
    found = []
    for index, entry in enumerate(read.entries(node, "disks", least=1)):
        key = f"disks[{index}]"
        body = read.mapping(entry, key, _DISK) or {}
        if body and "serial" not in body and "wwn" not in body:
            read.wrong(
                entry.line,
                f"{key}.serial",
                "nothing",
                "a serial number or a wwn: a place alone is anybody's",
                "6-iii-c",
                "cat /sys/block/DISK/serial /sys/block/DISK/wwid /sys/block/DISK/device/wwid",
            )
        found.append(
            Disk(
                name=read.text(body.get("name"), f"{key}.name", NAME, "a name"),
                path=read.text(
                    body.get("path"),
                    f"{key}.path",
                    PATH,
                    "its name in /dev/disk/by-path that begins with pci-",
                ),
                serial=read.text(
                    body.get("serial"), f"{key}.serial", DISK_SERIAL, "the disk's serial number"
                ),
                wwn=read.text(
                    body.get("wwn"), f"{key}.wwn", WWN, "naa.…, eui.… as /sys/block writes it"
                ),
                mode=read.one_of(body.get("mode"), f"{key}.mode", DISK_MODES),
                at=read.at(entry.line),
            )
        )
    return tuple(found)
