"""WireGuard on a line, both ends in namespaces: what is done to it, and what is seen.

The gateway's end is what systemd-networkd makes of the rendered files and the credential; the
peer's is made by hand, as a hospital would. Each scene prints one JSON object.

unshare --net --mount --fork --kill-child python3 tests/kernel/tunnelscenes.py SCENE
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from lineflow import Flow, Receiver, wait  # noqa: E402
from lineworld import INBOUND, SECOND, Line, Wire, inside, play, sh  # noqa: E402

import siteworld  # noqa: E402
from sekisho.host.line_request import tunnel_key  # noqa: E402
from sekisho.local import collect  # noqa: E402
from sekisho.network.networkd import FOLDER, TUNNEL_KEY, network_files  # noqa: E402
from sekisho.policy.host_policy import HostPolicy  # noqa: E402
from sekisho.probes.model import Run  # noqa: E402
from sekisho.probes.registry import registry  # noqa: E402

Seen = dict[str, Any]
HOSPITAL, UNIVERSITY = siteworld.INNER["hospital-a"], siteworld.INNER["university-b"]
NETWORKD = "/usr/lib/systemd/systemd-networkd"


class Gate:
    """The gateway's end: its key, its rendered files, and networkd in its namespace."""

    def __init__(self, line: Tunnel) -> None:
        self.name, self.policy = line.gate, line.policies[line.gate]
        self.cards = [str(one["interface"]) for one in self.policy["tunnels"]]
        self.log = line.folder / "networkd.log"
        self.key = line.folder / "gate" / TUNNEL_KEY.rpartition("/")[2]
        self.public = str(tunnel_key(self.key, name=self.name)["public"])
        self.process: subprocess.Popen[bytes] | None = None
        sh("mount", "-t", "tmpfs", "none", FOLDER)
        for path, text in network_files(HostPolicy.parse(self.policy)).items():
            if "wg-" in path:
                Path(path).write_text(text)
        # As systemd does for the unit: the credential is networkd's own to read, the file is not.
        self.given = Path("/run/credentials")
        self.given.mkdir(mode=0o755)
        shutil.copy(self.key, self.given / self.key.name)
        shutil.chown(self.given / self.key.name, "systemd-network")
        Path("/run/systemd").mkdir(mode=0o755, exist_ok=True)

    def start(self) -> None:
        """Start networkd, and wait until what it has to make is there."""
        self.process = subprocess.Popen(
            # /sys read-only: networkd then waits for no udev, as in a container.
            ["ip", "netns", "exec", self.name, "sh", "-c",
             f"mount -o remount,ro,bind /sys && exec {NETWORKD}"],
            env={**os.environ, "CREDENTIALS_DIRECTORY": str(self.given)},
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("ab"),
        )  # fmt: skip
        wait(self.there, 30, f"{self.name}: networkd made no tunnel with its route")

    def there(self) -> bool:
        routes = sh("ip", "-n", self.name, "route", "show", "proto", "static")
        return all(f"dev {card} " in routes for card in self.cards)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)

    def link(self, *words: str, card: int = 0) -> None:
        sh("ip", "-n", self.name, "link", words[0], self.cards[card], *words[1:])

    def wg(self, *words: str, card: int = 0) -> str:
        return sh("ip", "netns", "exec", self.name, "wg", words[0], self.cards[card], *words[1:])

    def audited(self) -> Seen:
        """Return whether the probe's facts of this namespace are the policy's."""
        raw = {
            label: inside(self.name, lambda it=it: collect.run(it))
            if isinstance(it, Run)
            else collect.read(it)
            for label, it in registry()["wireguard"].operations.items()
        }
        fact = registry()["wireguard"].parse(raw)
        return {what: fact[what] == self.policy["tunnel_peers"] for what in sorted(fact)}


class Tunnel(Line):
    """A line with WireGuard at both ends, keys of the scene's own."""

    def __init__(self, folder: Path, *, way: str = "in", second: bool = False) -> None:
        self.keys = {name: folder / f"{name}.key" for name in siteworld.TUNNEL_KEYS}
        public = {
            name: str(tunnel_key(path, name=name)["public"]) for name, path in self.keys.items()
        }
        edited = siteworld.tunnelled(public, second=second)
        super().__init__(folder, way=way, edited=edited)
        self.end = Gate(self)
        self.end.start()

    def far(self, name: str, ours: str, *, port: int = 51820) -> None:
        """Make a peer's own end: its address, its key, and the way to ours through the tunnel."""
        inner, gate = siteworld.INNER[name], self.end.policy["tunnels"][0]["local_address"]
        sh("ip", "-n", name, "addr", "add", f"{inner}/32", "dev", "lo")
        sh("ip", "-n", name, "link", "add", "wg0", "type", "wireguard")
        sh("ip", "netns", "exec", name, "wg", "set", "wg0", "listen-port", str(port),
           "private-key", str(self.keys[name]), "peer", self.end.public,
           "allowed-ips", f"{ours}/32", "endpoint", f"{gate}:{port}")  # fmt: skip
        sh("ip", "-n", name, "link", "set", "wg0", "mtu", "1420", "up")
        sh("ip", "-n", name, "route", "add", f"{ours}/32", "dev", "wg0", "src", inner)

    def drops(self) -> int:
        return self.counters(self.gate)["drop-forward"]

    def close(self) -> None:
        self.end.stop()


def rekey(who: str, key: Path) -> None:
    sh("ip", "netns", "exec", who, "wg", "set", "wg0", "private-key", str(key))


