"""WireGuard's tunnels: what networkd is told of them, and what the kernel holds; never a key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sekisho.core.text import lines_of
from sekisho.network.networkd import FOLDER, TUNNEL_CREDENTIAL
from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output
from sekisho.probes.network import ini

_NETDEVS = tuple(
    f"{folder}/{name}"
    for folder in (FOLDER, "/run/systemd/network")
    for name in ("*.netdev", "*.netdev.d/*")
)


def _told(raw: Mapping[str, Any]) -> list[str]:
    """Return what networkd makes of its files, one line a peer; what is no tunnel is told, too."""
    found = []
    for path, entry in sorted(files(raw, "configuration").items()):
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'no content'}")
        sections: dict[str, dict[str, list[str]]] = {}
        for section, key, value in ini(entry.text, path):
            # Each peer is a section of its own; of the others a second one goes on with the first.
            name = section if section.startswith("WireGuardPeer#") else section.partition("#")[0]
            sections.setdefault(name, {}).setdefault(key, []).append(value)
        netdev, own = (_flat(sections.pop(name, {})) for name in ("NetDev", "WireGuard"))
        peers = [_flat(values) for values in sections.values()]
        kind, key_by = netdev.get("Kind", "nothing"), own.get("PrivateKey", "")
        ours = path.startswith(f"{FOLDER}/05-sekisho-") and key_by == TUNNEL_CREDENTIAL
        if kind != "wireguard" or not peers or not ours:
            found.append(f"{netdev.get('Name', 'no name')} of kind {kind} in {path}")
            continue
        found += [
            f"{netdev.get('Name')} {own.get('ListenPort')} {peer.get('PublicKey')} "
            f"{peer.get('Endpoint')} {peer.get('AllowedIPs')}"
            for peer in peers
        ]
    return found


def _flat(values: Mapping[str, list[str]]) -> dict[str, str]:
    return {key: ",".join(listed) for key, listed in values.items()}


def _loaded(raw: Mapping[str, Any]) -> list[str]:
    """Return the kernel's tunnels, one line a peer; one without a peer is a line as well."""
    try:
        cards = json.loads(output(raw, "cards") or "[]")
        names = sorted(str(one["ifname"]) for one in cards if one)
    except (ValueError, TypeError, KeyError):
        raise ProbeError("ip: garbled JSON") from None
    if not names:
        return []  # and perhaps no wg to ask
    ports = dict(_rows(raw, "ports", 2))
    ends = {(name, peer): end for name, peer, end in _rows(raw, "endpoints", 3)}
    found = [
        f"{name} {ports.get(name)} {peer} {ends.get((name, peer))} {allowed.replace(' ', ',')}"
        for name, peer, allowed in _rows(raw, "allowed", 3)
    ]
    alone = set(names) - {line.partition(" ")[0] for line in found}
    return sorted([*found, *(f"{name} {ports.get(name)} without a peer" for name in alone)])


def _rows(raw: Mapping[str, Any], label: str, columns: int) -> list[list[str]]:
    rows = [line.split("\t") for line in lines_of(output(raw, label))]
    if any(len(row) != columns for row in rows):
        raise ProbeError(f"wg: {label}: a garbled line")
    return rows


def _wireguard(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"configured": _told(raw), "loaded": _loaded(raw)}


PROBES = (
    Probe(
        name="wireguard",
        operations={
            "configuration": Read(_NETDEVS),
            "cards": Run(("ip", "-json", "link", "show", "type", "wireguard")),
            # Not `dump` nor `showconf`: an evidence bundle must not hold keys.
            "ports": Run(("wg", "show", "all", "listen-port")),
            "endpoints": Run(("wg", "show", "all", "endpoints")),
            "allowed": Run(("wg", "show", "all", "allowed-ips")),
        },
        parse=_wireguard,
    ),
)
