"""USB devices that no emulator has, as the bytes they answer with. Standard library only.

A model is its descriptors; everything else (which endpoint belongs to which interface, what a
transport must announce) is read from them. Two transports play a model: ``usbredir.py`` for QEMU,
and the battery's usbip server inside a guest. Sources: USB 2.0 chapter 9, Mass Storage Class
bulk-only 1.0, SBC-3, CDC 1.1, and the Remote NDIS specification for the network card.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

STICK_TEXT = "this came in on a stick\n"
BLOCK = 512
#: The keyboard that the lab's site lists; a clone carries all of it but its interfaces.
VENDOR, PRODUCT = 0x0627, 0x0001
#: What a device tells without any interface: a vendor's request to endpoint 0 (USB 2.0, 9.3).
TELL = 0x51

#: A boot keyboard's report: modifiers, a reserved byte, six keys.
REPORT = bytes.fromhex(
    "05010906a101050719e029e71500250175019508810295017508810195067508150025650507190029658100c0"
)
BULK, INTERRUPT = 2, 3
MASS_STORAGE = 8


def interface(number: int, alternate: int, code: tuple[int, int, int], *parts: bytes) -> bytes:
    """Return an interface's descriptor with what belongs to it; endpoints are counted."""
    ends = sum(part[1] == 5 for part in parts)
    head = struct.pack("<BBBBBBBBB", 9, 4, number, alternate, ends, *code, 0)
    return head + b"".join(parts)


def endpoint(address: int, kind: int, size: int, interval: int = 0) -> bytes:
    """Return an endpoint's descriptor."""
    return struct.pack("<BBBBHB", 7, 5, address, kind, size, interval)


def pair(number: int) -> tuple[bytes, bytes]:
    """Return a bulk endpoint in and one out."""
    return endpoint(0x80 | number, BULK, BLOCK), endpoint(number + 1, BULK, BLOCK)


def keyboard(number: int, alternate: int = 0) -> bytes:
    """Return a boot keyboard's interface."""
    words = struct.pack("<BBHBBBH", 9, 0x21, 0x0111, 0, 1, 0x22, len(REPORT))
    return interface(number, alternate, (3, 1, 1), words, endpoint(0x83, INTERRUPT, 8, 7))


def stick(number: int, alternate: int = 0) -> bytes:
    """Return a bulk-only mass-storage interface."""
    return interface(number, alternate, (MASS_STORAGE, 6, 0x50), *pair(1))


def plain(code: tuple[int, int, int]) -> bytes:
    """Return an interface of some class with a pair of bulk endpoints that hand out a text."""
    return interface(0, 0, code, *pair(5))


def network(number: int) -> bytes:
    """Return the two interfaces of a Remote NDIS network card."""
    words = (
        bytes.fromhex("0524001001"),  # header: CDC 1.10
        bytes([5, 0x24, 1, 0, number + 1]),  # call management
        bytes([4, 0x24, 2, 0]),
        bytes([5, 0x24, 6, number, number + 1]),  # union
    )
    control = interface(number, 0, (0xE0, 1, 3), *words, endpoint(0x84, INTERRUPT, 8, 9))
    return control + interface(number + 1, 0, (0x0A, 0, 0), *pair(5))


@dataclass(frozen=True, slots=True)
class Model:
    """One device.

    Attributes:
        configurations: the interfaces and endpoints of each, without the head.
        code: class, subclass and protocol of the device itself.
        vendor: its vendor's number.
        product: its product number.
        title: what it calls itself.
        serial: its serial number when the caller names none.
        then: the model it becomes when it comes back, some seconds after it came.

    """

    configurations: tuple[bytes, ...]
    code: tuple[int, int, int] = (0, 0, 0)
    vendor: int = 0x1209
    product: int = 0x5E61
    title: str = "Sekisho lab device"
    serial: str = "LAB-DEVICE-1"
    then: Model | None = None

    def device(self) -> bytes:
        """Return the device descriptor."""
        numbers = (self.vendor, self.product, 0x0001, 1, 2, 3, len(self.configurations))
        return struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, *self.code, 64, *numbers)

    def configuration(self, index: int) -> bytes:
        """Return configuration ``index`` with its head."""
        body = self.configurations[index]
        interfaces = {part[2] for part in parts_of(body) if part[1] == 4}
        head = (9, 2, 9 + len(body), len(interfaces), index + 1, 0, 0xA0, 50)
        return struct.pack("<BBHBBBBB", *head) + body


def parts_of(body: bytes) -> list[bytes]:
    """Return the descriptors in ``body``; a length that does not fit ends it."""
    found, at = [], 0
    while at + 2 <= len(body) and 2 <= body[at] <= len(body) - at:
        found.append(body[at : at + body[at]])
        at += body[at]
    return found