def lives(folder: Path) -> Seen:
    """Take the tunnel down, away, and its keys from it; count what is on the line all the while."""
    line = Tunnel(folder)
    gate = line.end
    line.far("hospital-a", INBOUND)
    flow, taken = Flow("hospital-a", INBOUND), Receiver("inbound-1", INBOUND)
    wire = Wire("line", "br0")
    seen: Seen = {"first after s": flow.back(), "delivery": flow.deliver(1_000_000, seconds=60)}
    seen["audited"] = gate.audited()
    gate.stop()
    seen["without networkd"] = flow.deliver(seconds=20)
    before = taken.bytes
    gate.link("set", "down")
    seen["down"] = flow.deliver()
    gate.link("delete")
    seen["gone"] = flow.deliver()
    seen["gone, audited"] = gate.audited()
    seen["bytes while away"] = taken.bytes - before
    gate.start()
    seen["back s"] = flow.back()
    other = folder / "other.key"
    tunnel_key(other, name="gate-in")
    before = taken.bytes
    gate.wg("set", "private-key", str(other))
    seen["our key wrong"] = flow.deliver()
    gate.wg("set", "private-key", str(gate.key))
    seen["our key right s"] = flow.back()
    rekey("hospital-a", other)
    seen["peer's key changed"] = flow.deliver()
    rekey("hospital-a", line.keys["hospital-a"])
    seen["peer's key back s"] = flow.back()
    known = str(gate.policy["tunnels"][0]["peer_key"])
    gate.wg("set", "peer", known, "allowed-ips", f"{HOSPITAL}/32,10.0.0.0/8")
    seen["wider, audited"] = gate.audited()
    gate.wg("set", "peer", known, "allowed-ips", f"{HOSPITAL}/32")
    seen["again, audited"] = gate.audited()
    seen["line"] = wire.stop()
    # The control: the hospital has no tunnel and no filter, and sends in clear.
    sh("ip", "-n", "hospital-a", "link", "delete", "wg0")
    wire, before, dropped = Wire("line", "br0"), taken.bytes, line.drops()
    seen["naked"] = flow.deliver(source=HOSPITAL)
    seen["naked dropped"] = line.drops() - dropped
    seen["bytes received in clear"] = taken.bytes - before
    seen["naked line"] = wire.stop()
    line.close()
    return seen


def outward(folder: Path) -> Seen:
    """Let our own gateway be the end that must not send in clear, whatever its routes say."""
    line = Tunnel(folder, way="out")
    gate = line.end
    line.far("university-b", "10.77.5.1")
    flow, taken = Flow("outbound-1", UNIVERSITY), Receiver("university-b", UNIVERSITY)
    wire = Wire("line", "br0")
    seen: Seen = {"first after s": flow.back(), "delivery": flow.deliver(1_000_000, seconds=60)}
    gate.stop()
    dropped = line.drops()
    gate.link("delete")
    # The route went with the tunnel: somebody gives it one over the card.
    card = gate.policy["tunnels"][0]["outside"]
    sh("ip", "-n", gate.name, "route", "add", f"{UNIVERSITY}/32", "via", "10.77.6.2", "dev", card)
    seen["over the card"] = flow.deliver()
    seen["drops"] = line.drops() - dropped
    seen["bytes"] = taken.bytes
    seen["line"] = wire.stop()
    # The control: with an accept before the rules the same packets do go in clear.
    line.nft(gate.name, "insert rule inet sekisho forward accept")
    wire = Wire("line", "br0")
    seen["without the filter"] = flow.deliver()
    seen["without the filter line"] = wire.stop()
    line.close()
    return seen


def second(folder: Path) -> Seen:
    """Let a second hospital send the first one's packets through its own, valid tunnel."""
    line = Tunnel(folder, second=True)
    gate = line.end
    line.far("hospital-z", INBOUND, port=51821)
    mine, theirs = Flow("hospital-z", INBOUND, 7602), Flow("hospital-z", INBOUND)
    own, taken = Receiver("inbound-1", INBOUND, 7602), Receiver("inbound-1", INBOUND)
    wire = Wire("line", "br0")
    seen: Seen = {"its own flow": mine.back() >= 0, "own bytes": own.bytes > 0}
    sh("ip", "-n", "hospital-z", "addr", "add", f"{HOSPITAL}/32", "dev", "lo")
    dropped = line.drops()
    seen["first one's port"] = theirs.deliver()
    seen["first one's port dropped"] = line.drops() - dropped
    seen["from its address"] = theirs.deliver(source=HOSPITAL)
    # The kernel's own list of addresses is widened by hand: the packet filter is left.
    index = next(n for n, one in enumerate(gate.policy["tunnels"]) if one["peer"] == "hospital-z")
    known = str(gate.policy["tunnels"][index]["peer_key"])
    gate.wg("set", "peer", known, "allowed-ips", f"{SECOND}/32,{HOSPITAL}/32,192.0.2.3/32",
            card=index)  # fmt: skip
    dropped = line.drops()
    seen["with wider addresses"] = theirs.deliver(source=HOSPITAL)
    seen["with wider addresses dropped"] = line.drops() - dropped
    seen["bytes of the first one's flow"] = taken.bytes
    seen["line"] = wire.stop()
    line.close()
    return seen


SCENES: dict[str, Callable[[Path], Seen]] = {"lives": lives, "outward": outward, "second": second}


if __name__ == "__main__":
    play(SCENES, "networkd.log")
