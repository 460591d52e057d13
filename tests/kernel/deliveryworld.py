"""The prover's deliverability against a kernel: what it says arrives, and what does, change by change.

Gate-in, inbound, core and the monitor of the lab as namespaces with the compiled rules; the facts
are what the probes' own commands print there. Started in private by the test, as `flowworld` is.
"""

# ruff: noqa: E501
# commands are shown whole

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernel"), str(ROOT.parent / "agent")]

from flowworld import World, checksum, inside, sh  # noqa: E402 - path first

import siteworld  # noqa: E402
from sekisho.probes.model import Run  # noqa: E402
from sekisho.probes.registry import registry  # noqa: E402
from sekisho.prover.deliver import deliverable  # noqa: E402
from sekisho.prover.hostfacts import read_net  # noqa: E402
from sekisho.prover.network import Network  # noqa: E402
from sekisho.prover.prove import network_of  # noqa: E402
from sekisho.prover.relations import OPENS, Leg, relations  # noqa: E402

HOSTS = ("gate-in", "inbound-1", "core-1", "monitor-1")
SITE = siteworld.lab_site()
CONTROLLER = "10.77.0.1"
WAIT = float(os.environ.get("SEKISHO_WAIT", "0.8"))
PROBES = {"links": None, "routes": None, "lines": ("policies", "associations")}
SWITCHES = ("rp_filter", "arp_ignore", "arp_filter", "arp_announce", "accept_local", "disable_xfrm", "disable_policy",
            "forwarding", "ignore_routes_with_linkdown")  # fmt: skip
ARP = "table arp x {{ chain c {{ type filter hook {} priority 0; policy accept; {}\n}}\n}}"
BLOCK = "xfrm policy add dir in src 10.77.3.1/32 dst 10.77.3.2/32 action block"
TUNNEL = ("xfrm policy add dir out src 10.77.3.1/32 dst 10.77.3.2/32 tmpl src 10.77.3.1 dst 10.77.3.2 "
          "proto esp mode tunnel reqid 5")  # fmt: skip

