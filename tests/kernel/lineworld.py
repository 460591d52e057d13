"""Charon on both ends of a line, in namespaces; the parts that tests and the benchmark share.

The lab's inventory with ``encryption: ipsec`` on its outside links; the hospital's end gets exactly
what ``sekisho pki peer`` gives a peer. Started in private, as `flowworld` is.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernel"), str(ROOT.parent / "agent")]

from flowworld import PORT, World, inside, listen, sh, tcp  # noqa: E402

import siteworld  # noqa: E402
from sekisho.edge.pki import Pki  # noqa: E402
from sekisho.edge.pki_lines import LinePki  # noqa: E402
from sekisho.edge.swanctl import Swanctl  # noqa: E402
from sekisho.flows.ipsec import (  # noqa: E402
    AUTHORITY,
    CERTIFICATE,
    KEY,
    REVOKED,
    strongswan_conf,
    swanctl_conf,
)
from sekisho.flows.lines import peer_ruleset  # noqa: E402
from sekisho.service.line_request import request  # noqa: E402
from sekisho.site.lines import lines_of  # noqa: E402

PEER_IN, GATE_IN, INBOUND = "10.77.1.2", "10.77.1.1", "10.77.2.2"
SECOND, MOVED = "10.77.1.3", "10.77.1.4"
GATE_OUT, UNIVERSITY = "10.77.6.1", "10.77.6.2"


def _swap(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new, 1)


def edits() -> dict[str, str]:
    """Return the lab with IPsec on both outside links, and a second hospital with its own flow."""
    raw = siteworld.lab_raw()
    text = next(file.text for file in raw.group_vars if file.path == siteworld.SITE)
    for network in ("10.77.1.0/29", "10.77.6.0/29"):
        text = _swap(text, f"network: {network}", f"encryption: ipsec\n      network: {network}")
    text = _swap(text, "[hospital-a, gate-in]", "[hospital-a, hospital-z, gate-in]")
    text = _swap(
        text,
        "    university-b:\n      side",
        "    hospital-z:\n      side: provider\n      title: {en: Hospital Z, ja: 丙病院}\n"
        f"      address: {SECOND}\n    university-b:\n      side",
    )
    text = _swap(
        text,
        "    store:\n",
        "    intake-z:\n      from: hospital-z\n      to: inbound-1\n      via: gate-in\n"
        "      port: 7602\n      mode: one-way-tcp\n    store:\n",
    )
    return {siteworld.SITE: text}


class Authority:
    """A site CA in a folder of its own, and the keys of both ends, each made in its own place."""

    def __init__(self, folder: Path, edited: dict[str, str]) -> None:
        self.site = siteworld.lab_site(edited)
        folder.mkdir(parents=True, exist_ok=True)
        pki = Pki(folder)
        pki.make("lab", now=now())
        self.lines = LinePki(pki, self.site)

    def certificate(
        self, name: str, key: Path, *, ends: timedelta | None = None, anew: bool = False
    ) -> str:
        """Return a certificate of ``name`` for the key at ``key``, made there if missing."""
        csr = str(request(key, name=name)["csr"]).encode()
        if ends is None:
            return self.lines.issue(name, csr, now=now(), replace=anew)
        # Issued a day before it was over, so that it is over now (or soon).
        return self.lines.issue(
            name, csr, now=now() + ends - timedelta(days=1), days=1, replace=anew
        )


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Charon:
    """One IKE daemon with a folder of its own, in one namespace."""

    def __init__(self, name: str, folder: Path, lines: list[dict[str, Any]]) -> None:
        self.name, self.folder, self.lines = name, folder, lines
        self.socket = f"unix://{folder}/charon.vici"
        self.key = self.place(KEY)
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "STRONGSWAN_CONF": str(folder / "strongswan.conf"),
            "SWANCTL_DIR": str(folder / "swanctl"),
        }
        for path in (KEY, CERTIFICATE, AUTHORITY, REVOKED):
            self.place(path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "swanctl/conf.d").mkdir()
        extra = (
            f"charon-systemd {{\n plugins {{\n  vici {{\n   socket = {self.socket}\n  }}\n }}\n"
            f" filelog {{\n  log {{\n   path = {folder}/log\n   default = 1\n   ike_name = yes\n"
            "   time_format = %T\n   flush_line = yes\n  }\n }\n}\n"
        )
        # As on a machine: Debian's own settings, which load every plugin there is, then ours.
        base = "include /etc/strongswan.conf\n"
        (folder / "strongswan.conf").write_text(base + strongswan_conf() + extra)
        self.write()

    def place(self, path: str) -> Path:
        return self.folder / path.removeprefix("/etc/")

    def write(self) -> None:
        (self.folder / "swanctl/swanctl.conf").write_text(swanctl_conf(self.lines))

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "/usr/sbin/charon-systemd"],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "stderr").open("ab"),
        )
        wait((self.folder / "charon.vici").exists, 20, f"{self.name}: no vici socket")
        self.load()

    def load(self) -> None:
        self.swanctl("--load-all", "--noprompt", "--clear")

    def swanctl(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["swanctl", *words, "--uri", self.socket],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: swanctl {words}: {done.stderr}{done.stdout}")
        return done.stdout

    def apply(self) -> list[str]:
        """Do what `sekisho pki apply` does on a gateway."""
        return Swanctl(
            crl=self.place(REVOKED),
            judged=self.folder / "judged.json",
            words=("--uri", self.socket),
            environment=self.environment,
        ).apply()

    def children(self) -> int:
        """Return how many child associations stand."""
        return self.swanctl("--list-sas", check=False).count("INSTALLED")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        (self.folder / "charon.vici").unlink(missing_ok=True)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=30)
        (self.folder / "charon.vici").unlink(missing_ok=True)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def forget(self) -> None:
        """Do what the unit does before it starts: drop what a killed daemon left in the kernel."""
        for what in ("state", "policy"):
            sh("ip", "-n", self.name, "xfrm", what, "flush")


def wait(ready: Callable[[], object], seconds: float, what: str = "") -> float:
    """Wait until ``ready()``; return the seconds it took, or -1 (with ``what``: an error)."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        if ready():
            return time.monotonic() - begin
        time.sleep(0.05)
    if what:
        raise RuntimeError(f"{what} within {seconds} s")
    return -1


