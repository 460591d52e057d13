"""Charon on both ends of a line, in namespaces; the parts that tests and the benchmark share.

The lab's inventory with ``encryption: ipsec`` on its outside links; the hospital's end gets exactly
what ``sekisho pki peer`` gives a peer. Started in private, as `flowworld` is.
"""

from __future__ import annotations

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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernel"), str(ROOT.parent / "agent")]

from flowworld import World, inside, sh  # noqa: E402
from lineflow import wait  # noqa: E402

import siteworld  # noqa: E402
from sekisho.control.pki.authority import Pki  # noqa: E402
from sekisho.control.pki.lines import LinePki  # noqa: E402
from sekisho.host.line_request import request  # noqa: E402
from sekisho.host.swanctl import Swanctl  # noqa: E402
from sekisho.network.strongswan import (  # noqa: E402
    AUTHORITY,
    CERTIFICATE,
    KEY,
    REVOKED,
    strongswan_conf,
    swanctl_conf,
)
from sekisho.nft.ipsec import peer_ruleset  # noqa: E402
from sekisho.policy import parts  # noqa: E402
from sekisho.site.lines import lines_of  # noqa: E402

PEER_IN, GATE_IN, INBOUND = "10.77.1.2", "10.77.1.1", "10.77.2.2"
SECOND, MOVED = "10.77.1.3", "10.77.1.4"
#: A hospital behind a gateway of its own, `behind`: its address there, and its gateway's.
INNER, INNER_GATE = "192.0.2.2", "192.0.2.1"
GATE_OUT, UNIVERSITY = "10.77.6.1", "10.77.6.2"


def _swap(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new, 1)


