"""A site into the policy of one host: the one signed document the host's agent reads. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

from sekisho.compile.accounts import derived as derived_accounts
from sekisho.core.canonical import digest
from sekisho.core.errors import Problem, SekishoError
from sekisho.core.names import PersonRole
from sekisho.devices.boot_line import declared as boot_words
from sekisho.nft.filter import compile_ruleset
from sekisho.nft.ipsec import IKE_DAEMON, IKE_PORTS
from sekisho.nft.management import METRICS, SSH, TIME
from sekisho.nft.readback import normalise
from sekisho.site.declared import declared
from sekisho.site.lines import across, flat_lines, lines_of
from sekisho.site.model import (
    MANAGEMENT,
    Encryption,
    Flow,
    Interface,
    Machine,
    Purpose,
    Role,
    Site,
)
from sekisho.site.tunnels import flat_tunnels, tunnel, tunnels_of

SCHEMA = 1
#: Roles of people → roles of machines they have an account on.
_ACCOUNTS: dict[PersonRole, frozenset[Role]] = {
    PersonRole.ADMINISTRATOR: frozenset(Role),
    PersonRole.AUDITOR: frozenset(Role),
    PersonRole.OPERATOR: frozenset({Role.INBOUND, Role.CORE, Role.OUTBOUND, Role.TERMINAL}),
    PersonRole.OFFICER: frozenset({Role.MONITOR}),
}


def _wire(site: Site, name: str, neighbour: str) -> Interface:
    """Return the interface of machine ``name`` on its link to ``neighbour``."""
    return site.wires[site.joins[name, neighbour]][name]


def _card(site: Site, name: str, neighbour: str) -> str:
    """Return the interface by which a gateway's flows meet ``neighbour``: its tunnel, or a card."""
    return tunnel(site, name, neighbour) or _wire(site, name, neighbour).name


def _address(site: Site, name: str, neighbour: str) -> IPv4Address:
    """Return the address ``name``, machine or peer, has towards ``neighbour``."""
    peer = site.peers.get(name)
    return peer.address if peer else _wire(site, name, neighbour).address


def compile_host(site: Site, host: str, *, serial: int, issued: datetime) -> dict[str, Any]:
    """Return the policy of ``host``, ready for `sekisho.core.canonical.canonical`.

    ``site`` must have passed `sekisho.site.rules.invariants.check`. ``issued`` is written in UTC.
    Raises `SekishoError` when the site has no such host.
    """
    machine = site.machines.get(host)
    if machine is None:
        raise SekishoError(
            "cannot compile the host",
            (Problem(site.at, host, "no such machine", "a machine of hosts.yml"),),
        )
    ours = machine.on(MANAGEMENT)
    assert ours is not None  # noqa: S101 - an invariant of the site
    monitors = [one.on(MANAGEMENT) for one in site.of(Role.MONITOR)]
    monitoring = sorted(one.address for one in monitors if one is not None)
    flows = [_flow(site, machine, flow) for flow in site.flows.values()]
    sessions = list(_sessions(site, machine))
    policy: dict[str, Any] = {
        "schema": SCHEMA,
        "site": site.name,
        "profile": site.profile,
        "serial": serial,
        "issued": issued.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": host,
        "role": machine.role.value,
        "identity": {"dmi_uuid": machine.dmi_uuid, "serial": machine.serial},
        "management": {
            "network": str(site.management.network),
            "address": str(ours.address),
            "interface": ours.name,
            "controllers": [str(one) for one in site.management.controllers],
            "auditors": [str(one) for one in site.management.auditors],
            "monitors": [str(one) for one in monitoring],
        },
        "interfaces": {one.name: _interface(site, one) for one in machine.interfaces.values()},
        "routes": _routes(site, machine),
        "flows": [flow for flow in flows if flow is not None],
        "lines": lines_of(site, machine.name),
        "tunnels": tunnels_of(site, machine),
        "sessions": sessions,
        "accounts": _accounts(site, machine),
        "devices": [device.as_json() for device in machine.devices],
        "devices_mode": machine.devices_mode,
        "disks": [disk.as_json() for disk in machine.disks],
        "pci": list(machine.pci),
        "boot": boot_words(machine.role.value, machine.boot),
        "console": machine.console.value,
        "console_proof": machine.console_proof.as_json() if machine.console_proof else None,
        "orders": {"people": approvers(site)},
        "modules": {
            "lock": machine.modules.lock,
            "allow": sorted(machine.modules.allow),
            # as the kernel writes it in kernel.modules_disabled
            "disabled": "1" if machine.modules.lock == "enforce" else "0",
        },
        "time": {
            "servers": []
            if machine.role is Role.MONITOR
            else [str(one) for one in monitoring if one != ours.address]
        },
        "metrics": {"address": str(ours.address), "port": METRICS},
    }
    policy["listeners"] = _listeners(policy)
    policy |= _flat(policy)
    policy["derived"] = {"accounts": derived_accounts(policy)}
    rules = compile_ruleset(policy)
    policy["nftables"] = rules
    policy["nftables_digest"] = digest(normalise(rules))
    policy["declared"] = declared(site, machine)
    return policy


