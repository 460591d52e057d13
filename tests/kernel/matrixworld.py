"""The whole site of an inventory as network namespaces, for probes of single frames.

Machines, wires, addresses and rules come from the site model and the compiler; nothing is listed
here. Everything that could stop a packet besides the rules is opened: every machine forwards, has
a route to every network of the site and IPv6 addresses on every wire, source addresses are not
checked, connection tracking is liberal. What does not come through was stopped by a rule.

Nobody answers: what a kernel would send by itself is dropped before connection tracking sees it.
"""

from __future__ import annotations

import functools
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any

from flowworld import inside, sh

from sekisho.site.model import MANAGEMENT, Site
from siteworld import ROOT, policy

#: Set on what `stack_socket` sends, so that nothing else of a machine's own leaves it.
MARK = 77
WIRES = "wires"
STATES = ("invalid", "established", "related", "new", "untracked")
_LAST = 2_000_000_000
_SIX = int(IPv6Address("fd77::"))
_STATISTICS = 6  # PACKET_STATISTICS


def six(address: IPv4Address) -> IPv6Address:
    """Return the IPv6 address that stands beside an address of the site."""
    return IPv6Address(_SIX + int(address))


@dataclass(frozen=True, slots=True)
class Port:
    """One end of a wire."""

    node: str
    name: str
    link: str
    address: IPv4Address
    network: IPv4Network
    mac: bytes


@dataclass(slots=True)
class Node:
    """A machine of the site, or somebody outside it (no rules)."""

    name: str
    ruled: bool
    ports: dict[str, Port] = field(default_factory=dict)

    def owns(self, address: IPv4Address) -> bool:
        """Return whether an address is this node's own."""
        return any(port.address == address for port in self.ports.values())


def nodes_of(site: Site) -> dict[str, Node]:
    """Return everybody on the site's wires: machines, peers, controllers, and one stranger."""
    found = {name: Node(name, ruled=True) for name in site.machines}
    for name, machine in site.machines.items():
        for one in machine.interfaces.values():
            network = (site.management if one.link == MANAGEMENT else site.links[one.link]).network
            mac = bytes.fromhex(one.mac.replace(":", ""))
            found[name].ports[one.name] = Port(name, one.name, one.link, one.address, network, mac)
    outside = [
        (peer.name, "wan0", link.name, peer.address, link.network)
        for peer in site.peers.values()
        for link in site.links.values()
        if peer.name in link.between
    ]
    network = site.management.network
    taken = {port.address for node in found.values() for port in node.ports.values()}
    admins = sorted({*site.management.controllers, *site.management.auditors})
    outside += [(f"controller-{n}", "eth0", MANAGEMENT, one, network)
                for n, one in enumerate(admins)]  # fmt: skip
    free = max(one for one in network.hosts() if one not in {*taken, *admins})
    outside.append(("stranger", "eth0", MANAGEMENT, free, network))
    for name, port, link, address, network in outside:
        if address not in network:
            raise ValueError(
                f"{name} sits behind a router of its own: the matrix has no place for it"
            )
        mac = b"\x02\x77" + address.packed
        node = found.setdefault(name, Node(name, ruled=False))
        node.ports[port] = Port(name, port, link, address, network, mac)
    return found


class Map:
    """Who is on which wire, and the shortest way to each network (management joins nothing)."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.nodes = nodes_of(site)
        self.links: dict[str, list[Port]] = {}
        for node in self.nodes.values():
            for port in node.ports.values():
                self.links.setdefault(port.link, []).append(port)
        self.next_hop = functools.cache(self._next_hop)

    def owner(self, address: IPv4Address) -> Port | None:
        """Return the port that has an address."""
        every = (port for ports in self.links.values() for port in ports)
        return next((port for port in every if port.address == address), None)

    def _next_hop(self, node: str, target: IPv4Address) -> tuple[Port, Port] | None:
        """Return the port out and the neighbour's port towards ``target``; None: no way there."""
        start = self.nodes[node]
        for port in start.ports.values():
            if target in port.network:
                to = next((one for one in self.links[port.link] if one.address == target), None)
                return (port, to) if to else None
        seen = {node}
        queue: list[tuple[str, tuple[Port, Port] | None]] = [(node, None)]
        while queue:
            here, first = queue.pop(0)
            for port in self.nodes[here].ports.values():
                for to in self.links[port.link]:
                    if port.link == MANAGEMENT and first is None and len(start.ports) > 1:
                        continue  # data goes by data wires; only who has no other uses this one
                    if port.link == MANAGEMENT and first is not None:
                        continue
                    if to.node in seen:
                        continue
                    seen.add(to.node)
                    step = first or (port, to)
                    if any(target in one.network for one in self.nodes[to.node].ports.values()
                           if one.link != MANAGEMENT):  # fmt: skip
                        return step
                    queue.append((to.node, step))
        return None

    def routes(self, node: str) -> Iterator[tuple[IPv4Network, Port, Port]]:
        """Yield a route to every network the node is not on itself."""
        own = {port.network for port in self.nodes[node].ports.values()}
        for ports in self.links.values():
            network = ports[0].network
            step = None if network in own else self.next_hop(node, ports[0].address)
            if step:
                yield network, *step


