"""The one-way hop in a real kernel: deliveries come through, nothing a receiver writes does."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from transfer_nets import LEFT, PORT, RIGHT, Nets, nets

pytestmark = pytest.mark.kernel
AGENT = Path(__file__).resolve().parents[2] / "agent"

# Counts the payload bytes that arrive from the right: of TCP, UDP, ICMP and everything of IPv6.
CAPTURE = """
import json, signal, socket, struct, sys
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind(("cable", 0))
seen = {"payload": 0, "packets": 0, "fin": 0, "rst": 0, "ipv6": 0}
def finish(*_):
    print(json.dumps(seen), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, finish)
print("ready", flush=True)
while True:
    frame, place = tap.recvfrom(65600)
    if place[2] == socket.PACKET_OUTGOING:
        continue
    kind = struct.unpack("!H", frame[12:14])[0]
    if kind == 0x86DD:
        seen["ipv6"] += 1
    if kind != 0x0800:
        continue
    packet = frame[14:]
    header, total = (packet[0] & 15) * 4, struct.unpack("!H", packet[2:4])[0]
    seen["packets"] += 1
    if packet[9] == 6:
        tcp = packet[header:]
        seen["payload"] += total - header - (tcp[12] >> 4) * 4
        seen["fin"] += tcp[13] & 1
        seen["rst"] += (tcp[13] >> 2) & 1
    else:
        seen["payload"] += total - header
"""

# Accepts on the hop's port and writes back, small and large; then tries every other way out.
HOSTILE = """
import os, socket, sys, time
left, right, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((right, port)); listener.listen(5)
print("ready", flush=True)
def attempt(work):
    try:
        work()
    except OSError:
        pass
for size in (1, 2, 6, 39, 40, 41, 100, 1460, 9000, 1 << 20):
    link, _ = listener.accept()
    link.settimeout(0.2)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    attempt(lambda: link.recv(10))
    attempt(lambda: link.sendall(b"S" * size))
    attempt(lambda: link.send(b"U", socket.MSG_OOB))
    time.sleep(0.05)
    link.close()
def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for target in (53, 7601, 9):
            out.sendto(b"S" * 100, (left, target))
def icmp():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as out:
        out.sendto(b"\\x08\\0\\xf7\\xff\\0\\0\\0\\0" + b"S" * 56, (left, 0))
def tcp():
    with socket.socket() as out:
        out.settimeout(0.5)
        out.connect((left, 7601))
def from_port():
    with socket.socket() as out:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        out.setsockopt(socket.SOL_SOCKET, 15, 1)
        out.bind((right, port)); out.settimeout(0.5)
        out.connect((left, 7602))
        out.sendall(b"S" * 1000)
def raw():
    import struct
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        for doff, length, options, fragment in (
            (5, 80, b"", 0), (6, 80, b"", 0), (15, 80, b"", 0), (5, 41, b"", 0),
            (5, 40, b"SSSS", 0), (5, 40, b"", 0x2000), (5, 40, b"", 0x0001),
        ):
            words = 5 + len(options) // 4
            body = b"S" * (length + len(options) - words * 4 - 20)
            head = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, length + len(options), 1, fragment,
                64, 6, 0, socket.inet_aton(right), socket.inet_aton(left)) + options
            segment = struct.pack("!HHIIBBHHH", port, 5000, 1, 1, doff << 4, 0x18, 100, 0, 0)
            out.sendto(head + segment + body, (left, 0))
def raw6():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
        out.sendto(b"S" * 100, ("ff02::1%cable", 5353))
for work in (udp, icmp, tcp, from_port, raw, raw6):
    attempt(work)
