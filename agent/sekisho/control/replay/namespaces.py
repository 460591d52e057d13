"""Send packets through rules in a private network namespace and see which ones come through.

`replay` starts this module as a program under ``unshare``: namespace, interfaces and rules end with
it. What the kernel made of a packet is read from sets of a table of our own at the far ends of the
hooks, keyed by source address and IP identification (IPv6: flow label).
"""

from __future__ import annotations

import ctypes
import functools
import json
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.text import lines_of

STATES = ("invalid", "established", "related", "new", "untracked")
_ARGV = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork",
         "--kill-child", "--mount-proc")  # fmt: skip
_LAST = 2_000_000_000
_PEER = "02:00:00:00:00:fe"


def replay(job: Mapping[str, Any], *, timeout: float = 300) -> list[dict[str, Any]]:
    """Return what the kernel did with each packet of a job.

    ``job``: ``rules`` (libnftables JSON, or text under ``text``), ``packets``: list of ``way``,
    ``iif``, ``oif``, ``bytes`` (hexadecimal, from the network header), ``mark``; ``routes``: where
    addresses are that rules may send packets to instead (address → interface), ``ip``: words of
    ip(8) to run before the rules are loaded. Each answer has
    ``entered``, ``passed``, ``ct``, ``reply`` (the direction); packets go in order, so that earlier
    ones open connections for later ones. ``listed`` in the first answer is the kernel's listing.

    Raises:
        SekishoError: namespaces cannot be made here, or the rules cannot be loaded.

    """
    argv = (*_ARGV, sys.executable, "-m", "sekisho.control.replay.namespaces")
    here = str(Path(__file__).resolve().parents[2])
    try:
        done = subprocess.run(
            argv, input=json.dumps(job), capture_output=True, text=True, timeout=timeout,
            check=False, env={"PYTHONPATH": here, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as bad:
        raise SekishoError(
            "cannot replay", (Problem("unshare", "", str(bad), "a namespace"),)
        ) from None
    if done.returncode:
        told = printable(lines_of(done.stderr.strip())[-1] if done.stderr.strip() else "", 300)
        raise SekishoError(
            "cannot replay",
            (Problem("namespace", "", told, "the rules loaded and the packets sent",
                     hint="needs nft, iproute2 and user namespaces, or root"),),
        )  # fmt: skip
    value: list[dict[str, Any]] = json.loads(done.stdout)
    return value


def _run(*argv: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, input=stdin, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def _in_pairs(value: Any) -> Any:
    """Return rules as any nft reads them: 1.1 lists ``|`` over many members, 1.0 takes two."""
    if isinstance(value, list):
        return [_in_pairs(one) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"|"}:
        return functools.reduce(lambda left, right: {"|": [left, right]}, _in_pairs(value["|"]))
    return {key: _in_pairs(one) for key, one in value.items()}


def _watch() -> str:
    """Return the table that notes what entered, in which state, and what came through."""
    names = ("entered", "reply", *STATES, "in", "post")
    keys = {"four": "ip saddr . ip id", "six": "ip6 saddr . ip6 flowlabel"}
    sets = "\n".join(
        f"set {name}_{family} {{ typeof {key}; flags dynamic; size 65535; }}"
        for name in names
        for family, key in keys.items()
    )

    def note(name: str, condition: str = "") -> str:
        return "\n".join(f"{condition} add @{name}_{family} {{ {key} }}"
                         for family, key in keys.items())  # fmt: skip

    early = note("entered") + "\n" + note("reply", "ct direction reply") + "\n"
    early += "\n".join(note(state, f"ct state {state}") for state in STATES)
    return f"""table inet sekisho_replay {{
{sets}
chain e1 {{ type filter hook prerouting priority -199; {early}
}}
chain e2 {{ type filter hook output priority -199; {early}
}}
chain last_in {{ type filter hook input priority {_LAST}; {note("in")}
}}
chain last_post {{ type filter hook postrouting priority {_LAST}; {note("post")}
}}
}}
"""


class _World:
    """Interfaces by name, each with a peer to inject at; routes as the packets need them."""

    def __init__(self, names: Iterable[str]) -> None:
        _run("ip", "link", "set", "lo", "up")
        self.peers: dict[str, str] = {}
        self.macs: dict[str, bytes] = {}
        self.sockets: dict[str, socket.socket] = {}
        self.routes: dict[str, str] = {}
        for key in ("all", "default"):
            _sysctl(f"net/ipv4/conf/{key}/rp_filter", "0")
            _sysctl(f"net/ipv4/conf/{key}/accept_local", "1")
            _sysctl(f"net/ipv6/conf/{key}/forwarding", "1")
            _sysctl(f"net/ipv6/conf/{key}/accept_dad", "0")
        for key, value in (("net/ipv4/ip_forward", "1"), ("net/ipv4/icmp_echo_ignore_all", "1"),
                           ("net/netfilter/nf_conntrack_checksum", "0"),
                           ("net/netfilter/nf_conntrack_tcp_be_liberal", "1")):  # fmt: skip
            _sysctl(key, value)
        for index, name in enumerate(sorted(set(names) - {"", "lo"})):
            peer = f"replay{index}"
            _run("ip", "link", "add", name, "type", "veth", "peer", "name", peer)
            for one in (name, peer):
                _run("ip", "link", "set", one, "up")
            self.peers[name] = peer
        for link in json.loads(_run("ip", "-json", "link", "show")):
            self.macs[link["ifname"]] = bytes.fromhex(link["address"].replace(":", ""))

    def route(self, address: str, oif: str) -> None:
        """Send an address out by an interface, or to this host when it has none."""
        if self.routes.get(address) == oif:
            return
        self.routes[address] = oif
        six = ":" in address
        family, bits = ("-6", "128") if six else ("-4", "32")
        target = f"{address}/{bits}"
        if oif in ("", "lo"):
            _run("ip", family, "route", "replace", "local", target, "dev", "lo", check=False)
            return
        _run("ip", family, "route", "replace", target, "dev", oif, check=False)
        _run("ip", family, "neigh", "replace", address, "lladdr", _PEER, "dev", oif, check=False)

    def inject(self, iif: str, data: bytes) -> None:
        """Put a packet on the wire before ``iif``."""
        if iif not in self.sockets:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            made.bind((self.peers[iif], 0))
            self.sockets[iif] = made
        kind = b"\x86\xdd" if data[0] >> 4 == 6 else b"\x08\x00"
        frame = self.macs[iif] + bytes.fromhex(_PEER.replace(":", "")) + kind + data
        self.sockets[iif].send(frame)

    def send(self, data: bytes, mark: int) -> None:
        """Send a packet from this host, headers as they are."""
        six = data[0] >> 4 == 6
        family = socket.AF_INET6 if six else socket.AF_INET
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
            if mark:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            made.sendto(data, (_address(data, 24 if six else 16), 0))


def _sysctl(key: str, value: str) -> None:
    path = Path("/proc/sys", key)
    if path.exists():
        path.write_text(value, encoding="ascii")


def _address(data: bytes, offset: int) -> str:
    if data[0] >> 4 == 6:
        return socket.inet_ntop(socket.AF_INET6, data[offset : offset + 16])
    return socket.inet_ntoa(data[offset : offset + 4])


def _key(data: bytes) -> tuple[str, int]:
    if data[0] >> 4 == 6:
        return _address(data, 8), struct.unpack("!I", data[:4])[0] & 0xFFFFF
    return _address(data, 12), int.from_bytes(data[4:6], "big")


def _checksummed(data: bytes) -> bytes:
    if data[0] >> 4 == 6:
        return data
    size = min(len(data), (data[0] & 15) * 4)
    head = bytearray(data[:size])
    head[10:12] = b"\0\0"
    if len(head) % 2:
        head.append(0)
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    total = (total >> 16) + (total & 0xFFFF)
    total = ~(total + (total >> 16)) & 0xFFFF
    head[10:12] = total.to_bytes(2, "big")
    return bytes(head) + data[size:]


def _noted() -> dict[str, set[tuple[str, int]]]:
    listed = json.loads(_run("nft", "-j", "list", "table", "inet", "sekisho_replay"))
    found: dict[str, set[tuple[str, int]]] = {}
    for entry in listed["nftables"]:
        held = entry.get("set")
        if held is not None:
            name = held["name"].rpartition("_")[0]
            for element in held.get("elem", ()):
                value = element.get("elem", {}).get("val", element)
                address, number = value["concat"]
                found.setdefault(name, set()).add((address, int(number)))
    return found


def _work(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    packets: Sequence[Mapping[str, Any]] = job["packets"]
    names = {one[side] for one in packets for side in ("iif", "oif")}
    world = _World(names | set(job.get("interfaces", ())))
    for address, oif in job.get("routes", {}).items():
        world.route(address, oif)
    for words in job.get("ip", ()):
        _run("ip", *words)
    if "text" in job:
        _run("nft", "-f", "-", stdin=str(job["text"]))
    else:
        _run("nft", "-j", "-f", "-", stdin=json.dumps(_in_pairs(job["rules"])))
    listed = json.loads(_run("nft", "-j", "list", "ruleset"))
    _run("nft", "-f", "-", stdin=_watch())
    sent = []
    for one in packets:
        data = _checksummed(bytes.fromhex(one["bytes"]))
        target = _address(data, 24 if data[0] >> 4 == 6 else 16)
        trouble = ""
        try:
            world.route(target, "" if one["way"] == "input" else one["oif"])
            if one["way"] == "output":
                world.send(data, int(one.get("mark", 0)))
            else:
                world.inject(one["iif"], data)
        except (OSError, KeyError, RuntimeError) as bad:
            trouble = str(bad)
        sent.append((data, trouble))
    time.sleep(0.3)
    noted = _noted()
    found = []
    sources = Counter(_key(data)[0] for data, _ in sent)
    for one, (data, trouble) in zip(packets, sent, strict=True):
        key = _key(data)
        end = "in" if one["way"] == "input" else "post"
        ends = noted.get(end, set())
        # A rule may have set the identification to 0, and nothing here is sent with it: then the
        # address alone tells which packet it was, or nothing does.
        levelled = key not in ends and (key[0], 0) in ends
        if levelled and sources[key[0]] > 1:
            raise RuntimeError(f"several packets from {key[0]}, one lost its identification")
        found.append(
            {
                "entered": key in noted.get("entered", ()),
                "passed": key in ends or levelled,
                "ct": next((s for s in STATES if key in noted.get(s, ())), ""),
                "reply": key in noted.get("reply", ()),
                "trouble": trouble,
            }
        )
    if found:
        found[0]["listed"] = listed
    return found


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: never outlive who asked
    json.dump(_work(json.load(sys.stdin)), sys.stdout)