#: Change → commands (host: words of ip, or nft TEXT, or NAME=VALUE of net.ipv4.conf), each undone.
CHANGES: dict[str, list[str]] = {
    "nothing": [],
    "no route back": ["inbound-1: route del 10.77.1.0/29"],
    "a wrong next hop": ["inbound-1: route replace 10.77.1.0/29 via 10.77.2.6"],
    "a default route by the same hop": [
        "inbound-1: route del 10.77.1.0/29", "inbound-1: route add default via 10.77.2.1"],
    "no forwarding there": ["gate-in: eth1.forwarding=0"],
    "no forwarding back": ["gate-in: eth2.forwarding=0"],
    "no forwarding at management": ["gate-in: eth0.forwarding=0"],
    "core's address gone": ["core-1: addr del 10.77.3.2/29 dev eth1"],
    "inbound's address gone": ["inbound-1: addr del 10.77.2.2/29 dev eth1"],
    "the gate's outer address gone": ["gate-in: addr del 10.77.1.1/29 dev eth1"],
    "the gate's inner address gone": ["gate-in: addr del 10.77.2.1/29 dev eth2"],
    "management address gone": ["core-1: addr del 10.77.0.13/24 dev eth0"],
    "one more address": ["inbound-1: addr add 10.77.2.3/29 dev eth1"],
    "a strict source check, and the way back elsewhere": ["gate-in: route add 10.77.1.2 dev eth0"],
    "a loose one, and the way back elsewhere": [
        "gate-in: route add 10.77.1.2 dev eth0", "gate-in: all.rp_filter=2"],
    "no source check, and the way back elsewhere": [
        "gate-in: route add 10.77.1.2 dev eth0", "gate-in: all.rp_filter=0", "gate-in: eth1.rp_filter=0"],
    "a strict source check at management": ["core-1: route add 10.77.0.16 dev eth1"],
    "a rule that diverts": [
        "gate-in: rule add from 10.77.1.2 lookup 77 prio 5", "gate-in: route add default dev eth0 table 77"],
    "a rule that leads the same way": [
        "gate-in: rule add from 10.77.1.2 lookup 77 prio 5", "gate-in: route add 10.77.2.2 dev eth2 table 77"],
    "a rule by port": ["inbound-1: rule add ipproto tcp dport 7601 prio 5 blackhole"],
    "a rule by the answer's port": ["core-1: rule add ipproto tcp sport 7601 prio 5 unreachable"],
    "a rule by the interface": ["gate-in: rule add iif eth1 prio 5 prohibit"],
    "a rule of another interface": ["gate-in: rule add iif eth0 prio 5 prohibit"],
    "a rule of all others": ["core-1: rule add not from 10.77.3.0/24 prio 5 unreachable"],
    "a rule of nobody": ["core-1: rule add from 10.9.9.9 prio 5 prohibit"],
    "a rule that leaves out the default": ["gate-in: rule add lookup main suppress_prefixlength 0 prio 5"],
    "a blackhole": ["gate-in: route add blackhole 10.77.2.2"],
    "an unreachable network": ["inbound-1: route add unreachable 10.77.3.2"],
    "a throw": ["gate-in: route add throw 10.77.2.2"],
    "a longer prefix elsewhere": ["inbound-1: route add 10.77.3.2 dev eth1"],
    "a worse route elsewhere": ["inbound-1: route add 10.77.3.0/29 dev eth1 metric 50"],
    "another source": ["inbound-1: route replace 10.77.3.0/29 dev eth2 src 10.77.2.2"],
    "an interface down": ["core-1: link set eth1 down"],
    "the other end down": ["inbound-1: link set eth2 down"],
    "ARP never answered": ["core-1: eth1.arp_ignore=8"],
    "an address on another card": [
        "core-1: addr del 10.77.3.2/29 dev eth1", "core-1: addr add 10.77.3.2/32 dev eth2",
        "core-1: route add 10.77.3.0/29 dev eth1"],
    "the same, and ARP answers for all": [
        "core-1: addr del 10.77.3.2/29 dev eth1", "core-1: addr add 10.77.3.2/32 dev eth2",
        "core-1: route add 10.77.3.0/29 dev eth1", "core-1: all.arp_ignore=0", "core-1: eth1.arp_ignore=0"],
    "the same, and ARP asks as the packet's source": [
        "core-1: addr del 10.77.3.2/29 dev eth1", "core-1: addr add 10.77.3.2/32 dev eth2",
        "core-1: route add 10.77.3.0/29 dev eth1", "core-1: all.arp_ignore=0", "core-1: eth1.arp_ignore=0",
        "core-1: all.arp_announce=0", "core-1: eth1.arp_announce=0"],
    "ARP by route": ["core-1: eth1.arp_filter=1"],
    "ARP by route, which leads elsewhere": [
        "core-1: eth1.arp_filter=1", "core-1: route add 10.77.3.1 dev eth2", "core-1: all.rp_filter=0",
        "core-1: eth1.rp_filter=0"],
    "a neighbour fixed wrong": ["inbound-1: neigh replace 10.77.3.2 lladdr 02:00:00:00:00:99 dev eth2 nud permanent"],
    "ARP dropped on its way in": ["core-1: nft " + ARP.format("input", "arp operation request arp daddr ip 10.77.3.2 drop")],
    "ARP dropped on its way out": ["core-1: nft " + ARP.format("output", "arp saddr ip 10.77.3.2 drop")],
    "ARP of others dropped": ["core-1: nft " + ARP.format("input", "arp saddr ip 10.77.3.7 drop")],
    "a policy that blocks": [f"core-1: {BLOCK}"],
    "a policy that encrypts": [f"inbound-1: {TUNNEL}"],
    "a policy that encrypts where none may": [f"inbound-1: {TUNNEL}", "inbound-1: eth2.disable_xfrm=1"],
    "a policy not asked": [f"core-1: {BLOCK}", "core-1: eth1.disable_policy=1"],
    "a policy for others": [f"core-1: {BLOCK.replace('10.77.3.1', '10.77.3.5')}"],
    "a rule of nftables": ["core-1: nft table inet x { chain c { type filter hook input priority 5; tcp dport 7601 drop\n}\n}"],
    "a rule for the answers": ["gate-in: nft table inet x { chain c { type filter hook forward priority 5; tcp sport 7601 tcp flags & (syn|ack) == (syn|ack) drop\n}\n}"],
    "a rule for what carries": ["core-1: nft table inet x { chain c { type filter hook input priority 5; tcp dport 7601 ct state established drop\n}\n}"],
}  # fmt: skip


