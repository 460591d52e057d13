"""Serve one USB device of ``models.py`` to QEMU over the usbredir protocol.

Run as ``usbredir.py MODEL SOCKET DISK SERIAL``: listens on the UNIX socket, plays the device for
the one QEMU that connects, and ends when QEMU pulls it out. An empty serial is the model's own.
The protocol: usbredir-protocol.txt 0.7 of the usbredir project.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from labkit.models import MODELS, Player, parts_of

HELLO, CONNECT, DISCONNECT, INTERFACES, ENDPOINTS = 0, 1, 2, 4, 5
SET_CONFIGURATION, GET_CONFIGURATION, CONFIGURATION_STATUS = 6, 7, 8
SET_ALT, GET_ALT, ALT_STATUS = 9, 10, 11
START_INTERRUPT, STOP_INTERRUPT, INTERRUPT_STATUS = 15, 16, 17
CONTROL, BULK = 100, 101
STALL = 4
# Device version, packet sizes, 64-bit ids, 32-bit bulk lengths; QEMU's xHCI takes no less.
CAPABILITIES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6
#: So long after its configuration was read a model that changes goes, to come back as another.
TURN_S = 5.0


class Device:
    """The device as QEMU sees it."""

    def __init__(self, stream: socket.socket, player: Player) -> None:
        self._stream = stream
        self._player = player

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
        version = b"sekisho lab device".ljust(64, b"\0")
        self._send(HELLO, 0, version + struct.pack("<I", CAPABILITIES))
        _kind, length, _number = struct.unpack("<III", self._receive(12))
        self._receive(length)
        self._introduce()
        player = self._player
        while True:
            becomes = player.model.then
            left = None if becomes is None else 0.2
            waits = not select.select([self._stream], [], [], left)[0]
            if waits and becomes is not None:
                if not player.read_at or time.monotonic() < player.read_at + TURN_S:
                    continue
                self._send(DISCONNECT, 0, b"")
                time.sleep(0.5)
                player.turn(becomes)
                self._introduce()
                continue
            kind, length, number = struct.unpack("<IIQ", self._receive(16))
            self._handle(kind, number, self._receive(length))

    def _introduce(self) -> None:
        model = self._player.model
        body = model.configurations[max(self._player.configured, 1) - 1]
        heads = [p for p in parts_of(body) if p[1] == 4 and p[3] == 0]
        fields = (bytes(p[at] for p in heads).ljust(32, b"\0") for at in (2, 5, 6, 7))
        self._send(INTERFACES, 0, struct.pack("<I", len(heads)) + b"".join(fields))
        self._tell_endpoints()
        numbers = (*model.code, model.vendor, model.product, 1)
        self._send(CONNECT, 0, struct.pack("<BBBBHHH", 2, *numbers))

    def _tell_endpoints(self) -> None:
        kinds, intervals, owners = bytearray(b"\xff" * 32), bytearray(32), bytearray(32)
        sizes = [0] * 32
        found = self._player.endpoints() | {0: (0, 0, 0, 64, 0), 0x80: (0, 0, 0, 64, 0)}
        for address, (kind, interval, owner, size, _code) in found.items():
            index = (address & 0x80) >> 3 | address & 0x0F
            kinds[index], intervals[index] = kind, interval
            owners[index], sizes[index] = owner, size
        self._send(ENDPOINTS, 0, bytes(kinds + intervals + owners) + struct.pack("<32H", *sizes))

    def _handle(self, kind: int, number: int, body: bytes) -> None:
        if kind == SET_CONFIGURATION:
            self._player.configured = body[0]
            if 0 < body[0] <= len(self._player.model.configurations):
                self._tell_endpoints()
        if kind in {SET_CONFIGURATION, GET_CONFIGURATION}:
            self._send(CONFIGURATION_STATUS, number, bytes([0, self._player.configured]))
        elif kind in {SET_ALT, GET_ALT}:
            self._send(ALT_STATUS, number, bytes([0, body[0], *(body[1:2] or b"\0")]))
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
        reply = self._player.control(kind, request, value, index, body[10:])
        status = STALL if reply is None else 0
        data = (reply or b"")[:length] if endpoint & 0x80 else b""
        count = len(data) if endpoint & 0x80 else length
        head = struct.pack("<BBBBHHH", endpoint, request, kind, status, value, index, count)
        self._send(CONTROL, number, head + data)

    def _bulk(self, number: int, body: bytes) -> None:
        endpoint, _status, low, stream, high = struct.unpack("<BBHIH", body[:10])
        length = low | high << 16
        data = self._player.bulk(endpoint, body[10:], length)
        if endpoint & 0x80:
            length = len(data)
        head = struct.pack("<BBHIH", endpoint, 0, length & 0xFFFF, stream, length >> 16)
        self._send(BULK, number, head + data)


def main() -> None:
    """Serve one QEMU."""
    name, path, disk, serial = sys.argv[1:5]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        stream, _ = listener.accept()
    with stream:
        try:
            Device(stream, Player(MODELS[name], Path(disk), serial)).serve()
        except (ConnectionResetError, BrokenPipeError):
            return


if __name__ == "__main__":
    main()
