"""A site of network namespaces with the compiled rules loaded; started by the tests, in private.

Runs as its own process under ``unshare --user --map-root-user --net --mount --pid --fork``: when it
ends, namespaces, links and rules are gone. Prints one JSON object: what was seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT.parent / "agent")]

import siteworld  # noqa: E402
from sekisho.host.guard.guard import Done, Guard  # noqa: E402
from sekisho.host.guard.request import Wanted  # noqa: E402

T = TypeVar("T")
_LIBC = ctypes.CDLL(None, use_errno=True)
CONTROLLER, STRANGER = "10.77.0.1", "10.77.0.99"
PORT = 7601


def sh(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, input=stdin, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv}: {done.stderr}")
    return done.stdout


def inside(name: str, call: Callable[[], T]) -> T:
    """Return ``call()`` made in namespace ``name``; sockets stay there for ever."""
    box: list[Any] = []

    def work() -> None:
        try:
            with open(f"/run/netns/{name}", "rb") as handle:
                code = _LIBC.setns(handle.fileno(), 0x40000000)
            assert code == 0, "setns"
            box.append((True, call()))
        except BaseException as bad:  # noqa: BLE001 - handed to the caller
            box.append((False, bad))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    good, value = box[0]
    if not good:
        raise value
    return value


def tcp(name: str, timeout: float = 2.0) -> socket.socket:
    made = inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(timeout)
    return made


def listen(name: str, address: str, port: int) -> socket.socket:
    made = tcp(name, 10)
    made.bind((address, port))
    made.listen(8)
    return made


def reaches(name: str, address: str, port: int, source: str = "", timeout: float = 0.35) -> bool:
    """Return whether a TCP connection opens (a refusal reaches, too: the host answered)."""
    with tcp(name, timeout) as made:
        if source:
            made.bind((source, 0))
        try:
            made.connect((address, port))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return True


class Capture:
    """Counts what arrives in a namespace from one address: packets and TCP/UDP payload bytes."""

    def __init__(self, name: str, sender: str, settle: float = 0.4) -> None:
        self.settle = settle  # seconds to wait for what is still on its way
        self.sender = socket.inet_aton(sender)
        self.packets = self.payload = self.other = self.ipv6 = 0
        self.sock = inside(
            name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        )
        self.sock.settimeout(0.05)
        self.going = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while self.going:
            try:
                frame, place = self.sock.recvfrom(70000)
            except TimeoutError:
                continue
            if place[2] == 4:
                continue
            kind = frame[12:14]
            if kind == b"\x86\xdd":
                self.ipv6 += 1
            if kind == b"\x08\x00" and frame[26:30] == self.sender:
                self._packet(frame[14:])

    def _packet(self, packet: bytes) -> None:
        self.packets += 1
        head = (packet[0] & 15) * 4
        total = struct.unpack("!H", packet[2:4])[0]
        fragment = struct.unpack("!H", packet[6:8])[0] & 0x1FFF
        if packet[9] == 6 and fragment == 0:
            self.payload += total - head - (packet[head + 12] >> 4) * 4
        else:
            self.other += total - head

    def stop(self) -> dict[str, int]:
        time.sleep(self.settle)
        self.going = False
        self.thread.join()
        self.sock.close()
        return {
            "packets": self.packets,
            "payload": self.payload,
            "other": self.other,
            "ipv6": self.ipv6,
        }


class World:
    """Machines of the lab's policy as namespaces, joined by their links, rules loaded."""

    def __init__(
        self, machines: tuple[str, ...], edits: Mapping[str, tuple[str, str] | str] | None = None
    ) -> None:
        sh("mount", "-t", "tmpfs", "none", "/run")
        self.policies = {name: siteworld.policy(name, edits) for name in machines}
        self.ends: dict[str, list[tuple[str, str, str]]] = {}
        for name, policy in self.policies.items():
            self.host(name)
            for interface, entry in policy["interfaces"].items():
                self.ends.setdefault(entry["link"], []).append((name, interface, entry["address"]))
        for name, link, address, gateway in (
            ("hospital-a", "wan-in", "10.77.1.2/29", "10.77.1.1"),
            ("university-b", "wan-out", "10.77.6.2/29", "10.77.6.1"),
        ):
            if link in self.ends:
                self.host(name)
                self.ends[link].append((name, "wan0", address))
                self.later = getattr(self, "later", [])
                self.later.append((name, gateway))
        self.host("controller")
        sh("ip", "-n", "controller", "link", "add", "br0", "type", "bridge")
        for address in (CONTROLLER, STRANGER):
            sh("ip", "-n", "controller", "addr", "add", f"{address}/24", "dev", "br0")
        sh("ip", "-n", "controller", "link", "set", "br0", "up")
        for link, ends in self.ends.items():
            self.join(link, ends)
        for name, gateway in getattr(self, "later", []):
            sh("ip", "-n", name, "route", "add", "default", "via", gateway)
        for name, policy in self.policies.items():
            # One via nobody leads into a tunnel, which is not there yet.
            for route in filter(lambda one: one["via"], policy["routes"]):
                sh("ip", "-n", name, "route", "add", route["to"], "via", route["via"])
            forward = "1" if policy["role"] == "gateway" else "0"
            self.sysctl(name, "net.ipv4.ip_forward", forward)
            self.load(name)

    def host(self, name: str) -> None:
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "set", "lo", "up")

    def sysctl(self, name: str, key: str, value: str) -> None:
        path = "/proc/sys/" + key.replace(".", "/")
        inside(name, lambda: Path(path).write_text(value))

    def join(self, link: str, ends: list[tuple[str, str, str]]) -> None:
        if link == "management":
            for index, (name, interface, address) in enumerate(ends):
                sh("ip", "-n", "controller", "link", "add", f"m{index}", "type", "veth",
                   "peer", "name", interface, "netns", name)  # fmt: skip
                sh("ip", "-n", "controller", "link", "set", f"m{index}", "master", "br0", "up")
                self.up(name, interface, address)
            return
        if len(ends) != 2:
            return
        (one, first, here), (two, second, there) = ends
        sh("ip", "-n", one, "link", "add", first, "type", "veth", "peer", "name", second,
           "netns", two)  # fmt: skip
        self.up(one, first, here)
        self.up(two, second, there)

    def up(self, name: str, interface: str, address: str) -> None:
        sh("ip", "-n", name, "addr", "add", address, "dev", interface)
        sh("ip", "-n", name, "link", "set", interface, "up")

    def nft(self, name: str, *words: str, stdin: str | None = None) -> str:
        return sh("ip", "netns", "exec", name, "nft", *words, stdin=stdin)

    def load(self, name: str) -> None:
        self.nft(name, "-j", "-f", "-", stdin=json.dumps(self.policies[name]["nftables"]))

    def flush(self, name: str) -> None:
        self.nft(name, "flush", "ruleset")

    def counters(self, name: str) -> dict[str, int]:
        listed = json.loads(self.nft(name, "-j", "list", "counters"))
        return {
            entry["counter"]["name"]: entry["counter"]["packets"]
            for entry in listed["nftables"]
            if "counter" in entry
        }