class Delivered(World):
    """The world with the switches of a hardened host, made anew after each change."""

    def __init__(self) -> None:
        super().__init__(HOSTS)
        self.translated: dict[str, Network] = {}

    def join(self, link: str, ends: list[tuple[str, str, str]]) -> None:
        """Join a link's ends; one whose other machine is not here ends in the dark."""
        if link == "management" or len(ends) == 2:
            super().join(link, ends)
            return
        ((host, interface, address),) = ends
        self.host(f"dark-{link}")
        sh("ip", "-n", host, "link", "add", interface, "type", "veth", "peer", "name", "end",
           "netns", f"dark-{link}")  # fmt: skip
        sh("ip", "-n", f"dark-{link}", "link", "set", "end", "up")
        self.up(host, interface, address)

    def harden(self) -> None:
        for host in HOSTS:
            on = "1" if host == "gate-in" else "0"
            for card in inside(host, lambda: os.listdir("/proc/sys/net/ipv4/conf")):
                for key, value in (("rp_filter", "1"), ("arp_ignore", "1"), ("arp_filter", "0"), ("arp_announce", "2"),
                                   ("disable_xfrm", "0"), ("disable_policy", "0"), ("forwarding", on)):  # fmt: skip
                    if card != "default":
                        self.sysctl(host, f"net.ipv4.conf.{card}.{key}", value)

    def restore(self) -> None:
        """Put everything back, whatever a change did."""
        for host in HOSTS:
            policy = self.policies[host]
            for what in ("state", "policy"):
                sh("ip", "-n", host, "xfrm", what, "flush")
            sh("ip", "-n", host, "rule", "flush")
            for priority, table in ((0, "local"), (32766, "main"), (32767, "default")):
                with contextlib.suppress(RuntimeError):
                    sh("ip", "-n", host, "rule", "add", "lookup", table, "prio", str(priority))
            with contextlib.suppress(RuntimeError):
                sh("ip", "-n", host, "route", "flush", "table", "77")
            for card in policy["interfaces"]:
                sh("ip", "-n", host, "addr", "flush", "dev", card)
            sh("ip", "-n", host, "route", "flush", "table", "main")
            for card, entry in policy["interfaces"].items():
                sh("ip", "-n", host, "addr", "add", entry["address"], "dev", card)
                sh("ip", "-n", host, "link", "set", card, "up")
            for route in policy["routes"]:
                sh("ip", "-n", host, "route", "replace", route["to"], "via", route["via"])
            for family in ("arp", "inet"):
                with contextlib.suppress(RuntimeError):
                    self.nft(host, "delete", "table", family, "x")
        self.harden()
        for host in (*HOSTS, "hospital-a", "controller"):
            sh("ip", "-n", host, "neigh", "flush", "all", "nud", "all")

    def change(self, command: str) -> None:
        host, _, words = command.partition(": ")
        if words.startswith("nft "):
            self.nft(host, "-f", "-", stdin=words[4:])
        elif " " not in words:
            name, _, value = words.partition("=")
            self.sysctl(host, f"net.ipv4.conf.{name}", value)
        else:
            sh("ip", "-n", host, *words.split())

    def facts(self, host: str) -> dict[str, Any]:
        """Return what the audit's probes collect of these."""
        found: dict[str, Any] = {"sysctl": {"live": {"files": inside(host, switches)}}}
        for name, wanted in PROBES.items():
            for label, one in registry()[name].operations.items():
                if isinstance(one, Run) and (wanted is None or label in wanted):
                    text = sh(one.argv[0], "-n", host, *one.argv[1:])
                    found.setdefault(name, {})[label] = {
                        "rc": 0,
                        "stdout": text,
                        "truncated": False,
                    }
        return found

    def said(self) -> dict[str, tuple[str, str]]:
        text = json.dumps({host: listed(self.nft(host, "-j", "list", "ruleset")) for host in HOSTS})
        if text not in self.translated:
            network, wrong = network_of(json.loads(text), SITE)
            assert wrong == [], wrong
            self.translated[text] = network
        network = self.translated[text]
        nets = {host: read_net(self.facts(host), host) for host in HOSTS}
        return {one.scope: (one.outcome.value, one.reason)
                for one in deliverable(network, SITE, nets, HOSTS) if set(one.hosts) <= set(HOSTS)}  # fmt: skip


def listed(text: str) -> Any:
    """Return a listing without what counts, so that the same rules are the same text."""
    document = json.loads(text)
    for entry in document["nftables"]:
        entry.get("counter", {}).update(packets=0, bytes=0)
    return document


