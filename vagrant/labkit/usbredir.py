"""A composite USB device, keyboard and stick in one, served to QEMU over the usbredir protocol.

Run as ``usbredir.py SOCKET DISK SERIAL``: listens on the UNIX socket, plays the device for the one
QEMU that connects, and ends when QEMU pulls it out. It carries the vendor, product and serial of
the keyboard a site may list, so that only its interfaces tell it from that one. The protocol:
usbredir-protocol.txt 0.7 of the usbredir project; the disk: USB mass storage, bulk-only, SCSI.
"""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

HELLO, CONNECT, INTERFACES, ENDPOINTS = 0, 1, 4, 5
SET_CONFIGURATION, GET_CONFIGURATION, CONFIGURATION_STATUS = 6, 7, 8
SET_ALT, GET_ALT, ALT_STATUS = 9, 10, 11
START_INTERRUPT, STOP_INTERRUPT, INTERRUPT_STATUS = 15, 16, 17
CONTROL, BULK = 100, 101
STALL = 4
# Device version, packet sizes, 64-bit ids, 32-bit bulk lengths; QEMU's xHCI takes no less.
CAPABILITIES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6
VENDOR, PRODUCT = 0x0627, 0x0001
BULK_IN, BULK_OUT, INTERRUPT_IN = 0x81, 0x02, 0x83
BLOCK = 512

# A boot keyboard's report: modifiers, a reserved byte, six keys.
REPORT = bytes.fromhex(
    "05010906a101050719e029e71500250175019508810295017508810195067508150025650507190029658100c0"
)
DEVICE = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0, 0, 0, 64, VENDOR, PRODUCT, 1, 1, 2, 3, 1)
_KEYBOARD = (
    struct.pack("<BBBBBBBBB", 9, 4, 0, 0, 1, 3, 1, 1, 0)
    + struct.pack("<BBHBBBH", 9, 0x21, 0x0111, 0, 1, 0x22, len(REPORT))
    + struct.pack("<BBBBHB", 7, 5, INTERRUPT_IN, 3, 8, 7)
)
_STICK = (
    struct.pack("<BBBBBBBBB", 9, 4, 1, 0, 2, 8, 6, 0x50, 0)
    + struct.pack("<BBBBHB", 7, 5, BULK_IN, 2, 512, 0)
    + struct.pack("<BBBBHB", 7, 5, BULK_OUT, 2, 512, 0)
)
_BODY = _KEYBOARD + _STICK
CONFIGURATION = struct.pack("<BBHBBBBB", 9, 2, 9 + len(_BODY), 2, 1, 0, 0xA0, 50) + _BODY


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


