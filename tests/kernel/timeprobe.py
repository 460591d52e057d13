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

BLOCK = 1000  # bytes; within PIPE_BUF, so that a beat is written whole
SLICE_S = 0.004  # between two turns of those that send
_IGNORE_OUTGOING, _STATISTICS, _SOL_PACKET = 23, 6, 263
_RETRANSMITTED_AT = 100  # tcpi_total_retrans in struct tcp_info


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def ended(wait_s: float) -> bool:
    """Return whether the one who started this has closed our input."""
    return bool(select.select([0], [], [], wait_s)[0]) and not os.read(0, 1)


def probe(config: dict[str, Any]) -> dict[str, Any]:
    """Send every frame in turn, ``rate`` a second; at most two seconds are caught up."""
    frames = [(kind, bytes.fromhex(one)) for kind, many in config["frames"] for one in many]
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((config["interface"], 0))
    raw.setblocking(False)
    sent = dict.fromkeys((kind for kind, _ in frames), 0)
    refused = turn = 0
    say("ready")
    started = last = time.monotonic()
    longest = owed = 0.0
    while not ended(SLICE_S):
        now = time.monotonic()
        longest = max(longest, now - last)
        owed = min(owed + (now - last) * config["rate"], 2 * config["rate"])
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
    kind, packet = frame[12:14], frame[14:]
    if kind != b"\x08\x00":
        return {b"\x08\x06": "", b"\x86\xdd": "ipv6"}.get(kind, "frame")
    source, target, port = right
    if packet[12:16] != source:
        return "forged"
    protocol = {1: "icmp", 6: "tcp", 17: "udp"}.get(packet[9], "odd")
    if protocol != "tcp":
        return protocol
    return _wrong_segment(packet, target, port)


def _wrong_segment(packet: bytes, target: bytes, port: int) -> str:
    head, total = (packet[0] & 15) * 4, struct.unpack("!H", packet[2:4])[0]
    broken = struct.unpack("!H", packet[6:8])[0] & 0x3FFF
    if broken or head != 20:
        return "odd"
    if packet[33] & 0x12 == 0x02:
        return "new"
    if total != head + (packet[32] >> 4) * 4:
        return "payload"
    ours = packet[16:20] == target and struct.unpack("!H", packet[20:22])[0] == port
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
    say("ready")
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


def newest(stream: bytes) -> tuple[float, bytes]:
    """Return the newest time in a stream of stamped blocks, and what is not whole yet."""
    whole = len(stream) // BLOCK * BLOCK
    at: float = struct.unpack_from("d", stream, whole - BLOCK)[0] if whole else 0.0
    return at, stream[whole:]


def take(config: dict[str, Any]) -> dict[str, Any]:
    """Take one delivery; tell how far it fell behind the beat, which passes no network.

    Both carry the time of sending. A machine that gives its programs no time delays both alike, so
    ``pause`` is what the way through the gateway cost; ``silence`` is the bare time between reads.
    """
    beat = os.open(config["beat"], os.O_RDONLY | os.O_NONBLOCK)
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((config["address"], config["port"]))
    server.listen(512)  # others may knock meanwhile
    result: dict[str, Any] = {"whole": False, "got": 0, "pause": -1.0, "taken": ""}
    say("ready")
    if 0 in select.select([0, server], [], [])[0]:
        return result
    made, _ = server.accept()
    digest, count, pause, silence = hashlib.sha256(), 0, 0.0, 0.0
    ours = beats = b""
    at = sent = 0.0
    last = time.monotonic()
    with made:
        while True:
            ready = select.select([0, made, beat], [], [])[0]
            if beat in ready and (beats := beats + os.read(beat, 1 << 16)):
                at, beats = max(at, newest(beats)[0]), newest(beats)[1]
            if made in ready:
                try:
                    chunk = made.recv(1 << 20)
                except OSError:
                    break
                now = time.monotonic()
                silence, last = max(silence, now - last), now
                if not chunk:
                    result["whole"] = True
                    break
                digest.update(chunk)
                count += len(chunk)
                ours += chunk
                sent, ours = max(sent, newest(ours)[0]), newest(ours)[1]
            elif 0 in ready and not os.read(0, 1):
                break
            if sent:
                pause = max(pause, at - sent)
    return result | {"got": count, "pause": pause, "silence": silence, "taken": digest.hexdigest()}


def push(config: dict[str, Any]) -> dict[str, Any]:
    """Deliver a stamped block each turn, and the same to the beat; what does not fit yet waits."""
    beat = os.open(config["beat"], os.O_WRONLY)
    made = socket.create_connection((config["address"], config["port"]), timeout=60)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setblocking(False)
    digest, count, waiting, failed = hashlib.sha256(), 0, b"", ""
    filler = os.urandom(BLOCK - 8)
    say("ready")
    try:
        while not ended(SLICE_S):
            block = struct.pack("d", time.monotonic()) + filler
            os.write(beat, block)
            digest.update(block)
            count += len(block)
            waiting += block
            with contextlib.suppress(BlockingIOError):
                waiting = waiting[made.send(waiting) :]
        made.settimeout(60)
        made.sendall(waiting)
        made.shutdown(socket.SHUT_WR)
    except OSError as bad:
        failed = str(bad)
    info = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    again = struct.unpack_from("I", info, _RETRANSMITTED_AT)[0]
    made.close()
    return {"given": digest.hexdigest(), "bytes": count, "failed": failed, "retransmitted": again}


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
    say(json.dumps(MODES[sys.argv[1]](json.loads(line))))