def edits(*, behind: bool = False, ipsec: bool = True) -> dict[str, str]:
    """Return the lab with IPsec on both outside links, and a second hospital with its own flow."""
    raw = siteworld.lab_raw()
    text = next(file.text for file in raw.group_vars if file.path == siteworld.SITE)
    for network in ("10.77.1.0/29", "10.77.6.0/29") if ipsec else ():
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
    if behind:
        text = _swap(
            text,
            f"address: {PEER_IN}\n",
            f"address: {INNER}\n      router: {PEER_IN}\n"
            + (f"      vpn: {PEER_IN}\n" if ipsec else ""),
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

    def certificate(self, name: str, key: Path, *, anew: bool = False) -> str:
        """Return a certificate of ``name`` for the key at ``key``, made there if missing."""
        csr = str(request(key, name=name)["csr"]).encode()
        return self.lines.issue(name, csr, now=now(), replace=anew)

    def over(self, name: str) -> str:
        """Return a certificate for the key ``name`` has that ended a minute ago."""
        begun = now() - timedelta(days=1, minutes=1)
        return self.lines.renew(name, now=begun, days=1)


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class Charon:
    """One IKE daemon with a folder of its own, in one namespace."""

    def __init__(self, name: str, folder: Path, lines: Sequence[parts.Line]) -> None:
        self.name, self.folder, self.lines = name, folder, lines
        self.shorter: dict[str, str] = {}  # for a test that cannot wait an hour
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
        text = swanctl_conf(self.lines)
        for old, new in self.shorter.items():
            assert old in text, old
            text = text.replace(old, new)
        (self.folder / "swanctl/swanctl.conf").write_text(text)

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


#: Tunnels' ports, from `siteworld.tunnelled`; the same at both ends.
TUNNELS = frozenset(struct.pack("!HH", port, port) for port in (51820, 51821))


def _carrier(packet: bytes) -> str:
    """Return "esp", "ike" or "wg" when an IPv4 packet is one, else ""."""
    head = (packet[0] & 15) * 4
    ports = packet[head:][:4]
    if packet[9] == 50:
        return "esp"
    # WireGuard's four types of message: a type, and three bytes of nought.
    if packet[9] == 17 and ports in TUNNELS and packet[head + 8 :][:4] in _MESSAGES:
        return "wg"
    ike = packet[9] == 17 and ports in (b"\x01\xf4\x01\xf4", b"\x11\x94\x11\x94")
    return "ike" if ike else ""


_MESSAGES = frozenset(bytes([kind, 0, 0, 0]) for kind in (1, 2, 3, 4))


class Wire:
    """Counts what is on the line: IPv4 by kind, on every packet of either direction.

    ``clear``: bytes behind the IPv4 header of everything that is neither ESP nor IKE nor WireGuard,
    nor an ICMP error about such a packet; ``said`` keeps the first such packets.
    """

    def __init__(self, name: str, interface: str) -> None:
        self.esp = self.ike = self.wg = self.unreachable = self.clear = 0
        self.sock = inside(
            name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        )
        inside(name, lambda: self.sock.bind((interface, 3)))
        # SO_RCVBUFFORCE: past the machine's limit, which would lose what is to be counted.
        self.sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
        self.sock.settimeout(0.05)
        self.said: list[str] = []
        self.going = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while self.going:
            try:
                frame = self.sock.recv(70000)
            except TimeoutError:
                continue
            if frame[12:14] == b"\x08\x00":
                self._packet(frame[14:])

    def _packet(self, packet: bytes) -> None:
        head, protocol = (packet[0] & 15) * 4, packet[9]
        if protocol == 1 and packet[head] == 3 and _carrier(packet[head + 8 :]):
            self.unreachable += 1  # "nobody at your IKE port", with that packet's own head
        elif (kind := _carrier(packet)) == "esp":
            self.esp += 1
        elif kind == "ike":
            self.ike += 1
        elif kind == "wg":
            self.wg += 1
        else:
            self.clear += struct.unpack("!H", packet[2:4])[0] - head
            if len(self.said) < 5:
                ports = struct.unpack("!HH", packet[head : head + 4])
                source, target = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
                self.said.append(f"{source} {target} {protocol} {ports}")

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
        return {"esp": self.esp, "ike": self.ike, "wg": self.wg, "unreachable": self.unreachable,
                "clear": self.clear, "lost": lost, "said": self.said}  # fmt: skip


class Line(World):
    """One outside link with both its ends: on a switch of its own, charon at the ends.

    The line is a bridge in namespace ``line``, so that a capture there sees what is on the cable
    and nothing a host only says to itself. ``behind``: the hospital has a gateway, gate-peer, which
    speaks IPsec for it. Without ``ipsec`` the carrier's word is all there is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        way: str = "in",
        behind: bool = False,
        ipsec: bool = True,
        edited: dict[str, str] | None = None,
    ) -> None:
        self.edited = edited if edited is not None else edits(behind=behind, ipsec=ipsec)
        self.at = {"hospital-a": "gate-peer"} if behind else {}
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
        # Promiscuous: the bridge's own card gets a copy of every frame, not only of floods.
        sh("ip", "-n", "line", "link", "set", "br0", "promisc", "on", "up")
        more = []
        if self.link == "wan-in":
            self.host("hospital-z")
            more = [("hospital-z", "wan0", f"{SECOND}/29")]
        if self.at:
            self.host("gate-peer")
            super().join("lan-peer", [("hospital-a", "lan0", f"{INNER}/24"),
                                      ("gate-peer", "lan0", f"{INNER_GATE}/24")])  # fmt: skip
            self.sysctl("gate-peer", "net.ipv4.ip_forward", "1")
            self.later = [("hospital-a", INNER_GATE), ("gate-peer", GATE_IN)]
            ends = [(self.at.get(name, name), interface, net) for name, interface, net in ends]
        for index, (name, interface, address) in enumerate([*ends, *more]):
            sh("ip", "-n", "line", "link", "add", f"p{index}", "type", "veth", "peer", "name",
               interface, "netns", name)  # fmt: skip
            sh("ip", "-n", "line", "link", "set", f"p{index}", "master", "br0", "up")
            self.up(name, interface, address)
        if more:
            sh("ip", "-n", "hospital-z", "route", "add", "default", "via", GATE_IN)

    def charon(self, name: str) -> Charon:
        """Return a ready, not yet started daemon with a fresh key and its certificate."""
        at = self.at.get(name, name)
        made = Charon(at, self.folder / name, lines_of(self.authority.site, name))
        made.place(CERTIFICATE).write_text(self.authority.certificate(name, made.key))
        self.give(made)
        if name in self.authority.site.peers:
            self.nft(at, "-j", "-f", "-", stdin=json.dumps(peer_ruleset(made.lines)))
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


def play(scenes: Mapping[str, Callable[[Path], dict[str, Any]]], logs: str) -> None:
    """Play the scene the command line names and print what was seen.

    On a failure also the last words of ``logs``, a pattern in the scene's folder.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            seen = scenes[sys.argv[1]](folder)
        except BaseException:
            for log in folder.glob(logs):
                sys.stderr.write(f"== {log}\n{log.read_text(errors='replace')[-3000:]}\n")
            raise
        json.dump(seen, sys.stdout)
        sys.stdout.flush()