class Device:
    """The device as QEMU sees it."""

    def __init__(self, stream: socket.socket, disk: Disk, serial: str) -> None:
        self._stream = stream
        self._disk = disk
        self._texts = {1: "Sekisho", 2: "Composite keyboard", 3: serial}
        self._configuration = 0

    def _send(self, kind: int, number: int, body: bytes) -> None:
        shape = "<III" if kind == HELLO else "<IIQ"  # long ids from the greeting on
        self._stream.sendall(struct.pack(shape, kind, len(body), number) + body)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._stream.recv(size - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        return data

    def serve(self) -> None:
        """Introduce the device and answer until QEMU hangs up."""
        version = b"sekisho lab composite".ljust(64, b"\0")
        self._send(HELLO, 0, version + struct.pack("<I", CAPABILITIES))
        _kind, length, _number = struct.unpack("<III", self._receive(12))
        self._receive(length)
        self._introduce()
        while True:
            kind, length, number = struct.unpack("<IIQ", self._receive(16))
            self._handle(kind, number, self._receive(length))

    def _introduce(self) -> None:
        pad = bytes(30)
        interfaces = b"\0\1" + pad, b"\3\10" + pad, b"\1\6" + pad, b"\1\x50" + pad
        self._send(INTERFACES, 0, struct.pack("<I", 2) + b"".join(interfaces))
        kinds, intervals, owners, sizes = (
            bytearray(b"\xff" * 32),
            bytearray(32),
            bytearray(32),
            [0] * 32,
        )
        places = ((0x00, 0, 0, 0, 64), (0x80, 0, 0, 0, 64), (INTERRUPT_IN, 3, 7, 0, 8))
        for endpoint, kind, interval, owner, size in (
            *places,
            (BULK_IN, 2, 0, 1, 512),
            (BULK_OUT, 2, 0, 1, 512),
        ):
            index = (endpoint & 0x80) >> 3 | endpoint & 0x0F
            kinds[index], intervals[index], owners[index], sizes[index] = (
                kind,
                interval,
                owner,
                size,
            )
        self._send(ENDPOINTS, 0, bytes(kinds + intervals + owners) + struct.pack("<32H", *sizes))
        self._send(CONNECT, 0, struct.pack("<BBBBHHH", 2, 0, 0, 0, VENDOR, PRODUCT, 1))

    def _handle(self, kind: int, number: int, body: bytes) -> None:
        if kind == SET_CONFIGURATION:
            self._configuration = body[0]
        if kind in {SET_CONFIGURATION, GET_CONFIGURATION}:
            self._send(CONFIGURATION_STATUS, number, bytes([0, self._configuration]))
        elif kind in {SET_ALT, GET_ALT}:
            self._send(ALT_STATUS, number, bytes([0, body[0], 0]))
        elif kind in {START_INTERRUPT, STOP_INTERRUPT}:
            self._send(INTERRUPT_STATUS, number, bytes([0, body[0]]))
        elif kind == CONTROL:
            self._control(number, body)
        elif kind == BULK:
            self._bulk(number, body)

    def _control(self, number: int, body: bytes) -> None:
        endpoint, request, kind, _status, value, index, length = struct.unpack(
            "<BBBBHHH", body[:10]
        )
        reply = self._descriptor(value) if request == 6 else self._request(request, kind)
        status = STALL if reply is None else 0
        data = (reply or b"")[:length] if endpoint & 0x80 else b""
        count = len(data) if endpoint & 0x80 else length
        head = struct.pack("<BBBBHHH", endpoint, request, kind, status, value, index, count)
        self._send(CONTROL, number, head + data)

    def _descriptor(self, value: int) -> bytes | None:
        kind, number = value >> 8, value & 0xFF
        if kind == 3 and number in self._texts:
            text = self._texts[number].encode("utf-16-le")
            return bytes([len(text) + 2, 3]) + text
        fixed = {
            (1, 0): DEVICE,
            (2, 0): CONFIGURATION,
            (3, 0): bytes([4, 3, 9, 4]),
            (6, 0): struct.pack("<BBHBBBBBB", 10, 6, 0x0200, 0, 0, 0, 64, 1, 0),
            (0x22, 0): REPORT,
        }
        return fixed.get((kind, number))

    @staticmethod
    def _request(request: int, kind: int) -> bytes | None:
        match kind, request:
            case 0xA1, 0xFE:  # how many units: one
                return b"\0"
            case 0xA1, 0x01:  # the keyboard's report: nothing pressed
                return bytes(8)
            case ((0x80 | 0x81 | 0x82), 0x00):
                return b"\0\0"
            case (0x21, _) | (0x00 | 0x01 | 0x02, 1 | 3):
                return b""
        return None

    def _bulk(self, number: int, body: bytes) -> None:
        endpoint, _status, low, stream, high = struct.unpack("<BBHIH", body[:10])
        length = low | high << 16
        data = b""
        if endpoint == BULK_OUT:
            self._disk.out(body[10:])
        else:
            data = self._disk.take(length)
            length = len(data)
        head = struct.pack("<BBHIH", endpoint, 0, length & 0xFFFF, stream, length >> 16)
        self._send(BULK, number, head + data)


def main() -> None:
    """Serve one QEMU."""
    path, disk, serial = sys.argv[1:4]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        stream, _ = listener.accept()
    with stream:
        try:
            Device(stream, Disk(Path(disk)), serial).serve()
        except ConnectionResetError:
            return


if __name__ == "__main__":
    main()