print("done", flush=True)
"""


@contextlib.contextmanager
def program(both: Nets, side: str, code: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = both.start(side, [sys.executable, "-c", code, *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def capture(both: Nets) -> Iterator[dict[str, int]]:
    seen: dict[str, int] = {}
    with program(both, "left", CAPTURE) as process:
        yield seen
        time.sleep(1)  # what is on its way is heard
        process.terminate()
        assert process.stdout is not None
        seen |= json.loads(process.stdout.readline())


def sekisho(*words: str) -> list[str]:
    return [sys.executable, "-m", "sekisho.cli.main", *words]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(AGENT)}


@contextlib.contextmanager
def receiver(both: Nets, store: Path, name: str) -> Iterator[None]:
    words = sekisho("receive", "--listen", RIGHT, "--port", str(PORT), "--store", str(store))
    words += ["--peer", f"left={LEFT}", "--name", name, "--no-journal"]
    process = both.start("right", words, stderr=subprocess.PIPE, env=ENVIRONMENT)
    try:
        assert process.stderr is not None
        assert b"listening" in process.stderr.readline()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def send(both: Nets, root: Path, state: Path) -> int:
    words = sekisho("send", str(root), "--to", "right", "--address", RIGHT, "--from", "left")
    words += ["--state", str(state), "--tries", "1", "--json"]
    process = both.start("left", words, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    return process.wait(timeout=120)


def source(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    (root / "甲/乙").mkdir(parents=True)
    (root / "甲/乙/data.bin").write_bytes(os.urandom(50_000_000))
    for number in range(20):
        (root / f"{number}.txt").write_bytes(b"x" * number)
    return root


def test_a_directory_goes_through_completely_and_no_payload_comes_back(tmp_path: Path) -> None:
    root = source(tmp_path)
    with nets() as both, capture(both) as seen, receiver(both, tmp_path / "store", "right"):
        assert send(both, root, tmp_path / "state") == 0
    done = list((tmp_path / "store/complete").iterdir())
    assert len(done) == 1
    for path in root.rglob("*"):
        if path.is_file():
            assert (done[0] / path.relative_to(root)).read_bytes() == path.read_bytes()
    assert seen["payload"] == 0
    assert seen["packets"] > 20
    assert seen["fin"] >= 20  # a manifest and 20 parts, each ended in an orderly way
    assert seen["rst"] == 0


def test_a_refusal_comes_back_as_a_reset_without_payload(tmp_path: Path) -> None:
    root = source(tmp_path)
    with nets() as both, capture(both) as seen, receiver(both, tmp_path / "store", "other"):
        assert send(both, root, tmp_path / "state") == 1
    assert (seen["payload"], seen["fin"]) == (0, 0)
    assert seen["rst"] >= 1


def attack(both: Nets) -> None:
    """Let the hostile receiver do its worst, with ten connections to answer on."""
    with program(both, "right", HOSTILE, LEFT, RIGHT, str(PORT)) as hostile:
        knock = "import socket,sys,time\nfor _ in range(10):\n"
        knock += (
            " s=socket.create_connection((sys.argv[1],int(sys.argv[2])),5); s.sendall(b'hello')\n"
        )
        knock += " s.settimeout(0.3)\n try:\n  s.recv(100)\n except OSError: pass\n s.close()\n"
        both.run("left", [sys.executable, "-c", knock, RIGHT, str(PORT)])
        assert hostile.stdout is not None
        assert hostile.stdout.readline() == b"done\n"


def test_nothing_a_hostile_receiver_writes_gets_through() -> None:
    with nets() as both:
        with capture(both) as seen:
            attack(both)
        assert seen["payload"] == 0
        assert seen["ipv6"] == 0
        told = both.run("right", ["nft", "-j", "list", "table", "inet", "tally"])
    counters = [one["counter"] for one in json.loads(told)["nftables"] if "counter" in one]
    assert [one["packets"] > 60 for one in counters] == [True]  # it did try


def test_without_the_wall_the_same_attack_is_seen() -> None:
    """The positive control: the capture can see what the wall stops."""
    with nets(wall="") as both, capture(both) as seen:
        attack(both)
    assert seen["payload"] > 50_000
    assert seen["ipv6"] > 0
