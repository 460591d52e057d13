"""What ten thousand peers cost: requests a second through the compiled rules. Run by hand.

    .venv/bin/python tests/bench/bench_nftables.py [PEERS]

A client pushes over the one-way hop in namespaces of its own (needs root): a request is one
connection, one short push, and its acknowledged end. Rules for one peer and for PEERS peers are
loaded in turn, so that both share the machine's moods; the ratio of the medians is the result.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "kernel"), str(ROOT / "agent")]

from flowworld import PORT, inside, sh, tcp  # noqa: E402

from sekisho.nft.filter import compile_ruleset  # noqa: E402
from sekisho.policy.host_policy import HostPolicy  # noqa: E402
from siteworld import policy  # noqa: E402

ROUNDS, SECONDS = 7, 1.0
CLIENT, SERVER = "10.77.2.1", "10.77.2.2"
LEAST = 0.9  # of the rate with one peer


def rules(peers: int) -> dict[str, Any]:
    """Return inbound's rules with the client among ``peers`` peers."""
    ours = copy.deepcopy(policy("inbound-1"))
    flow = next(one for one in ours["flows"] if one["direction"] == "in")
    flow["peer_address"] = CLIENT
    for number in range(peers - 1):
        address = f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"
        ours["flows"].append(flow | {"name": f"peer-{number}", "peer_address": address})
    return compile_ruleset(HostPolicy.parse(ours))


def load(document: dict[str, Any]) -> float:
    """Load rules on the server in one transaction; return the seconds it took."""
    started = time.perf_counter()
    sh("ip", "netns", "exec", "server", "nft", "-j", "-f", "-", stdin=json.dumps(document))
    return time.perf_counter() - started


def serve(listener: socket.socket) -> None:
    while True:
        try:
            made, _ = listener.accept()
        except OSError:
            return
        with made:
            while made.recv(4096):
                pass


def requests(seconds: float) -> float:
    """Return requests a second over ``seconds``."""
    count, end = 0, time.perf_counter() + seconds
    started = time.perf_counter()
    while time.perf_counter() < end:
        with inside("client", lambda: socket.socket()) as made:  # noqa: PLW0108
            made.settimeout(2)
            made.connect((SERVER, PORT))
            made.sendall(b"x" * 200)
            made.shutdown(socket.SHUT_WR)
            made.recv(1)  # the receiver's end: a bare FIN
        count += 1
    return count / (time.perf_counter() - started)


def main(peers: int) -> dict[str, Any]:
    sh("mount", "-t", "tmpfs", "none", "/run")
    for name in ("client", "server"):
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
    sh("ip", "-n", "client", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1",
       "netns", "server")  # fmt: skip
    for name, address in (("client", CLIENT), ("server", SERVER)):
        sh("ip", "-n", name, "address", "add", f"{address}/29", "dev", "eth1")
        sh("ip", "-n", name, "link", "set", "eth1", "up")
    for name in ("client", "server"):
        inside(
            name, lambda: Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("2000 65000")
        )
        inside(name, lambda: Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("1"))
    listener = tcp("server", 3600)
    listener.bind((SERVER, PORT))
    listener.listen(128)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    documents = {1: rules(1), peers: rules(peers)}
    rates: dict[int, list[float]] = {1: [], peers: []}
    loads: dict[int, list[float]] = {1: [], peers: []}
    for turn in range(ROUNDS):
        order = (1, peers) if turn % 2 == 0 else (peers, 1)
        for count in order:
            loads[count].append(load(documents[count]))
            requests(0.1)
            rates[count].append(requests(SECONDS))
    one, many = statistics.median(rates[1]), statistics.median(rates[peers])
    return {
        "peers": peers,
        "requests a second, one peer": round(one),
        "requests a second, all peers": round(many),
        "ratio": round(many / one, 3),
        "load milliseconds, one peer": round(1000 * statistics.median(loads[1])),
        "load milliseconds, all peers": round(1000 * statistics.median(loads[peers])),
    }


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    if os.environ.get("SEKISHO_BENCH_INSIDE"):
        json.dump(main(wanted), sys.stdout)
        sys.stdout.write("\n")
        sys.stdout.flush()
        os._exit(0)  # the server's thread still waits
    # Ten thousand peers are one netlink message of megabytes: only the real root may force the
    # socket buffer that takes it.
    if os.geteuid() != 0:
        sys.exit("bench_nftables: needs root (it works in namespaces of its own)")
    argv = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
            sys.executable, __file__, str(wanted))  # fmt: skip
    done = subprocess.run(
        argv, env=os.environ | {"SEKISHO_BENCH_INSIDE": "1"}, stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout)
    for key, value in found.items():
        sys.stdout.write(f"{key:<32} {value}\n")
    sys.exit(0 if found["ratio"] >= LEAST else 1)
