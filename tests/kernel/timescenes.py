"""No wrong packet when the agent is killed, when conntrack is full, when the disk is full.

Runs in private (see `test_time_kernel`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

from flowworld import PORT, inside, sh, tcp  # noqa: E402 - path first
from timebench import GATE, HOSPITAL, SOURCE, Bench, say  # noqa: E402 - path first
from timeworld import ROOT, guard_at, main  # noqa: E402 - path first

from sekisho.host.guard.request import GuardError, Wanted  # noqa: E402 - path first

# Loads the rules without end, as the agent does; or once, in a table that is the loader's own.
LOADER = """
import json, sys, time
sys.path[:0] = [sys.argv[1]]
rules = json.load(open(sys.argv[2]))
if sys.argv[3] == "agent":
    from sekisho.host.kernel.nft import Nft
    print("ready", flush=True)
    while True:
        Nft().load(rules)
else:
    from sekisho.host.debian_python import load
    nft = load("nftables", "python3-nftables").Nftables()
    assert nft.cmd("add table inet sekisho { flags owner; }")[0] == 0
    rest = [one for one in rules["nftables"] if "table" not in next(iter(one.values()))]
    code, _, said = nft.json_cmd({"nftables": rest})
    assert code == 0, said
    print("ready", flush=True)
    time.sleep(600)
"""


def _loader(mode: str, file: Path) -> subprocess.Popen[bytes]:
    words = ("ip", "netns", "exec", GATE, sys.executable, "-c", LOADER)
    made = subprocess.Popen((*words, str(ROOT / "agent"), str(file), mode), stdout=subprocess.PIPE)
    assert made.stdout is not None
    if made.stdout.readline() != b"ready\n":
        raise RuntimeError(f"the {mode} did not begin")
    return made


def table(bench: Bench) -> str:
    """Return the gateway's table as nft lists it, without its counts."""
    return bench.world.nft(GATE, "-s", "list", "ruleset")


def killed(times: int = 40) -> dict[str, Any]:
    """Kill who loads the rules, in the middle of it; then one whose table goes with it."""
    bench = Bench()
    file = Path("/run/rules.json")
    file.write_text(json.dumps(bench.world.policies[GATE]["nftables"]))
    before = table(bench)
    chance = random.Random(77)
    whole = 0
    with bench.probed(f"the agent killed {times} times while it loads") as seen:
        for _ in range(times):
            loader = _loader("agent", file)
            time.sleep(chance.uniform(0.0, 0.15))
            loader.kill()
            loader.wait()
            whole += table(bench) == before
    result: dict[str, Any] = {"times": times, "whole": whole, "killed": seen}
    listed = json.loads(bench.world.nft(GATE, "-j", "list", "tables"))["nftables"]
    result["tables"] = [one["table"] for one in listed if "table" in one]
    bench.world.flush(GATE)
    owner = _loader("owner", file)
    with bench.probed("a table with an owner, who lives", flow=False) as seen:
        time.sleep(0.5)
    result["owner lives"] = seen
    with bench.probed("control: its owner killed", flow=False) as seen:
        owner.kill()
        owner.wait()
        time.sleep(1)
    result["control"] = seen
    return result


class Loopback:
    """Fills the gateway's connection table by its own loopback, which the rules accept.

    The limit is the machine's, but each namespace's entries are counted against it by themselves.
    Allowed connections cannot fill it here: one hospital has 65,535 ports, the limit is higher.
    """

    PORTS = (7001, 7002)

    def __init__(self, bench: Bench) -> None:
        def made() -> socket.socket:
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

        self.asking, self.answering = inside(GATE, made), inside(GATE, made)
        self.asking.bind(("127.0.0.1", self.PORTS[0]))
        self.answering.bind(("0.0.0.0", self.PORTS[1]))
        for one in (self.asking, self.answering):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # nobody reads them
        self.bench = bench
        self.limit = self._number("nf_conntrack_max")

    def _number(self, name: str) -> int:
        path = Path("/proc/sys/net/netfilter") / name
        return int(inside(GATE, path.read_text))

    def count(self) -> int:
        return self._number("nf_conntrack_count")

    def loose(self) -> int:
        """Return how many entries would give way to a new one."""

        def read() -> int:
            with Path("/proc/thread-self/net/nf_conntrack").open("rb") as lines:
                return sum(b"[ASSURED]" not in line for line in lines)

        return inside(GATE, read)

    def full(self) -> bool:
        return self.count() >= self.limit - 1  # one may be on its way

    @staticmethod
    def place(number: int) -> str:
        return f"127.{1 + (number >> 16)}.{(number >> 8) & 255}.{number & 255}"

    def ask(self) -> None:
        for number in range(self.limit):
            with contextlib.suppress(PermissionError):  # full: the packet is dropped
                self.asking.sendto(b"", (self.place(number), self.PORTS[1]))

    def answer(self) -> None:
        """Answer from every place, which makes a connection of each."""
        for number in range(self.limit):
            own = struct.pack("I4s4s", 0, socket.inet_aton(self.place(number)), bytes(4))
            with contextlib.suppress(PermissionError):
                self.answering.sendmsg(
                    [b""], [(socket.IPPROTO_IP, 8, own)], 0, ("127.0.0.1", self.PORTS[0])
                )


