"""Seized machines of the lab as namespaces: every way out, pulling from core, a flood.

The programs are those that the lab's trial puts on its machines (tests/vm/attacks/seized/). Started
by the tests in private, as `flowworld` is; prints one JSON object: what was seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "kernel"), str(ROOT.parent)]

from flowworld import CONTROLLER, PORT, World, listen, push, reaches, sh  # noqa: E402 - path first
from tests.vm.attacks.capture import judge  # noqa: E402 - path first

SEIZED = ROOT / "vm/attacks/seized"
HOSPITAL, INBOUND = "10.77.1.2", "10.77.2.2"
PULLED = ("10.77.5.1", "10.77.4.2", "10.77.4.1", "10.77.3.2")


def command(name: str, program: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", name, sys.executable, str(SEIZED / program), *words]


def listening(name: str, interface: str, token: bytes, *file: str) -> subprocess.Popen[str]:
    """Start an ear and wait until it says that it listens."""
    words = command(name, "ear.py", interface, token.hex(), *file)
    made = subprocess.Popen(words, text=True, stdout=subprocess.PIPE)
    assert made.stdout is not None
    assert made.stdout.readline() == "ready\n"
    return made


def told(ear: subprocess.Popen[str]) -> dict[str, Any]:
    """End an ear and return what it heard."""
    ear.send_signal(signal.SIGTERM)
    return dict(json.loads(ear.communicate(timeout=20)[0]))


def mac(name: str, interface: str) -> str:
    told = json.loads(sh("ip", "-n", name, "-j", "link", "show", interface))
    return str(told[0]["address"])


def attack() -> dict[str, Any]:
    """Let root on inbound try every way; return its table, and what both wires heard."""
    token = secrets.token_bytes(16)
    with tempfile.TemporaryDirectory() as folder:
        pcap = Path(folder) / "wire.pcap"
        inner = listening("gate-in", "eth2", token)
        wire = listening("hospital-a", "wan0", token, str(pcap))
        words = command("hospital-a", "knock.py", INBOUND, str(PORT))
        knocking = subprocess.Popen(words, text=True, stdout=subprocess.PIPE)
        tried = sh(
            *command("inbound-1", "ways.py", token.hex(), "--own", INBOUND, "--interface", "eth1"),
            *("--peer", HOSPITAL, "--peer6", "fd77:1::2", "--gateway", "10.77.2.1"),
            *("--peer-mac", mac("hospital-a", "wan0"), "--outer", "10.77.1.1"),
            *("--core", "10.77.3.2", "--monitor", "10.77.0.16", "--by", "eth0=10.77.0.11"),
            *("--by", "eth0=10.77.0.16", "--by", "eth2=10.77.3.2", "--seconds", "0.3"),
        )
        knocking.send_signal(signal.SIGTERM)
        opened, read = knocking.communicate(timeout=20)[0].split()
        time.sleep(0.5)
        heard, outer = told(inner), told(wire)
        seen = judge(
            pcap.read_bytes(), token=token, hospital=mac("hospital-a", "wan0"),
            gateway=mac("gate-in", "eth1"), inbound=INBOUND,
        )  # fmt: skip
    return {
        "tried": json.loads(tried),
        "inner": heard,
        "outer": outer,
        "wire": asdict(seen) | {"strange": seen.strange[:20], "others": sorted(seen.others)},
        "inbound's card": mac("inbound-1", "eth1"),
        "opened": int(opened),
        "read": int(read),
    }


def walled() -> dict[str, Any]:
    """Root on inbound without its own rules, against the gateway's."""
    world = World(("gate-in", "inbound-1", "core-1", "monitor-1"))
    world.flush("inbound-1")
    return attack()


def plain() -> dict[str, Any]:
    """The control: the same with a gateway that forwards whatever has an address."""
    world = World(("gate-in", "inbound-1", "core-1", "monitor-1"))
    world.flush("inbound-1")
    world.flush("gate-in")
    world.sysctl("gate-in", "net.ipv6.conf.all.forwarding", "1")
    for end, interface, address in (
        ("hospital-a", "wan0", "fd77:1::2/64"),
        ("gate-in", "eth1", "fd77:1::1/64"),
    ):
        sh("ip", "-n", end, "addr", "add", address, "dev", interface, "nodad")
    return attack()


