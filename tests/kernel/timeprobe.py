"""What runs while rules are put to the test of time: prober, capture, and both ends of a delivery.

Each is a process of its own in its namespace, so that none waits for another's interpreter: one
line of JSON in, ``ready`` out, on until its input ends, then one line of JSON with what was seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

SLICE_S = 0.004
_IGNORE_OUTGOING, _STATISTICS, _SOL_PACKET = 23, 6, 263
_RETRANSMITTED_AT = 100  # tcpi_total_retrans in struct tcp_info


def ended(wait_s: float) -> bool:
    """Return whether the one who started this has closed our input."""
    return bool(select.select([0], [], [], wait_s)[0]) and not os.read(0, 1)


def probe(config: dict[str, Any]) -> dict[str, Any]:
    """Send every frame in turn, ``rate`` a second; what fell behind is caught up, if not too far."""
    frames = [(kind, bytes.fromhex(one)) for kind, many in config["frames"] for one in many]
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((config["interface"], 0))
    raw.setblocking(False)
    sent = dict.fromkeys((kind for kind, _ in frames), 0)
    refused = turn = 0
    print("ready", flush=True)
    started = last = time.monotonic()
    longest = owed = 0.0
    while not ended(SLICE_S):
        now = time.monotonic()
        longest = max(longest, now - last)
        owed = min(owed + (now - last) * config["rate"], config["rate"])
        last = now
        while owed >= 1:
            owed -= 1
            kind, frame = frames[turn % len(frames)]
            turn += 1
            try:
                raw.send(frame)
                sent[kind] += 1
            except OSError:  # the link is down: it did not get onto the wire
                refused += 1
    return {
        "sent": sum(sent.values()),
        "kinds": sent,
        "refused": refused,
        "seconds": time.monotonic() - started,
        "longest_silence": longest,
    }


def wrong(frame: bytes, right: tuple[bytes, bytes, int]) -> str:
    """Return what is wrong with a frame that arrived, by kind; empty for one that may.

    Only ARP and the hop's bare replies may: every other thing is wrong, ours or not.
    """
    kind = frame[12:14]
    if kind == b"\x08\x06":
        return ""
    if kind != b"\x08\x00":
        return "ipv6" if kind == b"\x86\xdd" else "frame"
    packet = frame[14:]
    source, target, port = right
    head, total = (packet[0] & 15) * 4, struct.unpack("!H", packet[2:4])[0]
    broken = struct.unpack("!H", packet[6:8])[0] & 0x3FFF
    if packet[12:16] != source:
        return "forged"
    if packet[9] in (1, 17):
        return "icmp" if packet[9] == 1 else "udp"
    if packet[9] != 6 or broken or head != 20:
        return "odd"
    tcp = packet[head:]
    payload = total - head - (tcp[12] >> 4) * 4
    if tcp[13] & 0x12 == 0x02:
        return "new"
    if payload:
        return "payload"
    ours = packet[16:20] == target and struct.unpack("!H", tcp[:2])[0] == port
    return "" if ours else "odd"


def watch(config: dict[str, Any]) -> dict[str, Any]:
    """Take in every frame on every interface and judge it."""
    right = (
        socket.inet_aton(config["source"]),
        socket.inet_aton(config["target"]),
        config["port"],
    )
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    tap.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    for option in (socket.SO_RCVBUF, 33):  # SO_RCVBUFFORCE, where it is allowed
        with contextlib.suppress(OSError):
            tap.setsockopt(socket.SOL_SOCKET, option, 32 << 20)
    tap.setblocking(False)
    found: dict[str, int] = {}
    samples: list[str] = []
    times: list[float] = []
    good = 0
    print("ready", flush=True)
    over = False
    while not over:
        ready = select.select([0, tap], [], [])[0]
        over = 0 in ready and not os.read(0, 1)
        while True:  # what is waiting, also after the end was told
            try:
                frame, place = tap.recvfrom(70000)
            except BlockingIOError:
                break
            if place[0] == "lo" or place[2] == socket.PACKET_OUTGOING:
                continue
            kind = wrong(frame, right)
            if not kind:
                good += 1
                continue
            found[kind] = found.get(kind, 0) + 1
            times.append(time.monotonic())
            if len(samples) < 4:
                samples.append(f"{place[0]} {frame[:80].hex()}")
    _, lost = struct.unpack("II", tap.getsockopt(_SOL_PACKET, _STATISTICS, 8))
    return {
        "wrong": found,
        "right": good,
        "lost": lost,
        "samples": samples,
        "from_first_to_last_s": times[-1] - times[0] if times else 0.0,
    }


def take(config: dict[str, Any]) -> dict[str, Any]:
    """Take one delivery and the longest time in which nothing of it arrived."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((config["address"], config["port"]))
    server.listen(8)
    digest, count, pause = hashlib.sha256(), 0, 0.0
    result: dict[str, Any] = {"whole": False, "bytes": 0, "pause": -1.0, "digest": ""}
    print("ready", flush=True)
    if 0 in select.select([0, server], [], [])[0]:
        return result
    made, _ = server.accept()
    last = 0.0
    with made:
        while True:
            if 0 in select.select([0, made], [], [])[0] and not os.read(0, 1):
                break
            try:
                chunk = made.recv(1 << 16)
            except OSError:
                break
            now = time.monotonic()
            pause = max(pause, now - last) if last else 0.0
            last = now
            if not chunk:
                result["whole"] = True
                break
            digest.update(chunk)
            count += len(chunk)
    return result | {"bytes": count, "pause": pause, "digest": digest.hexdigest()}


def push(config: dict[str, Any]) -> dict[str, Any]:
    """Deliver small blocks one after another, without a pause of our own making."""
    made = socket.create_connection((config["address"], config["port"]), timeout=60)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    digest, count, idle = hashlib.sha256(), 0, 0.0
    block = os.urandom(1000)
    failed = ""
    print("ready", flush=True)
    last = time.monotonic()
    try:
        while not ended(SLICE_S):
            now = time.monotonic()
            idle, last = max(idle, now - last), now
            made.sendall(block)
            last = time.monotonic()  # a send that waits is the flow's pause, not the machine's
            digest.update(block)
            count += len(block)
        made.shutdown(socket.SHUT_WR)
    except OSError as bad:
        failed = str(bad)
    info = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    again = struct.unpack_from("I", info, _RETRANSMITTED_AT)[0]
    made.close()
    return {"digest": digest.hexdigest(), "bytes": count, "idle": idle, "failed": failed,
            "retransmitted": again}  # fmt: skip


MODES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "probe": probe,
    "watch": watch,
    "take": take,
    "push": push,
}

if __name__ == "__main__":
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: nothing may wait in a buffer of Python's
        line += os.read(0, 1)
    print(json.dumps(MODES[sys.argv[1]](json.loads(line))), flush=True)