def push(sender: str, receiver: str, target: str, size: int) -> dict[str, Any]:
    """Push ``size`` bytes over a hop; the receiver tries to answer at the end."""
    block = os.urandom(1 << 16)
    sent, got = hashlib.sha256(), hashlib.sha256()
    server = listen(receiver, target, PORT)
    count = [0]

    def take() -> None:
        made, _ = server.accept()
        with made:
            made.settimeout(20)
            while chunk := made.recv(1 << 16):
                got.update(chunk)
                count[0] += len(chunk)

    thread = threading.Thread(target=take)
    thread.start()
    started = time.monotonic()
    with tcp(sender, 20) as made:
        made.connect((target, PORT))
        left = size
        while left:
            piece = block[: min(left, len(block))]
            made.sendall(piece)
            sent.update(piece)
            left -= len(piece)
    thread.join(30)
    server.close()
    return {
        "equal": sent.hexdigest() == got.hexdigest(),
        "bytes": count[0],
        "seconds": time.monotonic() - started,
    }


def answer_with_payload(sizes: tuple[int, ...]) -> None:
    """The hospital connects; a hostile process on inbound answers with payload of every size."""
    server = listen("inbound-1", "10.77.2.2", PORT)
    for size in sizes:
        with tcp("hospital-a") as client:
            client.connect(("10.77.2.2", PORT))
            client.sendall(b"hello")
            made, _ = server.accept()
            made.settimeout(0.3)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):
                made.sendall(os.urandom(size))
            time.sleep(0.15)
            # RST, so that no retransmission goes on behind the test's back.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            made.close()
    server.close()


