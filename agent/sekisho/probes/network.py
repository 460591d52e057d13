"""Network facts: which machine this is, its cards, addresses and routes, what listens."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from sekisho.core.text import lines_of
from sekisho.nft.ipsec import IKE_DAEMON, IKE_PORTS
from sekisho.probes.model import (
    FileOutcome,
    Probe,
    ProbeError,
    Read,
    Run,
    drop_ins,
    files,
    output,
    text_of,
)

_DMI = "/sys/class/dmi/id"
#: networkd reads these in the order of the file's name; the same name counts once, /etc first.
_FOLDERS = (
    *("/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network"),
    "/usr/lib/systemd/network",
)
_LEARNING = ("LinkLocalAddressing", "IPv6AcceptRA", "LLMNR", "MulticastDNS", "LLDP")
_NO = frozenset(("no", "n", "false", "f", "off", "0"))
#: What networkd writes over sysctl.d when a card comes up, and the words that leave it safe.
_KERNEL = {
    "IPv4ReversePathFilter": ("rp_filter", frozenset(("strict",))),
    "IPv4ProxyARP": ("proxy_arp", _NO),
    "IPv4RouteLocalnet": ("route_localnet", _NO),
}
#: What our own files match a card by; another condition may hold or not.
_NAMED_BY = frozenset(("Name", "MACAddress", "PermanentMACAddress", "Kind"))
_SOCKET = re.compile(r"(?P<address>.*):(?P<port>[0-9]+|\*)")
_PROGRAM = re.compile(r'\(\("([^"]*)"')
_IKE = frozenset(f"udp 0.0.0.0:{port} {IKE_DAEMON}" for port in IKE_PORTS)
#: A tunnel's interface as `sekisho.site.tunnels` names it; their check looks at these.
_TUNNEL = re.compile(r"wg-[0-9a-f]{8} wireguard")
_LOOPBACK = ("127.", "[::1]", "[::ffff:127.")


def _json(raw: Mapping[str, Any], label: str) -> list[dict[str, Any]]:
    text = output(raw, label)
    try:
        value = json.loads(text) if text.strip() else []
    except ValueError:
        raise ProbeError(f"{label}: garbled JSON") from None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ProbeError(f"{label}: not a list of objects")
    return [entry for entry in value if entry]


def _identity(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "identity")
    disk = found.get("/etc/hostname")
    return {
        "dmi_uuid": text_of(found, f"{_DMI}/product_uuid").strip().lower(),
        "serial": text_of(found, f"{_DMI}/product_serial").strip(),
        "host": text_of(found, "/proc/sys/kernel/hostname").strip(),
        "host_on_disk": (disk.text or "").strip() if disk else "",
        "machine_id": text_of(found, "/etc/machine-id").strip(),
    }


def _links(raw: Mapping[str, Any]) -> dict[str, Any]:
    entries = _json(raw, "addresses")
    if not any(entry.get("ifname") == "lo" for entry in entries):
        raise ProbeError("addresses: not even the loopback is listed")
    found: dict[str, list[str]] = {
        "macs": [], "addresses": [], "ipv6": [], "leased": [], "virtual": [], "listening_in": [],
        "tunnels": [],
    }  # fmt: skip
    for entry in entries:
        name = str(entry.get("ifname"))
        if entry.get("promiscuity", 0) or "PROMISC" in entry.get("flags", []):
            found["listening_in"].append(name)
        if name == "lo":
            found["ipv6"] += [f"lo {one['local']}" for one in _inet(entry, "inet6")
                              if one.get("local") != "::1"]  # fmt: skip
            extra = [one for one in _inet(entry, "inet") if one.get("local") != "127.0.0.1"]
            found["addresses"] += [f"lo {one['local']}/{one['prefixlen']}" for one in extra]
            continue
        kind = entry.get("linkinfo", {}).get("info_kind")
        if kind and _TUNNEL.fullmatch(f"{name} {kind}"):
            found["tunnels"].append(name)
        elif kind:
            found["virtual"].append(f"{name} {kind}")
        else:
            found["macs"].append(f"{name} {entry.get('address')}")
        for one in _inet(entry, "inet"):
            # A peer's network is a route of its own, and not the declared address's.
            far = one.get("address", one["local"])
            peer = "" if far == one["local"] else f" peer {far}"
            found["addresses"].append(f"{name} {one['local']}{peer}/{one['prefixlen']}")
            if one.get("dynamic"):
                found["leased"].append(f"{name} {one['local']}")
        found["ipv6"] += [f"{name} {one['local']}" for one in _inet(entry, "inet6")]
    return {key: sorted(value) for key, value in found.items()}


def _inet(entry: Mapping[str, Any], family: str) -> list[dict[str, Any]]:
    listed = entry.get("addr_info", [])
    if not isinstance(listed, list):
        raise ProbeError("addresses: garbled entry")
    return [one for one in listed if one.get("family") == family and "local" in one]


def _routes(raw: Mapping[str, Any]) -> dict[str, Any]:
    routes, connected, default, other = [], [], [], []
    for entry in _json(raw, "ipv4"):
        target, device = str(entry.get("dst")), entry.get("dev", "")
        elsewhere = entry.get("table") not in (None, "main")
        if entry.get("table") == "local" or (device == "lo" and not elsewhere):
            continue
        if elsewhere:
            other.append(f"{target} in table {entry['table']}")
        if target == "default":
            default.append(f"via {entry.get('gateway', 'nobody')} {device}".strip())
        elif elsewhere:
            continue
        elif "gateway" in entry:
            to = target if "/" in target else f"{target}/32"
            routes.append({"to": to, "via": entry["gateway"], "interface": device})
        elif entry.get("protocol", "kernel") != "kernel":  # somebody's, to whoever is there
            to = target if "/" in target else f"{target}/32"
            routes.append({"to": to, "via": "", "interface": device})
        else:
            connected.append(target if "/" in target else f"{target}/32")
    ipv6 = [
        str(entry.get("dst"))
        for entry in _json(raw, "ipv6")
        if entry.get("dev") != "lo" and entry.get("table") != "local"
    ]
    rules = [
        f"{entry.get('priority')} {entry.get('src')} {entry.get('table')}"
        for entry in _json(raw, "rules")
        if entry.get("table") not in ("local", "main", "default") or entry.get("src") != "all"
    ]
    return {
        "routes": routes,
        "connected": sorted(connected),
        "default": default,
        "other_tables": other,
        "ipv6": sorted(set(ipv6)),
        "rules": rules,
    }


def _sockets(raw: Mapping[str, Any]) -> dict[str, Any]:
    outside: set[str] = set()
    everywhere: set[str] = set()
    loopback: set[str] = set()
    ike: set[str] = set()
    kernel: set[str] = set()
    for line in lines_of(output(raw, "sockets")):
        words = line.split()
        match = _SOCKET.fullmatch(words[4]) if len(words) > 5 else None
        if match is None:
            raise ProbeError(f"ss: garbled line {line[:80]!r}")
        proto, address, port = words[0], match["address"], match["port"]
        program = _PROGRAM.search(line)
        said = f"{proto} {address}:{port}"
        bare = address.partition("%")[0]
        if bare.startswith(_LOOPBACK):
            loopback.add(said)
        else:
            outside.add(said)
            if bare in ("*", "0.0.0.0", "[::]"):  # noqa: S104 - looked for, not bound
                held = f"{said} {program[1] if program else 'unknown'}"
                # strongSwan cannot bind its socket to an address, nor can WireGuard, whose sockets
                # are the kernel's own; the lines' and the tunnels' checks look at these.
                if proto == "udp" and program is None:
                    kernel.add(said)
                else:
                    (ike if held in _IKE else everywhere).add(held)
    packet = {
        program[1]
        for line in lines_of(output(raw, "packet"))
        if (program := _PROGRAM.search(line)) is not None
    }
    unnamed = sum(1 for line in lines_of(output(raw, "packet")) if not _PROGRAM.search(line))
    return {
        "outside": sorted(outside),
        "everywhere": sorted(everywhere),
        "ike": sorted(ike),
        "kernel": sorted(kernel),
        "loopback": sorted(loopback),
        "packet": sorted(packet) + ["unknown"] * unnamed,
    }


def ini(text: str, path: str) -> list[tuple[str, str, str]]:
    """Return (section, key, value) in order; repeated sections are numbered as ``Route#2``."""
    found, section, count = [], "", 0
    for line in lines_of(text):
        bare = line.strip()
        if not bare or bare[0] in "#;":
            continue
        if bare.startswith("[") and bare.endswith("]"):
            count += 1
            section = f"{bare[1:-1]}#{count}"
            continue
        key, sep, value = bare.partition("=")
        if not sep or not section:
            raise ProbeError(f"{path}: garbled line {bare[:60]!r}")
        found.append((section, key.strip(), value.strip()))
    return found


