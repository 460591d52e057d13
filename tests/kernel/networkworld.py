"""Drift of a real kernel's network, noticed by the agent's part and put right; runs in private."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT.parent / "agent")]

from agentworld import Host, parsed  # noqa: E402 - path first
from sekisho.host.agent.loop import Loop  # noqa: E402 - path first
from sekisho.host.agent.parts.network import NetworkPart  # noqa: E402 - path first
from sekisho.host.kernel.netlink import KernelNetwork  # noqa: E402 - path first
from sekisho.network.drift import declared, off  # noqa: E402 - path first

CARD = {"mac": "52:54:00:77:00:13", "link": "management", "purpose": "management"}
POLICY = parsed(
    interfaces={
        "eth0": CARD | {"address": "10.77.0.13/24"},
        "eth1": CARD | {"address": "10.77.3.2/24"},
    },
    routes=[{"to": "10.9.0.0/16", "via": "10.77.3.1", "interface": "eth1"}],
    line_policies=["out 10.3.3.3/32 10.4.4.4/32 tcp 0 7600 esp tunnel 8"],
)
IPSEC = (
    "ip xfrm policy add dir out src 10.1.1.1/32 dst 10.2.2.2/32 proto tcp "
    "tmpl src 10.77.3.2 dst 10.77.3.1 proto esp mode tunnel reqid 7"
)
LINE = (
    "ip xfrm policy add dir out src 10.3.3.3/32 dst 10.4.4.4/32 proto tcp dport 7600 "
    "tmpl src 10.77.3.2 dst 10.77.3.1 proto esp mode tunnel reqid 8"
)
#: Name of a change → the command, and whether the agent puts it right.
CHANGES: dict[str, tuple[str, bool]] = {
    "route added": ("ip route add 10.8.0.0/16 via 10.77.3.1", True),
    "default route": ("ip route add default via 10.77.3.1", True),
    "route said to be the kernel's": ("ip route add 10.6.0.0/16 dev eth1 proto kernel", True),
    "route in another table": ("ip route add 10.5.0.0/16 via 10.77.3.1 table 77", True),
    "blackhole": ("ip route add blackhole 10.66.0.0/16", True),
    "any address is ours": ("ip route add local 10.44.0.0/16 dev lo", True),
    "route taken away": ("ip route del 10.9.0.0/16", True),
    "address added": ("ip addr add 10.55.5.5/24 dev eth1", True),
    "address taken away": ("ip addr del 10.77.3.2/24 dev eth1", True),
    "management address taken away": ("ip addr del 10.77.0.13/24 dev eth0", True),
    "rule": ("ip rule add from 10.1.1.1 fwmark 7 lookup 77 prio 5", True),
    "forwarding of a card": ("echo 1 > /proc/sys/net/ipv4/conf/eth1/forwarding", True),
    "route at management": ("ip route add 10.4.0.0/16 via 10.77.0.1", False),
    "address at management": ("ip addr add 10.77.0.99/24 dev eth0", False),
    "listening in": ("ip link set eth1 promisc on", False),
    "a new link": ("ip link add veth9 type veth peer name veth8", False),
    "ipsec policy": (IPSEC, False),
    "ipsec flushed": ("ip xfrm policy flush", False),
    "forwarding of all": ("sysctl -qw net.ipv4.ip_forward=1", False),
    "ipv6 forwarding": ("sysctl -qw net.ipv6.conf.all.forwarding=1", False),
    "interface down": ("ip link set eth1 down", False),
}


def run(command: str) -> None:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr}")


def build() -> None:
    run("ip link set lo up")
    # The far ends live in a namespace of their own: here they would be links nobody declares.
    run("mount -t tmpfs none /run && ip netns add far")
    for number, (name, one) in enumerate(POLICY.interfaces.items()):
        run(f"ip link add {name} type veth peer name far{number} netns far")
        run(f"ip -n far link set far{number} up")
        run(f"ip addr add {one.address} dev {name} && ip link set {name} up")
    run("ip route add 10.9.0.0/16 via 10.77.3.1")
    run("sysctl -qw net.ipv4.ip_forward=0")
    run(LINE)


class Watched:
    """The part in its loop, with a journal that notes when each event came."""

    def __init__(self) -> None:
        self.host = Host(Path(tempfile.mkdtemp()))
        self.failed: list[str] = []
        self.times: list[tuple[float, str, dict[str, Any]]] = []
        append = self.host.journal.append

        def noted(kind: str, data: dict[str, Any], *, durable: bool = False) -> int:
            self.times.append((time.monotonic(), kind, data))
            return append(kind, data, durable=durable)

        self.host.journal.append = noted  # type: ignore[method-assign]
        self.loop = Loop(lambda part, error: self.failed.append(f"{part}: {error!r}"))
        self.part = NetworkPart(self.host.book, self.host.paths, lambda: True)
        self.part.policy(POLICY)
        self.part.watch(self.loop)
        for seconds, look in self.part.looks():
            look()
            self.loop.every("network", seconds, look)
        self.part.check()
        self.turn(0.3)
        self.host.now += 100

    def turn(self, seconds: float) -> None:
        self.loop.after("test", seconds, self.loop.stop)
        self.loop.run()

    def change(self, command: str) -> dict[str, Any]:
        self.times.clear()
        started: list[float] = []

        def work() -> None:
            run(command)
            started.append(time.monotonic())

        thread = threading.Thread(target=work)
        thread.start()
        self.turn(0.9)
        thread.join()
        told = [(when, data) for when, kind, data in self.times if kind == "agent.detection"]
        return {
            "told": [data["off"] + data["in_passing"] for _, data in told],
            "ms": round((told[0][0] - started[0]) * 1000) if told else None,
            "left": left(),
        }


def left() -> list[str]:
    """Return what is off now, read without the part."""
    strange, missing = off(declared(POLICY), KernelNetwork().read())
    return [f"{one.kind} {one.text}" for one in [*strange, *missing]]


def drift() -> dict[str, Any]:
    build()
    result: dict[str, Any] = {"at first": left()}
    run(CHANGES["route added"][0])  # the control: nobody puts it right while nobody watches
    time.sleep(0.9)
    result["unwatched"] = left()
    run("ip route del 10.8.0.0/16")
    watched = Watched()
    result["quiet"] = [kind for _, kind, _ in watched.times]
    result["changes"] = {name: watched.change(command) for name, (command, _) in CHANGES.items()}
    result["in passing"] = watched.change("ip rule add prio 9 lookup 7; ip rule del prio 9")["told"]
    result["burst"] = watched.change(
        "for n in $(seq 200); do echo route add 10.200.$n.0/24 dev eth0; "
        "echo route del 10.200.$n.0/24; done | ip -batch -"
    )["told"]
    result["failed"] = watched.failed
    before = time.process_time()
    watched.turn(10.0)
    result["idle share of a core"] = (time.process_time() - before) / 10.0
    return result


if __name__ == "__main__":
    json.dump(drift(), sys.stdout)