def switches() -> dict[str, Any]:
    return {
        str(path): {"mode": 0o644, "uid": 0, "gid": 0, "kind": "file", "text": path.read_text()}
        for key in SWITCHES for path in Path("/proc/sys/net/ipv4/conf").glob(f"*/{key}")
    }  # fmt: skip


class Ends:
    """Servers for every relation that has its machines here, and attempts to reach them."""

    def __init__(self) -> None:
        self.legs: dict[str, Leg] = {}
        self.heard: set[bytes] = set()
        for relation in relations(SITE):
            leg = relation.legs[0]
            assert leg.kind == OPENS
            if set(relation.hosts) <= set(HOSTS):
                self.legs[relation.name] = leg
        for protocol, place in {(leg.protocol, (leg.stages[-1].host, str(leg.target), leg.dport))
                                for leg in self.legs.values()}:  # fmt: skip
            if protocol != 1:
                self.serve(protocol, *place)

    def serve(self, protocol: int, host: str, address: str, port: int) -> None:
        kind = socket.SOCK_STREAM if protocol == 6 else socket.SOCK_DGRAM
        made = inside(host, lambda: socket.socket(socket.AF_INET, kind))
        made.bind((address, port))
        if protocol == 6:
            made.listen(64)
        threading.Thread(
            target=self._listen if protocol == 6 else self._echo, args=(made,), daemon=True
        ).start()

    def _listen(self, made: socket.socket) -> None:
        while True:
            link, _ = made.accept()
            threading.Thread(target=self._read, args=(link,), daemon=True).start()

    def _read(self, link: socket.socket) -> None:
        link.settimeout(3)
        with link, contextlib.suppress(OSError):
            self.heard.add(link.recv(16))

    def _echo(self, made: socket.socket) -> None:
        while True:
            with contextlib.suppress(OSError):
                data, sender = made.recvfrom(64)
                made.sendto(data, sender)

    def arrives(self, leg: Leg) -> bool:
        """Return whether a program reaches the other end as this relation does, and is answered."""
        host = leg.stages[0].host if leg.stages[0].way == "output" else (
            "controller" if str(leg.source) == CONTROLLER else "hospital-a")  # fmt: skip
        return {6: self._tcp, 17: self._udp, 1: _ping}[leg.protocol](
            host, str(leg.target), leg.dport
        )

    def _tcp(self, host: str, address: str, port: int) -> bool:
        token = os.urandom(16)
        with inside(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as made:
            made.settimeout(WAIT)
            if host == "controller":
                made.bind((CONTROLLER, 0))
            with contextlib.suppress(OSError):
                made.connect((address, port))
                made.sendall(token)
                return until(lambda: token in self.heard)
        return False

    def _udp(self, host: str, address: str, port: int) -> bool:
        token = os.urandom(16)
        with inside(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as made:
            made.settimeout(WAIT)
            with contextlib.suppress(OSError):
                made.connect((address, port))
                made.send(token)
                return made.recv(64) == token
        return False


def _ping(host: str, address: str, _: int) -> bool:
    token = os.urandom(16)
    head = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
    head = struct.pack("!BBHHH", 8, 0, checksum(head + token), 7, 1)
    with inside(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)) as made:
        made.settimeout(WAIT)
        if host == "controller":
            made.bind((CONTROLLER, 0))
        with contextlib.suppress(OSError):
            made.sendto(head + token, (address, 0))
            while True:
                got = made.recv(256)
                if got[20] == 0 and got[28:44] == token:
                    return True
    return False


def until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return true()


def compare(names: list[str]) -> dict[str, Any]:
    """Return change → relation → what was said, why, and whether it arrived."""
    world = Delivered()
    ends = Ends()
    found: dict[str, Any] = {}
    for name in names:
        world.restore()
        for command in CHANGES[name]:
            world.change(command)
        said = world.said()
        did: dict[str, bool] = {}

        def work(key: str, leg: Leg, did: dict[str, bool] = did) -> None:
            did[key] = ends.arrives(leg)

        threads = [threading.Thread(target=work, args=one) for one in ends.legs.items()]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert set(said) >= set(did), set(did) - set(said)
        found[name] = {key: [*said[key], did[key]] for key in did}
        wrong = [key for key in did if (said[key][0] == "proven") is not did[key]]
        told = f"disagrees on {', '.join(wrong)}" if wrong else "agrees"
        sys.stderr.write(f"{name} {told}\n")
    return found


if __name__ == "__main__":
    json.dump(compare(sys.argv[1:] or list(CHANGES)), sys.stdout)