def _interface(site: Site, one: Interface) -> dict[str, str]:
    if one.link == MANAGEMENT:
        network, purpose = site.management.network, Purpose.MANAGEMENT
    else:
        link = site.links[one.link]
        network, purpose = link.network, link.purpose
    return {
        "mac": one.mac,
        "link": one.link,
        "purpose": purpose.value,
        "address": f"{one.address}/{network.prefixlen}",
    }


def _flow(site: Site, machine: Machine, flow: Flow) -> dict[str, Any] | None:
    """Return what ``flow`` is to ``machine``, or None when it does not touch it."""
    name = machine.name
    base: dict[str, Any] = {"name": flow.name, "mode": flow.mode.value, "port": flow.port}
    base |= across(site, machine, flow)
    if name == flow.via:
        return base | {
            "direction": "forward",
            "from_address": str(_address(site, flow.sender, name)),
            "to_address": str(_address(site, flow.receiver, name)),
            "in_interface": _card(site, name, flow.sender),
            "out_interface": _card(site, name, flow.receiver),
        }
    if name not in (flow.sender, flow.receiver):
        return None
    peer = flow.receiver if name == flow.sender else flow.sender
    next_hop = flow.via or peer
    local = _wire(site, name, next_hop)
    return base | {
        "direction": "out" if name == flow.sender else "in",
        "peer": peer,
        "peer_address": str(_address(site, peer, flow.via or name)),
        "local_address": str(local.address),
        "interface": local.name,
    }


def _routes(site: Site, machine: Machine) -> list[dict[str, str]]:
    """Return the routes the flows of ``machine`` need beyond its own links; never a default one."""
    found: dict[IPv4Network, dict[str, str]] = {}
    for flow in site.flows.values():
        outside = site.peers.get(flow.sender) or site.peers.get(flow.receiver)
        if outside is None or flow.via is None:
            continue
        link = site.links[site.joins[flow.via, outside.name]]
        inside = tunnel(site, flow.via, outside.name)
        direct = outside.router is None and inside is None
        target = link.network if direct else IPv4Network(outside.address)
        if machine.name == flow.via and not direct:
            via, interface = str(outside.router), _wire(site, machine.name, outside.name).name
            encrypted = link.encryption in (Encryption.IPSEC, Encryption.WIREGUARD)
            if encrypted and outside.vpn not in link.network:
                ends = IPv4Network(outside.vpn)  # where the peer's end of the line is
                found[ends] = {"to": str(ends), "via": via, "interface": interface}
            if inside is not None:
                via, interface = "", inside  # the tunnel has one other end
        elif machine.name in (flow.sender, flow.receiver):
            via = str(_wire(site, flow.via, machine.name).address)
            interface = _wire(site, machine.name, flow.via).name
        else:
            continue
        found[target] = {"to": str(target), "via": via, "interface": interface}
    return [found[target] for target in sorted(found)]