class Wire:
    """Counts what is on the line: IPv4 by kind, on every packet of either direction.

    ``clear``: bytes behind the IPv4 header of everything that names the inner receiver, or is
    neither ESP nor IKE between the two ends; ``said`` keeps the first such packets.
    """

    def __init__(self, name: str, interface: str) -> None:
        self.esp = self.ike = self.clear = self.other = 0
        self.sock = inside(
            name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        )
        inside(name, lambda: self.sock.bind((interface, 3)))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self.sock.settimeout(0.05)
        self.said: list[str] = []
        self.going = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while self.going:
            try:
                frame, place = self.sock.recvfrom(70000)
            except TimeoutError:
                continue
            # Outgoing and incoming of one card are both the line; decrypted packets come in again
            # by the same card, but not as frames of the other end's making.
            self._frame(frame, place[2])

    def _frame(self, frame: bytes, kind: int) -> None:
        if frame[12:14] != b"\x08\x00":
            self.other += frame[12:14] == b"\x86\xdd"
            return
        packet = frame[14:]
        head, protocol = (packet[0] & 15) * 4, packet[9]
        ports = struct.unpack("!HH", packet[head : head + 4])
        if protocol == 50:
            self.esp += 1
        elif protocol == 17 and ports in ((500, 500), (4500, 4500)):
            self.ike += 1
        else:
            self.clear += struct.unpack("!H", packet[2:4])[0] - head
            if len(self.said) < 5:
                source, target = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
                self.said.append(f"{kind} {source} {target} {protocol} {ports}")

    def lost(self) -> int:
        """Return how many packets the capture itself missed; 0 or it proves nothing."""
        raw = self.sock.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
        return int(struct.unpack("II", raw)[1])

    def stop(self) -> dict[str, Any]:
        time.sleep(0.3)
        lost = self.lost()
        self.going = False
        self.thread.join()
        self.sock.close()
        return {"esp": self.esp, "ike": self.ike, "clear": self.clear, "lost": lost,
                "said": self.said}  # fmt: skip


