"""Runs as root on a seized receiving server: answers with data, then tries every way out.

Standard library only; argv: own address, peer address, peer IPv6 address, seconds.
"""

import os
import socket
import sys
import threading
import time

own, peer, peer6, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
end = time.monotonic() + seconds
counts = {"accepted": 0, "replies_written": 0, "bytes_written": 0, "tries": 0, "reached": 0}


def answer(connection: socket.socket) -> None:
    connection.settimeout(1)
    for size in (1, 6, 40, 100, 1448, 65536, 1 << 20):
        try:
            counts["bytes_written"] += connection.send(b"S" * size)
            counts["replies_written"] += 1
        except OSError:
            break
    try:  # urgent data, then hold the connection open for retransmissions
        connection.send(b"!", socket.MSG_OOB)
        time.sleep(3)
    except OSError:
        pass


def serve() -> None:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((own, 7601))
    server.listen(64)
    server.settimeout(1)
    while time.monotonic() < end:
        try:
            connection, _ = server.accept()
        except OSError:
            continue
        counts["accepted"] += 1
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def attempt(what: str) -> None:
    counts["tries"] += 1
    try:
        if what == "tcp":
            for port in (22, 80, 443, 7601):
                socket.create_connection((peer, port), timeout=1)
                counts["reached"] += 1
        elif what == "udp":
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"SECRET" * 20, (peer, 514))
        elif what == "dns":
            query = (
                b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06secret\x00\x00\x10\x00\x01"
            )
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(query, (peer, 53))
        elif what == "icmp":
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            raw.sendto(
                b"\x08\x00" + os.urandom(2) + b"\x00\x01\x00\x01" + b"SECRET" * 50, (peer, 0)
            )
        elif what == "icmp-error":
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            raw.sendto(b"\x03\x01" + os.urandom(2) + b"\0\0\0\0" + b"SECRET" * 10, (peer, 0))
        elif what == "ipv6":
            socket.create_connection((peer6, 7601), timeout=1)
            counts["reached"] += 1
        elif what == "raw-tcp":  # a data segment out of the blue, from the flow's own port
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
            header = b"\x1d\xb1\x9c\x40" + b"\0" * 8 + b"\x50\x18\xff\xff\0\0\0\0"
            raw.sendto(header + b"SECRET", (peer, 0))
        elif what == "gre":
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
            raw.sendto(b"\0\0\x08\0" + b"SECRET" * 10, (peer, 0))
    except OSError:
        pass


threading.Thread(target=serve, daemon=True).start()
while time.monotonic() < end:
    for what in ("tcp", "udp", "dns", "icmp", "icmp-error", "ipv6", "raw-tcp", "gre"):
        attempt(what)
    time.sleep(0.2)
sys.stdout.write(f"{counts}\n")