def endpoints_of(body: bytes) -> dict[int, tuple[int, int, int, int, int]]:
    """Return address → kind, interval, interface, packet size, interface class."""
    found, owner, code = {}, 0, 0
    for part in parts_of(body):
        if part[1] == 4:
            owner, code = part[2], part[5]
        elif part[1] == 5:
            address, kind, size, interval = struct.unpack("<BBHB", part[2:7])
            found[address] = (kind & 3, interval, owner, size, code)
    return found


def _listed(*configurations: bytes, then: Model | None = None) -> Model:
    """Return a model that calls itself the listed keyboard."""
    return Model(
        configurations, vendor=VENDOR, product=PRODUCT, title="QEMU USB Keyboard",
        serial="SEKISHO-KBD-1", then=then,
    )  # fmt: skip


#: Name → model. What each is for: docs/lab.md.
MODELS: Mapping[str, Model] = {
    "composite": Model((keyboard(0) + stick(1),), vendor=VENDOR, product=PRODUCT, title="Both"),
    "clone": _listed(stick(0)),
    "changing": _listed(keyboard(0), then=_listed(keyboard(0) + stick(1))),
    "late-alternate": _listed(keyboard(0) + stick(0, 1)),
    "second-configuration": _listed(keyboard(0), stick(0)),
    "rndis-storage": Model((network(0) + stick(2),), title="Tethered telephone"),
    "vendor": Model((plain((0xFF, 0, 0)),), title="Own protocol"),
    "class-00": Model((plain((0, 0, 0)),), title="Class 00"),
    "class-ef": Model(
        (bytes([8, 11, 0, 1, 0xEF, 2, 1, 0]) + plain((0xEF, 2, 1)),), code=(0xEF, 2, 1),
        title="Class EF",
    ),
    "class-ff": Model((plain((0xFF, 0xFF, 0xFF)),), code=(0xFF, 0xFF, 0xFF), title="Class FF"),
    "printer": Model((interface(0, 0, (7, 1, 2), *pair(5)),), title="Printer"),
    # A length of 255 in front of the stick: who stops reading there does not see it.
    "garbled": Model((bytes([6, 0x24, 0, 0, 0, 0]) * 40 + stick(0),), title="Long words"),
}  # fmt: skip