class Line(World):
    """One outside link with both its ends: on a switch of its own, charon at the ends.

    The line is a bridge in namespace ``line``, so that a capture there sees what is on the cable
    and nothing a host only says to itself.
    """

    def __init__(self, folder: Path, *, way: str = "in") -> None:
        self.edited = edits()
        self.link = f"wan-{way}"
        machines = ("gate-in", "inbound-1") if way == "in" else ("gate-out", "outbound-1")
        self.gate = machines[0]
        super().__init__(machines, self.edited)
        self.folder = folder
        self.authority = Authority(folder / "site", self.edited)
        self.charons: dict[str, Charon] = {}

    def join(self, link: str, ends: list[tuple[str, str, str]]) -> None:
        if link != self.link:
            super().join(link, ends)
            return
        self.host("line")
        sh("ip", "-n", "line", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        sh("ip", "-n", "line", "link", "set", "br0", "up")
        more = []
        if self.link == "wan-in":
            self.host("hospital-z")
            more = [("hospital-z", "wan0", f"{SECOND}/29")]
        for index, (name, interface, address) in enumerate([*ends, *more]):
            sh("ip", "-n", "line", "link", "add", f"p{index}", "type", "veth", "peer", "name",
               interface, "netns", name)  # fmt: skip
            sh("ip", "-n", "line", "link", "set", f"p{index}", "master", "br0", "up")
            self.up(name, interface, address)
        if more:
            sh("ip", "-n", "hospital-z", "route", "add", "default", "via", GATE_IN)

    def charon(self, name: str, *, ends: timedelta | None = None) -> Charon:
        """Return a ready, not yet started daemon with a fresh key and its certificate."""
        made = Charon(name, self.folder / name, lines_of(self.authority.site, name))
        made.place(CERTIFICATE).write_text(self.authority.certificate(name, made.key, ends=ends))
        self.give(made)
        if name in self.authority.site.peers:
            self.nft(name, "-j", "-f", "-", stdin=json.dumps(peer_ruleset(made.lines)))
        self.charons[name] = made
        return made

    def give(self, made: Charon) -> None:
        """Carry the authority and its list of revocations to one end."""
        made.place(AUTHORITY).write_bytes((self.authority.lines.folder / "ca.crt.pem").read_bytes())
        made.place(REVOKED).write_bytes(self.authority.lines.crl(now=now()))

    def clear_drops(self) -> int:
        return self.counters(self.gate)["drop-line-clear"]

    def close(self) -> None:
        for one in self.charons.values():
            if one.process is not None and one.process.poll() is None:
                one.process.kill()
                one.process.wait()


class Receiver:
    """Listens on the flow's right end for the whole scene and counts bytes."""

    def __init__(self, name: str, address: str, port: int = PORT) -> None:
        self.bytes = 0
        self.server = listen(name, address, port)
        self.server.settimeout(0.2)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                made, _ = self.server.accept()
                threading.Thread(target=self._take, args=(made,), daemon=True).start()

    def _take(self, made: socket.socket) -> None:
        with made, contextlib.suppress(OSError):
            made.settimeout(120)
            while chunk := made.recv(1 << 18):
                self.bytes += len(chunk)


class Flow:
    """A flow as its sender uses it."""

    def __init__(self, sender: str, target: str, port: int = PORT) -> None:
        self.sender, self.target, self.port = sender, target, port

    def deliver(self, size: int = 200_000, *, seconds: float = 4.0, source: str = "") -> bool:
        """Return whether ``size`` bytes went through and were acknowledged to their end."""
        with tcp(self.sender, seconds) as made, contextlib.suppress(OSError):
            if source:
                made.bind((source, 0))
            made.connect((self.target, self.port))
            made.sendall(os.urandom(size))
            made.shutdown(socket.SHUT_WR)
            # The receiver's FIN comes back when it has everything.
            return made.recv(1) == b""
        return False

    def back(self, seconds: float = 60.0, **how: Any) -> float:
        """Return the seconds until a delivery passes again (each try has one second), or -1."""
        return wait(lambda: self.deliver(1000, seconds=1.0, **how), seconds)
