"""Real deliveries over a bad wire, with plain replies and without: what normalising costs.

    .venv/bin/python tests/kernel/lossworld.py [--rates]

Hospital, gateway and inbound are namespaces with the compiled rules; a share of all segments, both
ways, is lost where the gateway takes them in. Without ``--rates``: each habit of TCP a delivery
needs, once. With it: deliveries in turn with each set of rules.
"""

# ruff: noqa: T201
# run by hand it prints its table

from __future__ import annotations

import argparse
import copy
import json
import os
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "agent"), str(ROOT / "tests/kernel")]

from covertworld import INBOUND, without_plain  # noqa: E402 - path first
from flowworld import PORT, World, inside, listen, push, sh, tcp  # noqa: E402 - path first
from ownspace import end_with_parent, run_apart  # noqa: E402 - path first

RULED = ("gate-in", "inbound-1")
Edit = Callable[[Mapping[str, Any]], dict[str, Any]]


def _unchanged(document: Mapping[str, Any]) -> dict[str, Any]:
    return dict(document)


def _without(option: str) -> Edit:
    """Return the edit that takes a TCP option out of what opens a connection."""

    def edit(document: Mapping[str, Any]) -> dict[str, Any]:
        made = copy.deepcopy(dict(document))
        syn = {"match": {"op": "in", "left": {"payload": {"protocol": "tcp", "field": "flags"}},
                         "right": "syn"}}  # fmt: skip
        rule = {"family": "inet", "table": "sekisho", "chain": "forward",
                "expr": [syn, {"reset": {"tcp option": {"name": option}}}]}  # fmt: skip
        first = next(place for place, one in enumerate(made["nftables"])
                     if "rule" in one.get("add", {}))  # fmt: skip
        made["nftables"].insert(first, {"add": {"rule": rule}})
        return made

    return edit


EDITS: dict[str, Edit] = {
    "before": without_plain, "plain": _unchanged, "no timestamps": _without("timestamp"),
    "no SACK": _without("sack-perm"),
}  # fmt: skip


class LossyWorld(World):
    """The way in, where a share of all segments is lost before the gateway knows of them."""

    def __init__(self, *, loss: float = 0.0) -> None:
        super().__init__(RULED)
        # A lost packet is to be one segment, not a stretch that offload would join.
        for name in ("hospital-a", *RULED):
            for link in json.loads(sh("ip", "-n", name, "-j", "link", "show", "type", "veth")):
                inside(name, lambda link=link: _no_offload(link["ifname"]))
        some = f"meta l4proto tcp numgen random mod 1000 < {round(loss * 1000)} drop"
        hook = "type filter hook prerouting priority -400"
        if loss:
            table = f"table ip wire {{ chain lost {{\n{hook}\n{some}\n}}\n}}\n"
            self.nft("gate-in", "-f", "-", stdin=table)

    def rules(self, edit: str) -> None:
        """Load both machines' rules, as an edit makes them."""
        for name in RULED:
            made = EDITS[edit](self.policies[name]["nftables"])
            self.nft(name, "-j", "-f", "-", stdin=json.dumps(made))


def _no_offload(interface: str) -> None:
    """Turn off checksum, segmentation and receive offload (SIOCETHTOOL; ethtool may be missing)."""
    import fcntl  # noqa: PLC0415 - one call
    from ctypes import addressof, create_string_buffer  # noqa: PLC0415

    with socket.socket() as made:
        for command in (0x17, 0x1F, 0x24, 0x2C):  # STXCSUM, STSO, SGSO, SGRO of ethtool.h
            value = create_string_buffer(struct.pack("II", command, 0), 8)
            asked = struct.pack("16sP", interface.encode(), addressof(value))
            fcntl.ioctl(made, 0x8946, asked + bytes(16))


def told(name: str) -> dict[str, int]:
    """Return a machine's counters of TCP."""
    found: dict[str, int] = {}
    text = inside(name, lambda: Path("/proc/thread-self/net/netstat").read_text("ascii")
                  + Path("/proc/thread-self/net/snmp").read_text("ascii"))  # fmt: skip
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        found |= dict(zip(names.split()[1:], map(int, values.split()[1:]), strict=True))
    return found


