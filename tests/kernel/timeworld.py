"""No wrong packet at any time: boot, reloads, cards renamed and plugged in, links that flap.

Runs in private (see `test_time_kernel`): prints one JSON object, and on stderr how far it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests"), str(ROOT / "agent")]

from flowworld import inside, sh  # noqa: E402 - path first
from timebench import (  # noqa: E402 - path first
    GATE,
    HOSPITAL,
    INBOUND,
    SOURCE,
    Bench,
    in_gate,
    ip4,
    link,
    udp,
)

from sekisho.host.guard.guard import Done, Guard, run_command  # noqa: E402 - path first
from sekisho.host.guard.request import Wanted  # noqa: E402 - path first
from sekisho.host.kernel.nft import Nft  # noqa: E402 - path first

UNITS = ROOT / "hardening/systemd"
RULES, NETWORK = "sekisho-nftables.service", "systemd-networkd.service"
LINKS = (("eth1", "10.77.1.1/29"), ("eth2", "10.77.2.1/29"))


def words(unit: str, key: str) -> list[str]:
    """Return what a unit file of ours says under ``key``."""
    text = (UNITS / unit).read_text(encoding="utf-8")
    return " ".join(re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)).split()


def order() -> list[str]:
    """Return the two units in the order, and only in the order, that their files impose."""
    first = NETWORK in words(RULES, "Before") and RULES in words("10-sekisho-rules-first.conf",
                                                                 "After")  # fmt: skip
    return [RULES, NETWORK] if first else [NETWORK, RULES]


def start(units: list[str], file: Path, wait_s: float = 0.4) -> list[str]:
    """Start units one after another, as systemd would; what requires a failed one is not started.

    The rules' unit runs its own command line. The network's is stood in for by what it does.
    """
    failed: list[str] = []
    done = []
    requires = {NETWORK: words("10-sekisho-rules-first.conf", "Requires")}
    for unit in units:
        if set(requires.get(unit, ())) & set(failed):
            continue
        if unit == RULES:
            argv = words(RULES, "ExecStart")
            argv[argv.index("/etc/sekisho/nftables.json")] = str(file)
            if in_gate(argv).returncode:
                failed.append(unit)
                continue
        else:
            for interface, address in LINKS:
                sh("ip", "-n", GATE, "addr", "add", address, "dev", interface)
                link(GATE, "set", interface, "up")
        done.append(unit)
        time.sleep(wait_s)
    return done


def off(bench: Bench) -> None:
    """Make the gateway what it is before a boot: no rules, no address, no link."""
    bench.world.flush(GATE)
    for interface, _ in LINKS:
        link(GATE, "set", interface, "down")
        sh("ip", "-n", GATE, "-4", "addr", "flush", "dev", interface)


def boot() -> dict[str, Any]:
    """Boot in the units' order; with rules that do not load; and, as a control, network first."""
    bench = Bench()
    good, bad = Path("/run/rules.json"), Path("/run/broken.json")
    rules = bench.world.policies[GATE]["nftables"]
    good.write_text(json.dumps(rules))
    # Whole JSON, and a last rule that the kernel cannot take: the transaction fails at its end.
    broken = json.loads(json.dumps(rules))
    broken["nftables"][-1]["add"]["rule"]["expr"][0] = {"counter": "no-such-counter"}
    bad.write_text(json.dumps(broken))
    result: dict[str, Any] = {"order": order()}
    off(bench)
    with bench.probed("boot, in the units' order", flow=False) as seen:
        time.sleep(0.4)
        result["started"] = start(order(), good)
        time.sleep(1)
    result |= {"boot": seen, "delivers": bench.delivers()}
    off(bench)
    with bench.probed("boot, the rules do not load", flow=False) as seen:
        result["started without rules"] = start(order(), bad)
        time.sleep(1)
    listed = json.loads(sh("ip", "-n", GATE, "-j", "link"))
    result |= {
        "no rules": seen,
        "links up": [one["ifname"] for one in listed if "UP" in one["flags"]],
    }
    off(bench)
    with bench.probed("control: the network first", flow=False) as seen:
        start([NETWORK, RULES], good, 0.8)
    result["control"] = seen
    with bench.probed("and after its rules", flow=False) as seen:
        time.sleep(0.6)
    result["after the control"] = seen
    return result


def guard_at(folder: Path) -> Guard:
    """Return the guard as it runs, but for systemd, which is not here."""

    def run(argv: Any, stdin: bytes = b"") -> Done:
        return run_command(argv, stdin) if argv[0] == "nft" else Done(0, b"", b"")

    return Guard(state=folder / "guard", run=run, usb=folder)


def _by_guard(rules: bytes, count: int, *, confirm: bool) -> None:
    """Apply rules anew; the text differs each time, so that the guard has something to load."""
    guard = guard_at(Path("/run/guarded"))
    for turn in range(count):
        file = Path("/run/guarded/nftables.json")
        text = rules + b"\n" * (turn % 2 + (1 if confirm else 3))
        done = guard.apply([Wanted(file, text, 0o600, "nftables")])
        assert done["changed"]
        if confirm:
            guard.confirm(done["token"])
        else:
            with contextlib.redirect_stderr(io.StringIO()):  # it tells each time
                assert guard.rollback(done["token"])["rolled_back"]
        if turn % 20 == 19:
            sys.stderr.write(f"    {turn + 1} of {count}\n")