def _network_files(
    found: Mapping[str, FileOutcome],
) -> tuple[dict[str, FileOutcome], dict[str, dict[str, FileOutcome]]]:
    """Return the files that count by name, and each one's drop-ins by name."""
    by_name: dict[str, FileOutcome] = {}
    changed: dict[str, dict[str, FileOutcome]] = {}
    for folder in reversed(_FOLDERS):
        for path, entry in found.items():
            place, _, name = path.rpartition("/")
            if place == folder:
                by_name[name] = entry
            elif place.startswith(f"{folder}/") and place.endswith(".network.d"):
                changed.setdefault(place.rpartition("/")[2][:-2], {})[name] = entry
    return by_name, changed


def _networkd(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what networkd will do after a boot: the first file that names a card counts."""
    by_name, changed = _network_files(drop_ins(files(raw, "networks")))
    cards = sorted(path.split("/")[4] for path in files(raw, "cards") if path.split("/")[4] != "lo")
    if not cards:
        raise ProbeError("cards: none found")
    result: dict[str, list[Any]] = {
        "addresses": [], "routes": [], "default": [], "leased": [], "learning": [], "unnamed": [],
        "macs": [], "rp_filter": [], "proxy_arp": [], "route_localnet": [],
    }  # fmt: skip
    left = set(cards)
    for name in sorted(by_name):
        entry = by_name[name]
        if entry.kind == "link" and entry.target == "/dev/null":
            continue
        lines = _with_drop_ins(entry, changed.get(name, {}))
        match = {key: value for section, key, value in lines if section.startswith("Match#")}
        patterns = match.get("Name", "").split()
        by_name_alone = patterns and not patterns[0].startswith("!") and set(match) <= _NAMED_BY
        if not by_name_alone and not entry.path.startswith("/usr/lib/"):
            # The distribution's own files are for containers and virtual cards.
            result["unnamed"].append(name)
        for card in sorted(left):
            if any(fnmatch(card, pattern) for pattern in patterns):
                left.discard(card)
                _card(result, card, match, lines)
    return {key: sorted(value, key=json.dumps) for key, value in result.items()} | {
        "unconfigured": sorted(left)
    }


def _with_drop_ins(
    entry: FileOutcome, changes: Mapping[str, FileOutcome]
) -> list[tuple[str, str, str]]:
    """Return a file's settings and those of its drop-ins after it, in the order of their names."""
    lines: list[tuple[str, str, str]] = []
    for at, one in enumerate([entry, *(changes[name] for name in sorted(changes))]):
        if one.kind == "link" and one.target == "/dev/null":
            continue
        if one.text is None:
            raise ProbeError(f"{one.path}: {one.error or 'no content'}")
        lines += [
            (f"{section}.{at}" if at else section, key, value)
            for section, key, value in ini(one.text, one.path)
        ]
    return lines


def _card(
    result: dict[str, list[Any]],
    card: str,
    match: Mapping[str, str],
    lines: list[tuple[str, str, str]],
) -> None:
    if match.get("Kind") != "wireguard":  # a tunnel has none, and no card is of that kind
        result["macs"].append(f"{card} {match.get('MACAddress', 'any')}")
    network = {key: value for section, key, value in lines if section.startswith("Network#")}
    result["addresses"] += [
        f"{card} {value}"
        for section, key, value in lines
        if key == "Address" and section.startswith(("Network#", "Address#"))
    ]
    if network.get("DHCP", "no").lower() not in _NO:
        result["leased"].append(card)
    result["learning"] += [
        f"{card} {key}" for key in _LEARNING if network.get(key, "").lower() not in _NO
    ]
    for key, (setting, safe) in _KERNEL.items():
        if network.get(key, "").lower() not in safe | {""}:
            result[setting].append(f"{card} {key}={network[key]}")
    result["default"] += [
        f"{card} {value}" for section, key, value in lines
        if key == "Gateway" and section.startswith("Network#")
    ]  # fmt: skip
    for section in dict.fromkeys(line[0] for line in lines if line[0].startswith("Route#")):
        route = {key: value for name, key, value in lines if name == section}
        target, via = route.get("Destination", "default"), route.get("Gateway", "")
        if target in ("default", "0.0.0.0/0", "::/0"):
            result["default"].append(f"{card} {via}")
        else:
            result["routes"].append({"to": target, "via": via, "interface": card})


PROBES = (
    Probe(
        name="identity",
        operations={
            "identity": Read(
                (
                    f"{_DMI}/product_uuid",
                    f"{_DMI}/product_serial",
                    "/proc/sys/kernel/hostname",
                    "/etc/hostname",
                    "/etc/machine-id",
                )
            )
        },
        parse=_identity,
    ),
    Probe(
        name="links",
        operations={"addresses": Run(("ip", "-json", "-details", "address", "show"))},
        parse=_links,
    ),
    Probe(
        name="routes",
        operations={
            "ipv4": Run(("ip", "-json", "-4", "route", "show", "table", "all")),
            "ipv6": Run(("ip", "-json", "-6", "route", "show", "table", "all")),
            "rules": Run(("ip", "-json", "rule", "show")),
            # For the prover alone (`sekisho.prover.hostfacts`): no check asks them.
            "neighbours": Run(("ip", "-json", "-4", "neigh", "show")),
        },
        parse=_routes,
    ),
    Probe(
        name="sockets",
        operations={
            "sockets": Run(("ss", "-H", "-l", "-n", "-t", "-u", "-p")),
            "packet": Run(("ss", "-H", "-n", "-0", "-w", "-p")),
        },
        parse=_sockets,
    ),
    Probe(
        name="networkd",
        operations={
            "networks": Read(
                tuple(
                    f"{folder}/{pattern}"
                    for folder in _FOLDERS
                    for pattern in ("*.network", "*.network.d/*.conf")
                )
            ),
            "cards": Read(("/sys/class/net/*/address",), content=False),
        },
        parse=_networkd,
    ),
)