def rates(*, loss: float, size: int, rounds: int,
          edits: Sequence[str] = tuple(EDITS)) -> dict[str, Any]:  # fmt: skip
    """Return what deliveries took with each set of rules, in turn."""
    world = LossyWorld(loss=loss)
    for name in ("hospital-a", *RULED):  # no delivery may learn from the one before
        world.sysctl(name, "net.ipv4.tcp_no_metrics_save", "1")
    found: dict[str, list[Any]] = {name: [] for name in edits}
    for turn in range(rounds):
        order = edits if turn % 2 == 0 else tuple(reversed(edits))
        for edit in order:
            world.rules(edit)
            base = told("hospital-a")
            done = push("hospital-a", "inbound-1", INBOUND, size)
            if not done["equal"]:
                raise RuntimeError(f"{edit}: the delivery did not arrive whole: {done}")
            now = told("hospital-a")
            found[edit].append((round(size / done["seconds"] / 1e6, 2),
                                now["RetransSegs"] - base["RetransSegs"],
                                now["TCPTimeouts"] - base["TCPTimeouts"]))  # fmt: skip
            print(loss, edit, found[edit][-1], file=sys.stderr, flush=True)
    return {edit: {"MB/s": statistics.median(one[0] for one in runs), "runs": runs}
            for edit, runs in found.items()}  # fmt: skip


class Pair:
    """An open connection of the hospital to inbound."""

    def __init__(self, server: socket.socket) -> None:
        self.client = tcp("hospital-a", 30)
        self.client.connect((INBOUND, PORT))
        self.made, _ = server.accept()
        self.made.settimeout(30)

    def pushes(self, size: int) -> float:
        """Return the seconds a push of ``size`` bytes took; raise when it did not arrive whole."""
        data = os.urandom(size)
        started = time.monotonic()
        sender = threading.Thread(target=self.client.sendall, args=(data,))
        sender.start()
        got = bytearray()
        while len(got) < size and (piece := self.made.recv(1 << 16)):
            got += piece
        sender.join()
        if bytes(got) != data:
            raise RuntimeError("the push did not arrive whole")
        return round(time.monotonic() - started, 2)

    def info(self) -> tuple[int, int]:
        """Return the options the sender's kernel uses (TCPI_OPT_…) and its segment size."""
        data = self.client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return data[5], struct.unpack_from("I", data, 16)[0]

    def close(self) -> None:
        self.client.close()
        self.made.close()


def _reloads(world: LossyWorld, server: socket.socket) -> dict[str, Any]:
    """Return the seconds a push takes on a connection that was open when the rules changed."""
    found: dict[str, Any] = {}
    for first, then in (("before", "plain"), ("plain", "plain"), ("plain", "before")):
        world.rules(first)
        pair = Pair(server)
        pair.pushes(1 << 20)
        world.rules(then)
        found[f"open from {first} to {then}"] = pair.pushes(4 << 20)
        pair.close()
    return found


def _counted(name: str, wanted: int, base: int | None = None, seconds: float = 60) -> int:
    """Return how far the sender's kernel counter rose: ``wanted``, or less after ``seconds``."""
    if base is None:
        base = told("hospital-a")[name]
    end = time.monotonic() + seconds
    while (rose := told("hospital-a")[name] - base) < wanted and time.monotonic() < end:
        time.sleep(0.2)
    return rose


