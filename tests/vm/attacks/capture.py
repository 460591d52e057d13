"""Read a capture and count what a host managed to send: every byte above TCP's header counts."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Packets from one source: bare TCP segments, and everything that carried something."""

    bare: int = 0
    payload_bytes: int = 0
    other: list[str] = field(default_factory=list)


def tally(pcap: bytes, source: str) -> Tally:
    """Count the packets of ``source`` (dotted quad) in a little-endian Ethernet pcap.

    Anything that is not an IPv4 TCP segment without payload is carried information: its bytes are
    counted and it is named. ValueError when the capture is not whole.
    """
    if len(pcap) < 24 or pcap[:4] not in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
        msg = "not a little-endian pcap"
        raise ValueError(msg)
    wanted = bytes(map(int, source.split(".")))
    result, offset = Tally(), 24
    while offset + 16 <= len(pcap):
        _, _, kept, whole = struct.unpack_from("<IIII", pcap, offset)
        frame = pcap[offset + 16 : offset + 16 + kept]
        offset += 16 + kept
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