class Disk:
    """The stick: bulk-only transport and the few SCSI commands a kernel sends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b")
        self._blocks = path.stat().st_size // BLOCK
        self._answer = b""  # data and status the host has still to fetch
        self._write: tuple[int, int] | None = None  # bytes still to come, tag
        self._sense = (0, 0)

    def out(self, data: bytes) -> None:
        """Take a bulk packet from the host: a command block, or data of a write."""
        if self._write is not None:
            left, tag = self._write
            self._file.write(data)
            left -= len(data)
            self._write = (left, tag) if left > 0 else None
            if left <= 0:
                self._file.flush()
                self._answer = struct.pack("<IIIB", 0x53425355, tag, 0, 0)
            return
        if len(data) < 31:
            return
        _signature, tag, wanted, _flags, _lun, length = struct.unpack("<IIIBBB", data[:15])
        reply = self._command(data[15 : 15 + length], tag, wanted)
        if self._write is not None:
            return
        body = (reply or b"")[:wanted]
        left = wanted - len(body)
        if not body and data[12] & 0x80:
            body = bytes(wanted)  # a refused read still gets its data phase
        status = 1 if reply is None else 0
        self._answer = body + struct.pack("<IIIB", 0x53425355, tag, left, status)

    def take(self, wanted: int) -> bytes:
        """Return what the host fetches next; the status block always travels alone."""
        rest = len(self._answer) - 13
        size = min(wanted, rest) if rest > 0 else min(wanted, 13)
        part, self._answer = self._answer[:size], self._answer[size:]
        return part

    def _command(  # noqa: PLR0911 - one answer a SCSI command
        self, block: bytes, tag: int, wanted: int
    ) -> bytes | None:
        sense, self._sense = self._sense, (0, 0)
        match block[0]:
            case 0x00 | 0x1B | 0x1E | 0x35:  # ready, start/stop, lock, synchronise
                return b""
            case 0x03:
                return bytes(
                    [0x70, 0, sense[0], 0, 0, 0, 0, 10, 0, 0, 0, 0, sense[1], 0, 0, 0, 0, 0]
                )
            case 0x12 if not block[1] & 1:
                return bytes([0, 0x80, 4, 2, 31, 0, 0, 0]) + b"SEKISHO COMPOSITE STICK 1.0 "
            case 0x1A:
                return bytes([3, 0, 0, 0])
            case 0x25:
                return struct.pack(">II", self._blocks - 1, BLOCK)
            case 0x28:
                first, count = struct.unpack(">IxH", block[2:9])
                self._file.seek(first * BLOCK)
                return self._file.read(count * BLOCK)
            case 0x2A:
                (first,) = struct.unpack(">I", block[2:6])
                self._file.seek(first * BLOCK)
                self._write = (wanted, tag)
                return None
        self._sense = (5, 0x20)
        return None


class Player:
    """A device that is plugged in: its state, and its answers to a host."""

    def __init__(self, model: Model, disk: Path, serial: str = "") -> None:
        self.model = model
        self.configured = 0
        self.read_at = 0.0  # when a kernel (no firmware) first read its serial number; 0.0: not yet
        self._serial = serial
        self._path = disk
        self._disk: Disk | None = None
        self._card: list[bytes] = []  # what the network card has still to answer

    def turn(self, model: Model) -> None:
        """Become another device."""
        self.model, self.configured = model, 0

    def endpoints(self) -> dict[int, tuple[int, int, int, int, int]]:
        """Return the endpoints of the configuration in use (the first before any)."""
        return endpoints_of(self.model.configurations[max(self.configured, 1) - 1])

    def bulk(self, address: int, data: bytes, wanted: int) -> bytes:
        """Take or give bulk data."""
        code = self.endpoints().get(address, (0, 0, 0, 0, 0))[4]
        if code == MASS_STORAGE:
            self._disk = self._disk or Disk(self._path)
            if address & 0x80:
                return self._disk.take(wanted)
            self._disk.out(data)
            return b""
        return STICK_TEXT.encode()[:wanted] if address & 0x80 else b""

    def control(self, kind: int, request: int, value: int, index: int, data: bytes) -> bytes | None:
        """Return the answer to a request on endpoint 0; None is a stall."""
        if (kind, request) == (0x00, 9):
            self.configured = value & 0xFF
            return b""
        if (kind, request) == (0x80, 8):
            return bytes([self.configured])
        if request == 6 and kind & 0x80:
            return self._descriptor(value)
        if kind & 0x7F == 0x21 and self._is_card(index):
            return self._encapsulated(request, data)
        return _request(kind, request)

    def _descriptor(self, value: int) -> bytes | None:
        kind, number = value >> 8, value & 0xFF
        model = self.model
        texts = {1: "Sekisho", 2: model.title, 3: self._serial or model.serial}
        if kind == 3 and number in texts:
            if number == 3:
                self.read_at = self.read_at or time.monotonic()
            text = texts[number].encode("utf-16-le")
            return bytes([len(text) + 2, 3]) + text
        if kind == 2 and number < len(model.configurations):
            return model.configuration(number)
        fixed: dict[tuple[int, int], Callable[[], bytes]] = {
            (1, 0): model.device,
            (3, 0): lambda: bytes([4, 3, 9, 4]),
            (6, 0): lambda: struct.pack(
                "<BBHBBBBBB", 10, 6, 0x0200, *model.code, 64, len(model.configurations), 0
            ),
            (0x22, 0): lambda: REPORT,
        }
        make = fixed.get((kind, number))
        return make() if make else None

    def _is_card(self, index: int) -> bool:
        body = self.model.configurations[max(self.configured, 1) - 1]
        return any(p[1] == 4 and p[2] == index & 0xFF and p[5] == 0xE0 for p in parts_of(body))

    def _encapsulated(self, request: int, data: bytes) -> bytes | None:
        """Answer Remote NDIS: initialise, query, set; every query but the address gets a zero."""
        if request == 1:
            return self._card.pop(0) if self._card else b"\0"
        if len(data) < 12:
            return None
        kind, _length, number = struct.unpack("<III", data[:12])
        if kind == 2:
            words = (0x80000002, 52, number, 0, 1, 0, 1, 0, 1, 1600, 0, 0, 0)
            self._card.append(struct.pack("<13I", *words))
        elif kind == 4:
            (oid,) = struct.unpack("<I", data[12:16])
            value = bytes.fromhex("025e61500001") if oid >> 8 == 0x010101 else bytes(4)
            head = (0x80000004, 24 + len(value), number, 0, len(value), 16)
            self._card.append(struct.pack("<6I", *head) + value)
        elif kind in {5, 8}:
            self._card.append(struct.pack("<4I", 0x80000000 | kind, 16, number, 0))
        return b""


def _request(kind: int, request: int) -> bytes | None:
    match kind, request:
        case (0xC0, 0x51):
            return STICK_TEXT.encode()
        case (0xA1, 0xFE):  # how many units: one
            return b"\0"
        case (0xA1, 0x01):  # the keyboard's report: nothing pressed
            return bytes(8)
        case ((0x80 | 0x81 | 0x82), 0x00):
            return b"\0\0"
        case (0x21, _) | (0x00 | 0x01 | 0x02, 1 | 3):
            return b""
    return None