def outward_attempts(name: str, target: str) -> None:
    """Try to open something towards ``target``: TCP, UDP, DNS, ICMP, IPv6, odd IP protocols."""
    for port in (22, 53, 80, 443, PORT, 40000):
        reaches(name, target, port, timeout=0.15)
    with tcp(name, 0.3) as made, contextlib.suppress(OSError):  # from the flow's own port
        made.bind(("", PORT))
        made.connect((target, 45000))
    udp = inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07patient\x00\x00\x10\x00\x01"
    for port in (53, 123, PORT, 50000):
        _quietly(lambda port=port: udp.sendto(query, (target, port)))
    udp.close()
    for protocol in (1, 2, 47, 50, 132, 253):
        raw = inside(name, lambda p=protocol: socket.socket(socket.AF_INET, socket.SOCK_RAW, p))
        body = b"\x08\x00\xf7\xff\x00\x00\x00\x00" + b"secret" * 20
        _quietly(lambda raw=raw, body=body: raw.sendto(body, (target, 0)))
        raw.close()
    six = inside(name, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    index = inside(name, lambda: socket.if_nametoindex("eth1"))
    for place in (("ff02::1", 5353, 0, index), ("fe80::1", 53, 0, index), ("2001:db8::1", 53)):
        _quietly(lambda place=place: six.sendto(query, place))
    six.close()


def _quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        call()


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\x00"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def segment(
    source: tuple[str, int], target: tuple[str, int], seq: int, ack: int, *,
    flags: int = 0x10, options: bytes = b"", payload: bytes = b"", ip_options: bytes = b"",
    offset: int = 0,
) -> bytes:  # fmt: skip
    """Return an IPv4 TCP packet, headers as asked for."""
    head = struct.pack(
        "!HHIIBBHHH", source[1], target[1], seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
        (5 + len(options) // 4) << 4, flags, 65535, 0, 0,
    ) + options  # fmt: skip
    pseudo = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    pseudo += struct.pack("!BBH", 0, 6, len(head) + len(payload))
    value = checksum(pseudo + head + payload)
    head = head[:16] + struct.pack("!H", value) + head[18:]
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + len(ip_options) // 4, 0,
        20 + len(ip_options) + len(head) + len(payload), 7, offset, 64, 6, 0,
        socket.inet_aton(source[0]), socket.inet_aton(target[0]),
    ) + ip_options  # fmt: skip
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return ip + head + payload


def forged_replies(world: World) -> dict[str, Any]:
    """Send hand-made replies of an established hop as root on inbound: all lengths, odd headers."""
    world.sysctl("gate-in", "net.netfilter.nf_conntrack_tcp_be_liberal", "1")
    server = listen("inbound-1", "10.77.2.2", PORT)
    client = tcp("hospital-a")
    client.connect(("10.77.2.2", PORT))
    client.sendall(b"push")
    made, _ = server.accept()
    made.settimeout(1)
    made.recv(16)
    source, target = ("10.77.2.2", PORT), client.getsockname()
    raw = inside("inbound-1", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255))
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)

    def seen(**shape: Any) -> tuple[int, int]:
        capture = Capture("hospital-a", "10.77.2.2", 0.1)
        _quietly(lambda: raw.sendto(segment(source, target, 1000, 1000, **shape), (target[0], 0)))
        found = capture.stop()
        return found["packets"], found["payload"] + found["other"]

    result = {
        "bare": {words: seen(options=b"\x01" * 4 * (words - 5))[0] for words in range(5, 16)},
        "one byte": {
            words: seen(options=b"\x01" * 4 * (words - 5), payload=b"x")[0]
            for words in range(5, 16)
        },
        # as long as the longest bare segment, but full of payload: a plain length limit's hole
        "forty bytes": seen(payload=b"s" * 40)[0],
        "ip options": seen(ip_options=b"\x01" * 4)[0],
        "first fragment": seen(offset=0x2000)[0],
        "syn": seen(flags=0x02)[0],
        "df set": seen(offset=0x4000)[0],
    }
    for one in (raw, made, client, server):
        one.close()
    return result


def path() -> dict[str, Any]:
    """Let declared flows pass, end to end, and nothing the other way."""
    world = World(("gate-in", "inbound-1", "core-1"))
    size = 24 << 20
    capture = Capture("hospital-a", "10.77.2.2")
    result: dict[str, Any] = {
        "intake": push("hospital-a", "inbound-1", "10.77.2.2", size),
        "hospital saw": capture.stop(),
        "store": push("inbound-1", "core-1", "10.77.3.2", size),
    }
    result["ports of inbound"] = [
        port
        for port in (22, 53, 80, 111, 443, 9090, 9723)
        if reaches("hospital-a", "10.77.2.2", port)
    ]
    result["gateway's own address"] = [
        port for port in (22, PORT, 9723) if reaches("hospital-a", "10.77.1.1", port)
    ]
    result["core from hospital"] = reaches("hospital-a", "10.77.3.2", PORT)
    result["counters"] = {name: world.counters(name) for name in ("gate-in", "inbound-1")}
    return result


