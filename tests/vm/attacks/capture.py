"""Read a capture and count what a host managed to send: every byte above TCP's header counts."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Packets from one source: bare TCP segments, and everything that carried something."""

    bare: int = 0
    payload_bytes: int = 0
    other: list[str] = field(default_factory=list)


def frames(pcap: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield each frame of a little-endian Ethernet pcap and its length on the wire.

    ValueError when it is not one.
    """
    if len(pcap) < 24 or pcap[:4] not in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
        msg = "not a little-endian pcap"
        raise ValueError(msg)
    offset = 24
    while offset + 16 <= len(pcap):
        _, _, kept, whole = struct.unpack_from("<IIII", pcap, offset)
        yield pcap[offset + 16 : offset + 16 + kept], whole
        offset += 16 + kept


def tally(pcap: bytes, source: str) -> Tally:
    """Count the packets of ``source`` (dotted quad).

    Anything that is not an IPv4 TCP segment without payload is carried information: its bytes are
    counted and it is named.
    """
    wanted = bytes(map(int, source.split(".")))
    result = Tally()
    for frame, whole in frames(pcap):
        if frame[12:14] != b"\x08\x00" or frame[26:30] != wanted:
            continue
        header = (frame[14] & 15) * 4
        length = struct.unpack_from(">H", frame, 16)[0]
        if frame[23] == 6 and header == 20 and struct.unpack_from(">H", frame, 20)[0] & 0x3FFF == 0:
            carried = length - header - (frame[14 + header + 12] >> 4) * 4
            if carried == 0:
                result.bare += 1
                continue
            result.payload_bytes += carried
            result.other.append(f"TCP with {carried} bytes")
        else:
            result.payload_bytes += whole - 14 - header
            result.other.append(f"protocol {frame[23]}, {whole} bytes")
    return result


@dataclass(slots=True)
class Wire:
    """The hospital's wire: everything that is not its own frame, by what it is."""

    own: int = 0
    bare: int = 0
    arp: int = 0
    payload_bytes: int = 0
    marked: int = 0
    strange: list[str] = field(default_factory=list)
    others: set[str] = field(default_factory=set)


def judge(pcap: bytes, *, token: bytes, hospital: str, gateway: str, inbound: str) -> Wire:
    """Account for every frame of the hospital's wire; the machines are told by MAC, ``inbound`` by IP.

    The gateway may send ARP padded with zeros and ``inbound``'s bare segments, nothing else: who it
    says it is does not matter. ``marked`` are frames that hold the token or one half of it, as it
    is, in hexadecimal or in base64, whoever sent them.
    """
    own, gate, source = _mac(hospital), _mac(gateway), bytes(map(int, inbound.split(".")))
    signs = _signs(token)
    wire = Wire()
    for frame, whole in frames(pcap):
        lowered = frame.lower()
        wire.marked += any(sign in frame or sign in lowered for sign in signs)
        sender = frame[6:12]
        if sender == own:
            wire.own += 1
        elif sender != gate:
            wire.others.add(sender.hex(":"))
        elif frame[12:14] == b"\x08\x06" and not any(frame[42:]) and whole <= 60:
            wire.arp += 1
        elif (carried := _carried(frame, whole, source)) == 0:
            wire.bare += 1
        else:
            wire.payload_bytes += carried
            wire.strange.append(f"{frame[12:14].hex()} {frame[14:38].hex()} {carried} bytes")
    return wire


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _signs(token: bytes) -> list[bytes]:
    """Return what to look for: base64 of three offsets, without the ends that neighbours change."""
    half = len(token) // 2
    signs = [token[:half], token[half:], token.hex()[: half * 2].encode()]
    signs.append(token.hex()[half * 2 :].encode())
    signs += [base64.b64encode(b"\0" * skip + token)[4:-4] for skip in range(3)]
    return signs


def _carried(frame: bytes, whole: int, source: bytes) -> int:
    """Return how many bytes a frame carries beyond a bare segment of ``source``."""
    bare = len(frame) >= 54 and frame[12:15] == b"\x08\x00\x45"
    if not bare or frame[23] != 6 or frame[26:30] != source:
        return whole - 14
    length, fragment = struct.unpack_from(">H2xH", frame, 16)
    headers = 20 + (frame[46] >> 4) * 4
    if fragment & 0x3FFF or length != headers or any(frame[14 + length :]):
        return whole - 14 - headers
    return max(0, whole - max(14 + length, 60))
