"""Runs as root on a seized exit gateway: tries to get an answer out of machines behind the sender.

Standard library and packets.py beside it only; argv: own address, seconds of listening, then
ADDRESS=PORTS (a range or a list) for each machine. Every port is asked by a SYN, the well-known ones
again from the flow's own port, by UDP and by segments of no connection; then connections are opened
and read. Prints JSON: by address the ports that answered and the bytes that came.
"""

import contextlib
import json
import select
import socket
import struct
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from packets import icmp, ip4, stencil, tcp, udp

KNOWN = (22, 53, 80, 123, 443, 7601, 7609, 9090, 9100, 9723)
SYN = 0x02


class Ears:
    """What came from the asked machines, on whatever interface: open ports, refusals, payload."""

    def __init__(self, targets):
        self.by_address = {socket.inet_aton(one): one for one in targets}
        self.seen = {
            one: {"open": set(), "refused": 0, "other": 0, "payload": 0} for one in targets
        }
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)

    def drain(self, wait):
        while select.select([self.socket], [], [], wait)[0]:
            packet, place = self.socket.recvfrom(65600)
            name = self.by_address.get(packet[12:16])
            if name is None or place[2] == socket.PACKET_OUTGOING or place[0] == "lo":
                continue
            seen, head = self.seen[name], (packet[0] & 15) * 4
            total = struct.unpack_from("!H", packet, 2)[0]
            if packet[9] != 6 or len(packet) < head + 20:
                seen["other"] += 1
                seen["payload"] += total - head
                continue
            seen["payload"] += total - head - (packet[head + 12] >> 4) * 4
            flags = packet[head + 13]
            if flags & 0x12 == 0x12:
                seen["open"].add(struct.unpack_from("!H", packet, head)[0])
            seen["refused"] += bool(flags & 0x04)


def scan(raw, ears, own, target, ports):
    """Send a SYN to every port; return how many were sent."""
    made, asked = stencil(tcp(b"", 0, 40123, flags=SYN), own, target, 2), 0
    for index, port in enumerate(ports):
        asked += bool(_sent(raw, made(port), target))
        if index % 128 == 127:
            ears.drain(0)
    return asked


def odd(raw, own, target):
    """Ask the well-known ports in ways that no connection begins with."""
    for port in KNOWN:
        for sport in (7601, 53, 22):
            for flags in (SYN, 0x12, 0x10, 0x18, 0x01, 0x00):
                _sent(raw, ip4(6, tcp(b"", port, sport, flags=flags), own, target), target)
            _sent(raw, ip4(17, udp(b"give", port, sport), own, target), target)
    for kind in (8, 13, 15, 17):
        _sent(raw, ip4(1, icmp(kind, 0, b"give" * 8), own, target), target)
    for protocol in (4, 47, 50, 132, 253):
        _sent(raw, ip4(protocol, b"give" * 8, own, target), target)


def read(place):
    """Open a connection as a program would, ask, and return how many bytes came."""
    got = 0
    with contextlib.suppress(OSError), socket.create_connection(place, timeout=3) as link:
        link.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while piece := link.recv(65536):
            got += len(piece)
    return got


def _sent(raw, packet, target):
    try:
        return raw.sendto(packet, (target, 0))
    except OSError:
        return 0


def _ports(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last) + 1) if last else [int(one) for one in text.split(",")]


def main():
    own, seconds = sys.argv[1], float(sys.argv[2])
    targets = dict(entry.split("=") for entry in sys.argv[3:])
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ears, asked, got = Ears(targets), {}, defaultdict(int)
    for target, ports in targets.items():
        asked[target] = scan(raw, ears, own, target, _ports(ports))
        odd(raw, own, target)
        ears.drain(0)
    with ThreadPoolExecutor(64) as pool:
        places = [(target, port) for target in targets for port in KNOWN]
        for place, count in zip(places, pool.map(read, places), strict=True):
            got[place[0]] += count
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        ears.drain(0.2)
    json.dump(
        {
            target: {
                **seen,
                "open": sorted(seen["open"]),
                "asked": asked[target],
                "read": got[target],
            }
            for target, seen in ears.seen.items()
        },
        sys.stdout,
    )
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