def to_the_last(held: contextlib.ExitStack) -> dict[str, Any]:
    """Open right connections, and keep them, until five in a row are refused."""
    opened = refused = 0
    while refused < 5 and opened < 200:
        made = held.enter_context(tcp(HOSPITAL, 1))
        try:
            made.connect((SOURCE, PORT))
        except OSError:
            refused += 1
        else:
            opened, refused = opened + 1, 0
    return {"opened to the last": opened, "refused in a row": refused}


def conntrack() -> dict[str, Any]:
    """Fill the connection table, half open and then for good; let it drain again."""
    bench = Bench()
    bench.world.sysctl(GATE, "net.netfilter.nf_conntrack_udp_timeout", "600")
    filler = Loopback(bench)
    result: dict[str, Any] = {"limit": filler.limit, "delivers before": bench.delivers()}
    with bench.probed("conntrack filled, full, and draining") as seen:
        filler.ask()
        say(f"    {filler.count()} of {filler.limit}, half open")
        result["half open"] = filler.count() >= filler.limit * 0.999
        result["delivers, half open"] = bench.delivers(9, listening=False)
        # What lives for two seconds is kept, come what may. In rounds: some gave way meanwhile to
        # others, and the kernel sweeps out half-open ones when the table is nearly full.
        for _ in range(3):
            filler.answer()
            time.sleep(2.5)
            filler.ask()
            if filler.full() and not filler.loose():
                break
        bench.world.sysctl(GATE, "net.netfilter.nf_conntrack_udp_timeout_stream", "60")
        filler.ask()  # from now on it drains by itself, in a minute
        started = time.monotonic()
        result["loose"] = filler.loose()
        say(f"    {filler.count()} of {filler.limit}, {result['loose']} of them not for good")
        with contextlib.ExitStack() as held:
            result |= to_the_last(held)
            result["still full"] = filler.full()
        tries = 0
        while not bench.delivers(1, listening=False) and tries < 90:
            tries += 1
            time.sleep(1)
        result["drained"] = {
            "seconds": time.monotonic() - started, "count": filler.count(), "tries": tries
        }  # fmt: skip
        time.sleep(1)
    result["seen"] = seen
    result["delivers after"] = bench.delivers()
    result["open"] = bench.open_for("control: no rules")
    return result


def fill(folder: Path) -> None:
    """Leave no byte of room on a folder's disk."""
    with (folder / "filler").open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(4096))
        except OSError as full:
            if full.errno != errno.ENOSPC:
                raise


def disk() -> dict[str, Any]:
    """Change the rules while their disk, or the guard's, is full; roll back on a full disk."""
    bench = Bench()
    etc, state = Path("/run/etc"), Path("/run/state")
    for folder in (etc, state):
        folder.mkdir()
        sh("mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder))
    rules = json.dumps(bench.world.policies[GATE]["nftables"]).encode()
    opened = json.loads(rules)  # a change that can be told: one controller more
    ssh = next(one["add"]["set"] for one in opened["nftables"]
               if one.get("add", {}).get("set", {}).get("name") == "ssh_from")  # fmt: skip
    ssh["elem"] = [*ssh["elem"], "10.77.0.2"]
    changed = json.dumps(opened).encode()
    file, guard = etc / "nftables.json", guard_at(state)
    file.write_bytes(rules)
    file.chmod(0o600)
    before = table(bench)

    def seen_now() -> dict[str, Any]:
        live = table(bench)
        return {
            "file": {rules: "old", changed: "new"}.get(file.read_bytes(), "neither"),
            "loaded": "old" if live == before else "new" if "10.77.0.2" in live else "neither",
            "left": sorted({one.name for one in etc.iterdir()} - {"filler", file.name}),
            "pending": guard.pending.exists(),
            "kept": sorted(one.name for one in (state / "guard").iterdir()),
        }  # fmt: skip

    def attempt(call: Callable[[], object]) -> dict[str, Any]:
        refused = ""
        try:
            inside(GATE, call)
        except (GuardError, OSError) as bad:
            refused = f"{type(bad).__name__}: {bad}"
        return {"refused": refused} | seen_now()

    def change() -> object:
        return guard.apply([Wanted(file, changed, 0o600, "nftables")])

    result: dict[str, Any] = {}
    with bench.probed("disk full while rules are written") as seen:
        for name, folder in (("etc full", etc), ("state full", state)):
            (state / "guard").mkdir(exist_ok=True)
            fill(folder)
            result[name] = attempt(change)
            (folder / "filler").unlink()
        result["room"] = attempt(change)
        fill(etc)
        result["rolled back, etc full"] = attempt(guard.rollback)
        (etc / "filler").unlink()
        result["rolled back, room"] = attempt(guard.rollback)
    result["seen"] = seen
    result["open"] = bench.open_for("control: no rules")
    return result


if __name__ == "__main__":
    os.umask(0o077)
    main({"killed": killed, "conntrack": conntrack, "disk": disk}, 600)