def _idle(server: socket.socket) -> dict[str, Any]:
    """Return what came of keepalive, of a window that was shut, and of an orderly end."""
    pair = Pair(server)
    found: dict[str, Any] = dict(zip(("options", "segment"), pair.info(), strict=True))
    for end in (pair.client, pair.made):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            end.setsockopt(socket.IPPROTO_TCP, name, 1)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    found["keepalives asked"] = _counted("TCPKeepAlive", 3)
    found["after keepalives"] = pair.pushes(1 << 20)
    sender = threading.Thread(target=pair.client.sendall, args=(bytes(16 << 20),))
    base = told("hospital-a")["TCPWinProbe"]
    sender.start()  # nobody reads: the receiver's window shuts
    found["probes of a shut window"] = _counted("TCPWinProbe", 1, base)
    got = 0
    while got < 16 << 20:
        got += len(pair.made.recv(1 << 20))
    sender.join()
    found["through a window that was shut"] = got
    pair.client.shutdown(socket.SHUT_WR)
    found["end of what was pushed"] = pair.made.recv(1).hex()
    pair.made.close()
    found["end of the answer"] = pair.client.recv(1).hex()
    pair.close()
    return found


def _reset(server: socket.socket) -> str:
    pair = Pair(server)
    pair.made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.made.close()
    try:
        return pair.client.recv(1).hex()
    except ConnectionResetError:
        return "seen"
    finally:
        pair.close()


def _shut_port() -> str:
    with tcp("hospital-a") as one:
        try:
            one.connect((INBOUND, PORT))
        except ConnectionRefusedError:
            return "refused"
    return "open"


def habits() -> dict[str, Any]:
    """Try what a delivery needs of TCP, one after the other, over a sound wire."""
    world = LossyWorld()
    server = listen("inbound-1", INBOUND, PORT)
    found = _reloads(world, server)
    world.rules("plain")
    found |= _idle(server)
    found["reset by the receiver"] = _reset(server)
    inner = next(name for name, one in world.policies["inbound-1"]["interfaces"].items()
                 if one["address"].startswith(INBOUND))  # fmt: skip
    sh("ip", "-n", "inbound-1", "link", "set", inner, "mtu", "1300")
    for name in ("hospital-a", "inbound-1"):
        world.sysctl(name, "net.ipv4.tcp_ecn", "1")
    pair = Pair(server)
    found["options where ECN is asked"], found["segment where 1300 is most"] = pair.info()
    found["push where ECN is asked"] = pair.pushes(1 << 20)
    pair.close()
    server.close()
    found["a shut port"] = _shut_port()
    return found


def opens(loss: float, count: int) -> dict[str, Any]:
    """Open connections over a wire that loses much: SYN, its answer and the FIN come again."""
    world = LossyWorld(loss=loss)
    server = listen("inbound-1", INBOUND, PORT)
    world.rules("plain")
    done = 0

    def serve() -> None:
        for _ in range(count):
            made, _ = server.accept()
            with made:
                made.settimeout(60)
                while made.recv(1 << 16):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    server.settimeout(120)
    for _ in range(count):
        with tcp("hospital-a", 60) as client:
            client.connect((INBOUND, PORT))
            client.sendall(b"x" * 4000)
            client.shutdown(socket.SHUT_WR)
            done += client.recv(1) == b""
    return {"opened, pushed and closed": done, "of": count}


def private(what: str, *words: str) -> Any:
    """Run a scene in namespaces of its own."""
    return json.loads(run_apart(__file__, ("--inside", what, *words), quiet=what != "rates"))


SCENES: dict[str, Callable[..., Any]] = {
    "habits": habits,
    "opens": lambda: opens(0.2, 20),
    "delivery": lambda: rates(loss=0.01, size=16 << 20, rounds=1, edits=("plain",)),
    "rates": lambda loss, size, rounds: rates(
        loss=float(loss), size=int(size) << 20, rounds=int(rounds)),
}  # fmt: skip


def main() -> int:
    """Print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rates", nargs=3, metavar=("LOSS", "MIB", "ROUNDS"))
    parser.add_argument("--inside", nargs="+")
    options = parser.parse_args()
    if options.inside:
        end_with_parent()
        json.dump(SCENES[options.inside[0]](*options.inside[1:]), sys.stdout)
        return 0
    if options.rates:
        print(json.dumps(private("rates", *options.rates), indent=1))
        return 0
    print(json.dumps(private("habits") | private("opens"), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
