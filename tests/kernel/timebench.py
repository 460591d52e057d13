"""Hospital, gateway and inbound with the lab's compiled rules, under probes and a delivery.

Root on inbound sends raw frames past its own filter, so the gateway alone stands in the way. On the
hospital's side everything is captured; only ARP and bare replies of the declared hop may arrive.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

from flowworld import PORT, World, checksum, inside, listen, segment, sh, tcp  # noqa: E402 - path first

GATE, INBOUND, HOSPITAL = "gate-in", "inbound-1", "hospital-a"
TARGET, SOURCE = "10.77.1.2", "10.77.2.2"  # of a wrong packet: the hospital; inbound
PROBE = Path(__file__).with_name("timeprobe.py")
#: Every kind the prober sends, as the capture names it.
KINDS = ("new", "payload", "udp", "icmp", "ipv6", "forged", "odd")
RATE = 6000
_SIX = {GATE: (("eth1", "fd77:1::1"), ("eth2", "fd77:2::1")), HOSPITAL: (("wan0", "fd77:1::2"),)}


def say(words: str) -> None:
    """Tell on stderr how far we are; stdout is for what was seen."""
    sys.stderr.write(f"{words}\n")


class Helper:
    """One process of `timeprobe` in a namespace."""

    def __init__(self, name: str, mode: str, config: dict[str, Any]) -> None:
        self.mode = mode
        self.process = subprocess.Popen(
            ("ip", "netns", "exec", name, sys.executable, "-S", str(PROBE), mode),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(config).encode() + b"\n")
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if said != b"ready\n":
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"{mode} in {name} did not begin: {said!r}")

    def stop(self) -> dict[str, Any]:
        try:
            out, _ = self.process.communicate(timeout=90)
            found: dict[str, Any] = json.loads(out)
        finally:
            self.kill()
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def ip4(source: str, target: str, protocol: int, body: bytes, offset: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 9, offset, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(target))  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def udp(port: int, body: bytes) -> bytes:
    return struct.pack("!HHHH", 5353, port, 8 + len(body), 0) + body  # 0: no checksum


def icmp(kind: int, body: bytes) -> bytes:
    head = struct.pack("!BBHHH", kind, 0, 0, 7, 7) + body
    return head[:2] + struct.pack("!H", checksum(head)) + head[4:]


def ip6(protocol: int, body: bytes) -> bytes:
    pair = [socket.inet_pton(socket.AF_INET6, one) for one in ("fd77:2::2", "fd77:1::2")]
    return struct.pack("!IHBB", 0x60000000, len(body), protocol, 64) + b"".join(pair) + body


class Bench:
    """The three machines, and what goes on between them."""

    def __init__(self) -> None:
        self.world = World((GATE, INBOUND))
        ends = self.world.policies[INBOUND]["interfaces"]
        self.own = next(name for name, one in ends.items() if one["link"] == "lan-in")
        for key, value in {
            # The kernel's own filters off: what holds must be the rules.
            "net.ipv4.conf.all.rp_filter": "0",
            "net.ipv4.conf.eth1.rp_filter": "0",
            "net.ipv4.conf.eth2.rp_filter": "0",
            "net.ipv4.conf.default.rp_filter": "0",
            "net.ipv6.conf.all.keep_addr_on_down": "1",
            "net.ipv6.conf.default.accept_dad": "0",
            "net.ipv6.conf.all.forwarding": "1",
        }.items():
            self.world.sysctl(GATE, key, value)
        for name, ends6 in _SIX.items():
            for interface, address in ends6:
                sh("ip", "-n", name, "addr", "add", f"{address}/64", "dev", interface, "nodad")
        self.mac = self.address(GATE, "eth2")
        self.more: list[tuple[str, list[bytes]]] = []
        self._idle_connection()

    @staticmethod
    def address(name: str, interface: str) -> str:
        listed = json.loads(sh("ip", "-n", name, "-j", "link", "show", interface))
        return str(listed[0]["address"])

    def _idle_connection(self) -> None:
        """Open a hop that stays idle, and learn its numbers: a forged reply must fit its window."""
        tap = inside(
            INBOUND, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        )
        tap.settimeout(5)
        server = listen(INBOUND, SOURCE, PORT)
        self.client = tcp(HOSPITAL, 5)
        self.client.connect((SOURCE, PORT))
        self.made, _ = server.accept()
        server.close()
        while True:
            frame = tap.recv(2000)
            if frame[12:14] == b"\x08\x00" and frame[23] == 6 and frame[47] & 0x12 == 0x12:
                self.seq, self.ack = struct.unpack("!II", frame[38:46])
                self.seq += 1  # the SYN's own
                break
        tap.close()
        self.port = self.client.getsockname()[1]

    def frames(self) -> list[tuple[str, list[str]]]:
        """Return kind → frames: everything that must never arrive at the hospital."""
        hop, secret = (SOURCE, PORT), b"patient 4711 " * 8
        live = (TARGET, self.port)
        ether = bytes.fromhex(self.mac.replace(":", "")) + b"\x02\x00\x00\x00\x00\x77"

        def reply(**shape: Any) -> bytes:
            return segment(hop, live, self.seq, self.ack, **shape)

        four: list[tuple[str, list[bytes]]] = [
            ("new", [segment((SOURCE, 40001), (TARGET, 443), 1, 0, flags=2, payload=secret[:20]),
                     segment(hop, (TARGET, 45000), 1, 0, flags=2)]),
            ("payload", [reply(flags=0x18, payload=secret), reply(payload=b"s" * 40),
                         segment(hop, (TARGET, 50001), 5, 5, flags=0x18, payload=secret)]),
            ("udp", [ip4(SOURCE, TARGET, 17, udp(53, secret)),
                     ip4(SOURCE, TARGET, 17, udp(PORT, secret))]),
            ("icmp", [ip4(SOURCE, TARGET, 1, icmp(8, secret)),
                      ip4(SOURCE, TARGET, 1, icmp(0, secret))]),
            ("forged", [segment(("203.0.113.9", PORT), live, 1, 1, flags=0x18, payload=secret),
                        segment(("10.77.0.1", 40002), (TARGET, 22), 1, 0, flags=2),
                        ip4("10.77.3.2", TARGET, 17, udp(53, secret))]),
            ("odd", [ip4(SOURCE, TARGET, 47, secret), ip4(SOURCE, TARGET, 132, secret),
                     reply(ip_options=b"\x01" * 4)]),
            *self.more,
        ]  # fmt: skip
        made = [(kind, [(ether + b"\x08\x00" + one).hex() for one in many]) for kind, many in four]
        six = (ip6(17, udp(53, secret)), ip6(58, icmp(128, secret)))
        return [*made, ("ipv6", [(ether + b"\x86\xdd" + one).hex() for one in six])]

    @contextlib.contextmanager
    def probed(self, what: str, *, flow: bool = True) -> Iterator[dict[str, Any]]:
        """Probe, capture and (``flow``) deliver during the block; the dict fills at its end."""
        seen: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:

            def helper(name: str, mode: str, **config: Any) -> Helper:
                made = Helper(name, mode, config)
                stack.callback(made.kill)
                return made

            ends: list[Helper] = []
            if flow:
                beat = f"/run/beat-{time.monotonic_ns()}"
                os.mkfifo(beat)
                for name, mode in ((INBOUND, "take"), (HOSPITAL, "push")):
                    ends.append(helper(name, mode, address=SOURCE, port=PORT, beat=beat))
            tap = helper(HOSPITAL, "watch", source=SOURCE, target=TARGET, port=PORT)
            sender = helper(INBOUND, "probe", interface=self.own, rate=RATE, frames=self.frames())
            time.sleep(0.3)
            yield seen
            time.sleep(0.3)
            seen |= {"probes": sender.stop()}
            time.sleep(0.2)  # until the last of them has arrived, if any does
            seen |= tap.stop()
            if flow:
                sent, got = ends[1].stop(), ends[0].stop()
                same = sent["given"] == got["taken"] and got["whole"]
                seen["flow"] = sent | got | {"whole": same}
        rate = seen["probes"]["sent"] / seen["probes"]["seconds"]
        seen["per_second"] = round(rate)
        arrived = sum(seen["wrong"].values())
        pause = f", longest pause {seen['flow']['pause']:.3f} s" if flow else ""
        say(f"  {what}: {seen['probes']['sent']} probes ({rate:.0f}/s), {arrived} arrived{pause}")

    def open_for(self, what: str, seconds: float = 1.5) -> dict[str, Any]:
        """Take the gateway's rules away under the same probes: the control of all the zeros."""
        self.world.flush(GATE)
        with self.probed(what, flow=False) as seen:
            time.sleep(seconds)
        return seen

    def delivers(self, seconds: float = 5.0, *, listening: bool = True) -> bool:
        """Return whether a new connection of the declared hop opens."""
        with contextlib.ExitStack() as stack:
            if listening:
                stack.enter_context(listen(INBOUND, SOURCE, PORT))
            made = stack.enter_context(tcp(HOSPITAL, seconds))
            try:
                made.connect((SOURCE, PORT))
            except OSError:
                return False
            return True


def link(name: str, *words: str) -> None:
    sh("ip", "-n", name, "link", *words)


def in_gate(words: Sequence[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a program in the gateway's network."""
    return subprocess.run(
        ("ip", "netns", "exec", GATE, *words), input=stdin, capture_output=True, check=False
    )