def _settings() -> Iterator[tuple[str, str]]:
    """Yield the site's own kernel settings of IPv4, but for the filter on source addresses."""
    text = (ROOT / "hardening/sysctl/60-sekisho.conf").read_text(encoding="utf-8")
    for line in text.splitlines():
        key, found, value = line.partition(" = ")
        wanted = found and key.startswith("net.ipv4.conf.") and "*" not in key
        if wanted and "rp_filter" not in key and "log_martians" not in key:
            yield key.replace(".", "/"), value


def _plain_bridges() -> None:
    """Let a bridge pass frames unread, where the kernel could have it judge IP headers."""
    for path in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        path.write_text("0")


def watch(by: str, *, tracking: bool) -> str:
    """Return the table that notes what entered the rules, in which state, and what was delivered.

    ``by``: "id" tells packets apart by source and identification, "ports" by source and ports.
    Without ``tracking`` the kernel tracks nothing: for the control without rules.
    """
    keys = {"id": (("four", "ipv4_addr . integer", "ip saddr . ip id", ""),
                   ("six", "ipv6_addr . integer", "ip6 saddr . ip6 flowlabel", "")),
            "ports": (("four", "", "ip saddr . th sport . th dport", "meta l4proto { tcp, udp }"),),
            }[by]  # fmt: skip
    names = ("reply", *STATES, "in") if tracking else ("in",)
    sets, notes = [], {}
    for name in names:
        for family, _, key, match in keys:
            kind = f"typeof {key}" if by == "id" else "type ipv4_addr . inet_service . inet_service"
            sets.append(f"set {name}_{family} {{ {kind}; flags dynamic; size 65535; }}")
            notes[name] = notes.get(name, "") + f"{match} COND add @{name}_{family} {{ {key} }}\n"
    early = "".join(notes[one].replace("COND", f"ct state {one}") for one in STATES
                    if tracking)  # fmt: skip
    early += notes["reply"].replace("COND", "ct direction reply") if tracking else ""
    last = notes["in"].replace("COND", "")
    return f"""table inet matrix_watch {{
{chr(10).join(sets)}
chain quiet {{ type filter hook output priority -300; meta mark != {MARK} drop
}}
chain arrives {{ type filter hook prerouting priority -199; {early}
}}
chain sends {{ type filter hook output priority -199; {early}
}}
chain delivered {{ type filter hook input priority {_LAST}; {last}
}}
}}
"""