def _sessions(site: Site, machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield the SSH sessions over the desk: terminal to core."""
    for own in machine.interfaces.values():
        link = site.links.get(own.link)
        if link is None or link.purpose is not Purpose.TERMINAL:
            continue
        wires = site.wires[link.name]
        incoming = machine.role is Role.CORE
        for other in site.of(Role.TERMINAL if incoming else Role.CORE):
            if other.name in wires:
                yield {
                    "direction": "in" if incoming else "out",
                    "peer": other.name,
                    "peer_address": str(wires[other.name].address),
                    "local_address": str(own.address),
                    "interface": own.name,
                    "port": SSH,
                }


def _accounts(site: Site, machine: Machine) -> dict[str, Any]:
    return {
        person.id: {
            "role": person.role.value,
            "uid": person.uid,
            "keys": list(person.keys),
            "authority_until": person.authority_until.isoformat(),
            "trained": person.trained.isoformat(),
        }
        for person in site.people.values()
        if machine.role in _ACCOUNTS[person.role]
    }


def approvers(site: Site) -> dict[str, Any]:
    """Return whose signature under an order counts, on every machine the same."""
    return {
        person.id: {
            "role": person.role.value,
            "authority_until": person.authority_until.isoformat(),
            "key": base64.b64encode(person.approval_key).decode(),
        }
        for person in site.people.values()
        if person.approval_key
    }


def _listeners(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every socket that may wait on an address other than the loopback's."""
    own = policy["management"]["address"]
    found: set[tuple[str, str, int, str]] = {
        ("tcp", own, SSH, "sshd"),
        ("tcp", own, METRICS, "agent"),
    }
    for entry in policy["sessions"]:
        if entry["direction"] == "in":
            found.add(("tcp", entry["local_address"], SSH, "sshd"))
    for flow in policy["flows"]:
        if flow["direction"] == "in":
            protocol = "udp" if flow["mode"] == "diode" else "tcp"
            found.add((protocol, flow["local_address"], flow["port"], "receive"))
    if policy["lines"]:
        # strongSwan's IKE socket cannot be bound to an address; the packet filter narrows it.
        found |= {("udp", "0.0.0.0", port, IKE_DAEMON) for port in IKE_PORTS}  # noqa: S104
    # Neither can WireGuard's, which the kernel holds for both families.
    for one in policy["tunnels"]:
        found |= {("udp", any_, one["port"], "wireguard") for any_ in ("0.0.0.0", "::")}  # noqa: S104
    if policy["role"] == Role.MONITOR:
        found.add(("udp", own, TIME, "chronyd"))
    return [
        {"proto": proto, "address": address, "port": port, "program": program}
        for proto, address, port, program in sorted(
            found, key=lambda one: (one[0], int(ip_address(one[1])), one[2], one[1])
        )
    ]


def _flat(policy: dict[str, Any]) -> dict[str, list[str]]:
    """Return the same facts as flat lists of text: the form checks compare with probes."""
    interfaces = policy["interfaces"]
    hops = []
    for flow in policy["flows"]:
        protocol = "udp" if flow["mode"] == "diode" else "tcp"
        if flow["direction"] == "forward":
            keys = "in_interface out_interface from_address to_address"
        else:
            keys = "interface peer_address local_address"
        words = " ".join(flow[key] for key in keys.split())
        hops.append(f"{flow['direction']} {words} {protocol} {flow['port']}")
    networks = {str(IPv4Network(one["address"], strict=False)) for one in interfaces.values()}
    ours = policy["management"]
    tunnels = flat_tunnels(policy)
    return (
        {
            "macs": [f"{name} {one['mac']}" for name, one in interfaces.items()],
            "addresses": [f"{name} {one['address']}" for name, one in interfaces.items()],
            "networks": sorted(networks),
            "hops": hops,
            "ssh_from": sorted({*ours["controllers"], *ours["auditors"]}),
            "sockets": [
                f"{one['proto']} {one['address']}:{one['port']}"
                for one in policy["listeners"]
                if one["program"] != "wireguard"
            ]
            + tunnels["tunnel_sockets"],
            "everywhere": [
                f"{one['proto']} {one['address']}:{one['port']} {one['program']}"
                for one in policy["listeners"]
                if one["address"] == "0.0.0.0"  # noqa: S104 - looked for, not bound
            ],
        }
        | flat_lines(policy)
        | tunnels
        | {
            f"desk_{way}": [
                f"{one['interface']} {one['peer_address']} {one['local_address']} {one['port']}"
                for one in policy["sessions"]
                if one["direction"] == way
            ]
            for way in ("in", "out")
        }
    )