def serve(name: str, address: str, port: int) -> None:
    """Hand a text to whoever connects, as a careless service would."""
    server = listen(name, address, port)
    server.settimeout(None)

    def give() -> None:
        while True:
            link, _ = server.accept()
            with link, contextlib.suppress(OSError):
                link.sendall(b"record" * 100)

    threading.Thread(target=give, daemon=True).start()


def pull() -> dict[str, Any]:
    """Root on gate-out without its own rules asks outbound and core; then with their walls down."""
    world = World(("core-1", "outbound-1", "gate-out"))
    for name, address in (
        ("core-1", "10.77.4.1"), ("core-1", "10.77.3.2"), ("outbound-1", "10.77.4.2"),
        ("outbound-1", "10.77.5.1"),
    ):  # fmt: skip
        with contextlib.suppress(RuntimeError):  # hop-in has no other end here
            if address == "10.77.3.2":
                sh("ip", "-n", name, "addr", "add", f"{address}/32", "dev", "lo")
        serve(name, address, 22)
        serve(name, address, PORT)
    serve("university-b", "10.77.6.2", 7609)
    world.flush("gate-out")
    for network in ("10.77.3.0/29", "10.77.4.0/29"):
        sh("ip", "-n", "gate-out", "route", "add", network, "via", "10.77.5.1")
    asked = [f"{address}=1-65535" for address in PULLED[:1]]
    asked += [f"{address}=1-8000" for address in PULLED[1:]]

    def pulled() -> Any:
        words = command("gate-out", "pull.py", "10.77.5.2", "1", *asked)
        university = command("gate-out", "pull.py", "10.77.6.1", "0.5", "10.77.6.2=7000-7700")
        return json.loads(sh(*words)) | json.loads(sh(*university))

    result = {"walled": pulled()}
    for name in ("core-1", "outbound-1"):
        world.flush(name)
    world.sysctl("outbound-1", "net.ipv4.ip_forward", "1")
    sh("ip", "-n", "core-1", "route", "add", "10.77.5.0/29", "via", "10.77.4.2")
    with contextlib.suppress(RuntimeError):
        sh("ip", "-n", "outbound-1", "route", "add", "10.77.3.2/32", "via", "10.77.4.1")
    return result | {"plain": pulled()}


def flood() -> dict[str, Any]:
    """The hospital floods: the way for administrators stays, and a push passes afterwards."""
    world = World(("gate-in", "inbound-1"))
    ssh = [listen("inbound-1", "10.77.0.12", 22), listen("gate-in", "10.77.0.11", 22)]

    def digests() -> list[str]:
        listed = [world.nft(name, "-s", "list", "ruleset") for name in ("gate-in", "inbound-1")]
        return [hashlib.sha256(text.encode()).hexdigest() for text in listed]

    server = listen("inbound-1", INBOUND, PORT)
    before, dropped = digests(), world.counters("gate-in")["drop-forward"]
    words = command("hospital-a", "flood.py", HOSPITAL, INBOUND, str(PORT), "4")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as flooding:
        time.sleep(1)
        logins = [
            reaches("controller", address, 22, CONTROLLER, 2)
            for _ in range(4)
            for address in ("10.77.0.12", "10.77.0.11")
        ]
        during = flooding.poll() is None
        sent = flooding.communicate()[0]
    server.close()
    for one in ssh:
        one.close()
    return {
        "sent": [int(word) for word in sent.split()],
        "still flooding at the last login": during,
        "logins": logins,
        "dropped": world.counters("gate-in")["drop-forward"] - dropped,
        "taken": world.counters("inbound-1")["flow-intake"],
        "rules unchanged": digests() == before,
        "push": push("hospital-a", "inbound-1", INBOUND, 1 << 20),
    }


if __name__ == "__main__":
    scenes = {"walled": walled, "plain": plain, "pull": pull, "flood": flood}
    json.dump(scenes[sys.argv[1]](), sys.stdout)