def hostile() -> dict[str, Any]:
    """Root on inbound with its own rules flushed; then with the gateway's flushed; then both."""
    world = World(("gate-in", "inbound-1"))
    sizes = (1, 2, 6, 20, 39, 40, 41, 100, 1400, 1500, 65536, 1 << 20)
    result: dict[str, Any] = {}
    world.flush("inbound-1")
    for label, before in (
        ("gateway alone", lambda: None),
        ("inbound alone", lambda: (world.load("inbound-1"), world.flush("gate-in"))),
        ("no wall", lambda: world.flush("inbound-1")),
    ):
        before()
        capture = Capture("hospital-a", "10.77.2.2")
        answer_with_payload(sizes)
        outward_attempts("inbound-1", "10.77.1.2")
        result[label] = capture.stop()
    world.load("gate-in")
    result["forged"] = forged_replies(world)
    return result


def core() -> dict[str, Any]:
    """Core tries the outside, the gateways and a forged route; inbound tries to be asked back."""
    World(("gate-in", "inbound-1", "core-1", "outbound-1", "gate-out"))
    result: dict[str, Any] = {
        "release": push("core-1", "outbound-1", "10.77.4.2", 1 << 20),
        "provide": push("outbound-1", "university-b", "10.77.6.2", 1 << 20),
    }
    sh("ip", "-n", "core-1", "route", "add", "default", "via", "10.77.3.1")
    listeners = [
        listen(name, address, port)
        for name, address, port in (
            ("inbound-1", "10.77.3.1", PORT),
            ("inbound-1", "10.77.2.2", PORT),
            ("core-1", "10.77.4.1", PORT),
            ("gate-in", "10.77.2.1", 22),
            ("hospital-a", "10.77.1.2", PORT),
            ("university-b", "10.77.6.2", 7602),
        )
    ]
    result["core reached"] = [
        f"{address}:{port}"
        for address in ("10.77.3.1", "10.77.2.2", "10.77.2.1", "10.77.1.2", "10.77.6.2")
        for port in (22, PORT)
        if reaches("core-1", address, port)
    ]
    result["outbound reached back"] = [
        f"{address}:{port}"
        for address, port in (("10.77.4.1", PORT), ("10.77.4.1", 22), ("10.77.6.2", 7602))
        if reaches("outbound-1", address, port)
    ]
    result["university reached"] = [
        f"{address}:{port}"
        for address in ("10.77.6.1", "10.77.5.1", "10.77.4.1")
        for port in (22, PORT)
        if reaches("university-b", address, port)
    ]
    for one in listeners:
        one.close()
    return result