def reload(count: int = 200) -> dict[str, Any]:
    """Load the whole table ``count`` times by the guard; fewer by all who load it."""
    bench = Bench()
    rules = bench.world.policies[GATE]["nftables"]
    text = json.dumps(rules).encode()
    file = Path("/run/rules.json")
    file.write_bytes(text)
    result: dict[str, Any] = {"count": count, "fewer": count // 4}
    with bench.probed("nothing is loaded") as seen:
        time.sleep(4)
    result["none"] = seen

    def by_unit(turns: int) -> None:
        argv = words(RULES, "ExecStart")
        argv[argv.index("/etc/sekisho/nftables.json")] = str(file)
        for _ in range(turns):
            done = subprocess.run(argv, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr

    def by_agent(turns: int) -> None:
        nft = Nft()
        for _ in range(turns):
            nft.load(rules)

    fewer = count // 4
    for name, what, work in (
        ("guard", f"{count} reloads by the guard", lambda: _by_guard(text, count, confirm=True)),
        ("unit", f"{fewer} by the unit", lambda: by_unit(fewer)),
        ("agent", f"{fewer} by the agent", lambda: by_agent(fewer)),
        ("rolled back", f"{fewer} roll-backs", lambda: _by_guard(text, fewer, confirm=False)),
    ):
        with bench.probed(what) as seen:
            inside(GATE, work)
        result[name] = seen
    with bench.probed("control: 20 reloads in two transactions") as seen:
        for _ in range(20):
            bench.world.flush(GATE)
            bench.world.load(GATE)
    result["two transactions"] = seen
    result["open"] = bench.open_for("control: no rules")
    return result


def _rename(*pairs: tuple[str, str]) -> None:
    for old, new in pairs:
        link(GATE, "set", old, "name", new)


def _hotplug(bench: Bench, name: str) -> None:
    """Plug a new card into the gateway, on a second line to the hospital."""
    link(GATE, "add", name, "type", "veth", "peer", "name", "wan9", "netns", HOSPITAL)
    ends = ((GATE, name, "10.77.9.1/29"), (HOSPITAL, "wan9", "10.77.9.2/29"))
    for host, interface, address in ends:
        sh("ip", "-n", host, "addr", "add", address, "dev", interface)
        link(host, "set", interface, "up")
    bench.more = [("udp", [ip4(SOURCE, "10.77.9.2", 17, udp(53, b"patient 4711"))])]


def card() -> dict[str, Any]:
    """Rename the gateway's cards while they are up, plug in a new one, and one of a known name."""
    bench = Bench()
    result: dict[str, Any] = {}
    for name, what, there, back in (
        ("inner", "the inner card renamed", [("eth2", "ren0")], [("ren0", "eth2")]),
        ("outer", "the outer card renamed", [("eth1", "ren0")], [("ren0", "eth1")]),
        (
            "swapped",
            "the two cards' names swapped",
            [("eth1", "ren0"), ("eth2", "eth1"), ("ren0", "eth2")],
            [("eth1", "ren0"), ("eth2", "eth1"), ("ren0", "eth2")],
        ),
    ):
        with bench.probed(what) as seen:
            _rename(*there)
            seen["delivers meanwhile"] = (
                bench.delivers(1, listening=False) if name == "swapped" else None
            )
            time.sleep(1)
            _rename(*back)
            time.sleep(1)
        result[name] = seen
    _hotplug(bench, "eth9")
    with bench.probed("a new card") as seen:
        time.sleep(1)
    result["new"] = seen
    # The same card in a declared one's place and name, as if that had been pulled out.
    with bench.probed("a new card under a declared name", flow=False) as seen:
        _rename(("eth1", "old0"), ("eth9", "eth1"))
        link(GATE, "set", "old0", "down")
        time.sleep(1)
    result["taken"] = seen
    _rename(("eth1", "eth9"), ("old0", "eth1"))
    link(GATE, "set", "eth1", "up")
    result["delivers"] = bench.delivers()
    _rename(("eth2", "ren0"), ("eth1", "ren1"))
    result["control"] = bench.open_for("control: renamed and new cards, no rules")
    return result


def flap(times: int = 20) -> dict[str, Any]:
    """Let each of the gateway's links go down and up again, by itself and by its far end."""
    bench = Bench()
    result: dict[str, Any] = {"times": times}
    sides = {"outer": (GATE, "eth1"), "inner": (GATE, "eth2"), "far": (INBOUND, bench.own)}

    def once(name: str) -> None:
        host, interface = sides[name]
        link(host, "set", interface, "down")
        time.sleep(0.05)
        link(host, "set", interface, "up")
        if host == INBOUND:  # its routes went with the link; systemd-networkd adds them again
            for route in bench.world.policies[INBOUND]["routes"]:
                sh("ip", "-n", host, "route", "replace", route["to"], "via", route["via"])
        time.sleep(0.3)

    for name in sides:
        with bench.probed(f"{times} flaps, {name} link") as seen:
            for _ in range(times):
                once(name)
            time.sleep(2)
        result[name] = seen
    result["delivers"] = bench.delivers()
    bench.world.flush(GATE)
    with bench.probed("control: flaps without rules", flow=False) as seen:
        for _ in range(5):
            once("outer")
    result["control"] = seen
    return result


def main(scenes: dict[str, Any], limit_s: int) -> None:
    """Run one scene; one that does not end, ends: the namespace's init takes all with it."""

    def late(*_: object) -> None:
        raise TimeoutError(f"{sys.argv[1]} took longer than {limit_s} s")

    # A handler, because the first process of a pid namespace ignores signals it has none for.
    signal.signal(signal.SIGALRM, late)
    signal.alarm(limit_s)
    json.dump(scenes[sys.argv[1]](), sys.stdout)


if __name__ == "__main__":
    main({"boot": boot, "reload": reload, "card": card, "flap": flap}, 600)
