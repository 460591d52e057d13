"""What the hostile programs put on a wire: packets by hand, counted by the way they go.

Standard library only: this folder is copied to a seized machine as it is.
"""

import contextlib
import errno
import random
import socket
import struct
import subprocess
import time
from collections import Counter

EVERYBODY = b"\xff" * 6


class MissingError(Exception):
    """The kernel does not have what this way needs."""


class Way:
    """One way out: its mark, and what it handed to the kernel."""

    def __init__(self, number, token):
        self.mark = token + bytes([number])
        self.number, self.packets, self.bytes, self.errors = number, 0, 0, Counter()

    def fill(self, size):
        return (self.mark * (size // len(self.mark) + 1))[:size]

    def hand(self, send, data, *rest):
        try:
            self.bytes += send(data, *rest)
            self.packets += 1
        except OSError as bad:
            self.errors[errno.errorcode.get(bad.errno, type(bad).__name__)] += 1
            if bad.errno == errno.ENOBUFS:
                time.sleep(0.002)


class Cable:
    """A packet socket on one interface: below the kernel's own filter, routes and addresses."""

    def __init__(self, interface):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind((interface, 0))
        self.mac = self.socket.getsockname()[4]
        self.interface = interface

    def frame(self, way, dst, kind, body, src=None):
        way.hand(self.socket.send, dst + (src or self.mac) + struct.pack("!H", kind) + body)


def neighbour(address):
    """Return the MAC address behind ``address``, asked by the kernel; everybody's if unknown."""
    for _ in range(10):
        with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as asking:
            asking.sendto(b"", (address, 9))
        with open("/proc/net/arp", encoding="ascii") as table:
            for row in list(table)[1:]:
                words = row.split()
                if words[0] == address and words[3] != "00:00:00:00:00:00":
                    return bytes.fromhex(words[3].replace(":", ""))
        time.sleep(0.1)
    return EVERYBODY


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def summed(protocol, data, src, dst):
    """Return TCP, UDP, ICMP or ICMPv6 with its checksum, which a connection tracker looks at."""
    place = {6: 16, 17: 6, 1: 2, 58: 2}.get(protocol)
    if place is None:
        return data
    pseudo = b"" if protocol == 1 else src + dst + struct.pack("!II", len(data), protocol)
    return data[:place] + struct.pack("!H", checksum(pseudo + data)) + data[place + 2 :]


def ip4(protocol, body, src, dst, *, options=b"", offset=0, ttl=64, ident=None):
    src, dst = socket.inet_aton(src), socket.inet_aton(dst)
    if offset & 0x3FFF == 0:
        body = summed(protocol, body, src, dst)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body),
        random.getrandbits(16) if ident is None else ident, offset, ttl, protocol, 0, src, dst,
    ) + options  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def stencil(body, src, dst, place):
    """Return what makes the same TCP packet with another port at ``place``.

    The sum is mended, not made again: an emulated machine has a thousand ports a second for that.
    """
    whole = ip4(6, body[:place] + b"\0\0" + body[place + 2 :], src, dst)
    front, middle, back = whole[: 20 + place], whole[22 + place : 36], whole[38:]
    base = ~struct.unpack_from("!H", whole, 36)[0] & 0xFFFF

    def made(port):
        total = base + port
        total = (total & 0xFFFF) + (total >> 16)
        return b"%b%b%b%b%b" % (
            front, port.to_bytes(2, "big"), middle, (~total & 0xFFFF).to_bytes(2, "big"), back
        )  # fmt: skip

    return made


def ip6(protocol, body, src, dst):
    src, dst = socket.inet_pton(socket.AF_INET6, src), socket.inet_pton(socket.AF_INET6, dst)
    body = summed(protocol, body, src, dst)
    return struct.pack("!IHBB", 0x60000000, len(body), protocol, 64) + src + dst + body


def udp(body, dport, sport=7601):
    return struct.pack("!HHHH", sport, dport, 8 + len(body), 0) + body


def tcp(body, dport, sport=7601, *, flags=0x18, seq=1, ack=0):
    return struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 65535, 0, 0) + body


def icmp(kind, code, body):
    return struct.pack("!BBHI", kind, code, 0, random.getrandbits(32)) + body


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise MissingError(" ".join((done.stderr.strip() or "ip failed").split())[:120])