class World:
    """The site's namespaces; `nets`, the map, is what they were made from."""

    def __init__(self, site: Site) -> None:
        sh("mount", "-t", "tmpfs", "none", "/run")
        self.map = Map(site)
        self.taps: dict[str, socket.socket] = {}
        self._out: dict[tuple[str, str], socket.socket] = {}
        self._raw: dict[tuple[str, bool], socket.socket] = {}
        for name in (WIRES, *self.map.nodes):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        inside(WIRES, _plain_bridges)
        for number, (link, ports) in enumerate(self.map.links.items()):
            self._wire(number, link, ports)
        for name in self.map.nodes:
            self._node(name)
        for name in self.map.nodes:
            self._tap(name)

    def _wire(self, number: int, link: str, ports: list[Port]) -> None:
        if len(ports) == 2 and link != MANAGEMENT:
            one, two = ports
            sh("ip", "-n", one.node, "link", "add", one.name, "type", "veth", "peer", "name",
               two.name, "netns", two.node)  # fmt: skip
            return
        bridge = f"br{number}"
        lines = [f"link add {bridge} type bridge mcast_snooping 0", f"link set {bridge} up"]
        for index, port in enumerate(ports):
            lines += [
                f"link add w{number}p{index} type veth peer name {port.name} netns {port.node}",
                f"link set w{number}p{index} master {bridge} up",
            ]
        sh("ip", "-n", WIRES, "-batch", "-", stdin="\n".join(lines))

    def _node(self, name: str) -> None:
        def settings() -> None:
            base = Path("/proc/sys")
            for key, value in (
                *_settings(),
                *((f"net/ipv4/conf/{one}/{key}", value) for one in ("all", "default")
                  for key, value in (("rp_filter", "0"), ("accept_local", "1"),
                                     ("send_redirects", "0"))),
                ("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"),
                ("net/ipv6/conf/all/accept_dad", "0"), ("net/ipv6/conf/all/disable_ipv6", "0"),
                ("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
            ):  # fmt: skip
                (base / key).write_text(value)

        inside(name, settings)
        lines, routes = [], []
        for port in self.map.nodes[name].ports.values():
            length, mac = port.network.prefixlen, port.mac.hex(":")
            lines += [
                f"link set {port.name} address {mac}",
                f"address add {port.address}/{length} dev {port.name}",
                f"address add {six(port.address)}/{96 + length} dev {port.name} nodad",
                f"link set {port.name} up",
            ]
            for other in self.map.links[port.link]:
                if other is not port:
                    routes += [
                        f"neigh replace {address} lladdr {other.mac.hex(':')} dev {port.name}"
                        for address in (other.address, six(other.address))
                    ]
        for network, out, to in self.map.routes(name):
            base = six(network.network_address)
            routes += [
                f"route add {network} via {to.address} dev {out.name}",
                f"route add {base}/{96 + network.prefixlen} via {six(to.address)} dev {out.name}",
            ]
        sh("ip", "-n", name, "-batch", "-", stdin="\n".join(lines + routes))
        for port in self.map.nodes[name].ports.values():  # a new link's own setting may differ
            path = Path(f"/proc/sys/net/ipv4/conf/{port.name}/rp_filter")
            inside(name, lambda path=path: path.write_text("0"))

    def _tap(self, name: str) -> None:
        tap = inside(name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                                 socket.htons(3)))  # fmt: skip
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # as much as there is
        tap.setblocking(False)
        self.taps[name] = tap

    def nft(self, name: str, *words: str, stdin: str | None = None) -> str:
        return sh("ip", "netns", "exec", name, "nft", *words, stdin=stdin)

    def load(self, by: str, hole: tuple[str, str, str] | None = None) -> dict[str, Any]:
        """Load every machine's rules (and a rule too many); return the kernels' listings."""
        listed = {}
        for name, node in self.map.nodes.items():
            if node.ruled:
                self.nft(name, "-j", "-f", "-", stdin=json.dumps(policy(name)["nftables"]))
                if hole and hole[0] == name:
                    self.nft(name, "insert rule inet sekisho " + " ".join(hole[1:]))
                listed[name] = json.loads(self.nft(name, "-j", "list", "table", "inet", "sekisho"))
        self.watch(by, tracking=True)
        return listed

    def watch(self, by: str, *, tracking: bool) -> None:
        """Put the watching table in place on every node."""
        for name in self.map.nodes:
            fresh = "table inet matrix_watch\ndelete table inet matrix_watch\n"
            self.nft(name, "-f", "-", stdin=fresh + watch(by, tracking=tracking))

    def flush(self) -> None:
        """Take every machine's rules away (and the watching table)."""
        for name in self.map.nodes:
            self.nft(name, "flush", "ruleset")

    def frame_socket(self, port: Port) -> socket.socket:
        """Return a socket that puts frames on the wire past the node's own rules."""
        key = (port.node, port.name)
        if key not in self._out:
            made = inside(port.node, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            made.bind((port.name, 0))
            self._out[key] = made
        return self._out[key]

    def stack_socket(self, node: str, *, v6: bool) -> socket.socket:
        """Return a socket that sends packets, headers as given, through the node's own rules."""
        if (node, v6) not in self._raw:
            family = socket.AF_INET6 if v6 else socket.AF_INET
            made = inside(node, lambda: socket.socket(family, socket.SOCK_RAW,
                                                      socket.IPPROTO_RAW))  # fmt: skip
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            self._raw[node, v6] = made
        return self._raw[node, v6]

    def frames(self) -> Iterator[tuple[str, str, bool, bytes]]:
        """Yield what every interface saw since: node, port, whether it went out, the frame.

        Raises when a capture lost a frame: nothing can be told then.
        """
        for node, tap in self.taps.items():
            while True:
                try:
                    frame, place = tap.recvfrom(70000)
                except BlockingIOError:
                    break
                if place[0] != "lo":
                    yield node, place[0], place[2] == socket.PACKET_OUTGOING, frame
            _, lost = struct.unpack("II", tap.getsockopt(263, _STATISTICS, 8))
            if lost:
                raise RuntimeError(f"the capture of {node} lost {lost} frames: cannot tell")

    def noted(self, node: str) -> dict[str, set[tuple[Any, ...]]]:
        """Return and forget what the watching table noted on a node: set → keys."""
        listed = json.loads(self.nft(node, "-j", "list", "table", "inet", "matrix_watch"))
        found: dict[str, set[tuple[Any, ...]]] = {}
        names = []
        for entry in listed["nftables"]:
            held = entry.get("set")
            if held is None:
                continue
            names.append(held["name"])
            keys = found.setdefault(held["name"].rpartition("_")[0], set())
            for element in held.get("elem", ()):
                value = element.get("elem", {}).get("val", element)
                keys.add(tuple(value["concat"]))
        full = [name for name, keys in found.items() if len(keys) >= 65535]
        if full:
            raise RuntimeError(f"{node}: {full} is full: cannot tell")
        lines = "\n".join(f"flush set inet matrix_watch {name}" for name in names)
        self.nft(node, "-f", "-", stdin=lines)
        return found