def management() -> dict[str, Any]:
    """SSH from the controllers only, metrics to the monitor only, time from it, no IPv6."""
    World(("core-1", "monitor-1", "terminal-1"))
    own, monitor = "10.77.0.13", "10.77.0.16"
    listeners = [listen("core-1", own, port) for port in (22, 9723, 8080)]
    listeners += [listen("monitor-1", monitor, port) for port in (22, 9090)]
    listeners += [listen("core-1", "10.77.7.2", 22), listen("terminal-1", "10.77.7.1", 22)]
    result: dict[str, Any] = {
        "controller": [
            port for port in (22, 9723, 8080) if reaches("controller", own, port, CONTROLLER)
        ],
        "stranger": [
            port for port in (22, 9723, 8080) if reaches("controller", own, port, STRANGER)
        ],
        "monitor": [port for port in (22, 9723, 8080) if reaches("monitor-1", own, port)],
        "core to monitor": [port for port in (22, 9090) if reaches("core-1", monitor, port)],
        "terminal to core": reaches("terminal-1", "10.77.7.2", 22),
        "core to terminal": reaches("core-1", "10.77.7.1", 22),
        "terminal to core's management": reaches("terminal-1", own, 22),
    }
    result["time"] = {
        "core to monitor": _asks("core-1", own, monitor, "monitor-1", 123),
        "core to monitor, other port": _asks("core-1", own, monitor, "monitor-1", 124),
        "stranger to core": _asks("controller", STRANGER, own, "core-1", 123),
    }
    result["ping"] = {source: _pings(source, own) for source in (CONTROLLER, STRANGER)}
    capture = Capture("controller", own)
    six = inside("core-1", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    index = inside("core-1", lambda: socket.if_nametoindex("eth0"))
    _quietly(lambda: six.sendto(b"secret", ("ff02::1", 5353, 0, index)))
    result["ipv6"] = capture.stop()["ipv6"]
    result["loopback"] = _loopback()
    for one in (*listeners, six):
        one.close()
    return result


def guarded(rounds: int = 6) -> dict[str, Any]:
    """Put the rules in force under running sessions: dry run and load by nft alone, and the guard.

    The sessions began before any rule tracked connections, as on a host that is provisioned for
    the first time, and the server talks all the while.
    """
    world = World(("core-1",))
    rules = json.dumps(world.policies["core-1"]["nftables"])
    server = listen("core-1", "10.77.0.13", 22)

    def run(argv: Sequence[str], stdin: bytes = b"") -> Done:
        if argv[0] != "nft":
            return Done(0, b"", b"")
        done = subprocess.run(
            ["ip", "netns", "exec", "core-1", *argv], input=stdin, capture_output=True, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def by_guard() -> None:
        with tempfile.TemporaryDirectory() as name:
            guard = Guard(state=Path(name) / "guard", run=run, usb=Path(name))
            guard.apply([Wanted(Path(name) / "rules", rules.encode(), 0o600, "nftables")])

    def by_nft() -> None:
        world.nft("core-1", "-c", "-j", "-f", "-", stdin=rules)
        world.load("core-1")

    return {
        # The control needs one; a session that lives is given time, however busy the machine.
        "cut by nft alone": int(any(_cut(world, server, by_nft, 1.5) for _ in range(rounds))),
        "cut by the guard": sum(_cut(world, server, by_guard, 20) for _ in range(rounds)),
        "left over": [
            entry["table"]["name"]
            for entry in json.loads(world.nft("core-1", "-j", "list", "tables"))["nftables"]
            if "table" in entry
        ],
    }


def _cut(world: World, server: socket.socket, load: Callable[[], None], patience: float) -> bool:
    """Return whether a session dies that was open, and the server talking, during ``load``.

    Dead is a session that brings nothing for ``patience`` seconds.
    """
    world.flush("core-1")
    time.sleep(0.1)  # until the kernel has let go of connection tracking
    talking = threading.Event()
    talking.set()
    with tcp("controller", 20) as client:
        client.bind((CONTROLLER, 0))
        client.connect(("10.77.0.13", 22))
        client.settimeout(patience)
        made, _ = server.accept()

        def talk() -> None:  # without a pause: what comes first while rules load is an answer
            while talking.is_set():
                _quietly(lambda: made.send(b"."))

        talker = threading.Thread(target=talk)
        talker.start()
        time.sleep(0.02)
        try:
            load()
        finally:
            talking.clear()
            talker.join()
        try:
            client.sendall(b"still there?")
            made.settimeout(patience)
            made.recv(64)
            made.sendall(b"!")
            while b"!" not in client.recv(1 << 16):
                pass
        except OSError:
            return True
        finally:
            made.close()
    return False


def _pings(source: str, target: str) -> bool:
    with inside(
        "controller", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    ) as made:
        made.bind((source, 0))
        made.settimeout(3)
        body = struct.pack("!BBHHH", 8, 0, 0, 77, 1) + b"echo"
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        try:
            made.sendto(body, (target, 0))
            while True:
                answer = made.recv(200)
                if answer[20] == 0 and answer[24:26] == b"\x00\x4d":
                    return True
        except OSError:
            return False


def _loopback() -> bool:
    with listen("core-1", "127.0.0.1", 5555):
        return reaches("core-1", "127.0.0.1", 5555)


def _asks(client: str, source: str, target: str, server: str, port: int) -> bool:
    def made() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with inside(server, made) as answering, inside(client, made) as asking:
        answering.bind((target, port))
        asking.bind((source, 0))
        for one in (answering, asking):
            one.settimeout(3)
        try:
            asking.sendto(b"time?", (target, port))
            _, back = answering.recvfrom(100)
            answering.sendto(b"now", back)
            return asking.recv(100) == b"now"
        except OSError:
            return False


if __name__ == "__main__":
    scenes = {"path": path, "hostile": hostile, "core": core, "management": management,
              "guarded": guarded}  # fmt: skip
    json.dump(scenes[sys.argv[1]](), sys.stdout)
