"""A site into the policy of one host: the one signed document the host's agent reads. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, ip_address
from types import MappingProxyType

from sekisho.compile.accounts import derived as derived_accounts
from sekisho.core.canonical import digest
from sekisho.core.errors import Problem, SekishoError
from sekisho.core.names import PersonRole
from sekisho.devices.boot_line import declared as boot_words
from sekisho.devices.disks import Disk
from sekisho.devices.policy import Rule
from sekisho.nft.filter import compile_ruleset
from sekisho.nft.ipsec import IKE_DAEMON, IKE_PORTS
from sekisho.nft.management import METRICS, SSH, TIME
from sekisho.nft.readback import normalise
from sekisho.policy import parts
from sekisho.policy.forms import Sealed
from sekisho.policy.host_policy import SCHEMA, HostPolicy
from sekisho.site.declared import declared
from sekisho.site.lines import across, flat_lines, lines_of
from sekisho.site.model import (
    MANAGEMENT,
    Encryption,
    Flow,
    Interface,
    Machine,
    Mode,
    Purpose,
    Role,
    Site,
)
from sekisho.site.tunnels import flat_tunnels, tunnel, tunnels_of

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


def compile_host(site: Site, host: str, *, serial: int, issued: datetime) -> HostPolicy:
    """Return the policy of ``host``.

    ``site`` must have passed `sekisho.site.rules.invariants.check`. ``issued`` is written in UTC.
    Raises `SekishoError` when the site has no such host.
    """
    machine = site.machines.get(host)
    if machine is None:
        raise SekishoError(
            "cannot compile the host",
            (Problem(site.at, host, "no such machine", "a machine of hosts.yml"),),
        )
    policy = _told(site, machine, serial=serial, issued=issued)
    rules = compile_ruleset(policy)
    return replace(policy, nftables=Sealed.of(rules), nftables_digest=digest(normalise(rules)))


def _told(site: Site, machine: Machine, *, serial: int, issued: datetime) -> HostPolicy:
    """Return everything but the packet filter, which is compiled of the rest."""
    management = _management(site, machine)
    interfaces = {one.name: _interface(site, one) for one in machine.interfaces.values()}
    found = (_flow(site, machine, flow) for flow in site.flows.values())
    flows = tuple(flow for flow in found if flow is not None)
    lines, tunnels = lines_of(site, machine.name), tunnels_of(site, machine)
    sessions = tuple(_sessions(site, machine))
    accounts = _accounts(site, machine)
    listeners = _listeners(management, machine.role, flows, sessions, (lines, tunnels))
    moment = issued.strftime("%Y-%m-%dT%H:%M:%SZ")
    enforce = machine.modules.lock == "enforce"
    crypt = flat_lines(lines, flows) | flat_tunnels(tunnels)
    proof = machine.console_proof
    servers = () if machine.role is Role.MONITOR else management.monitors
    return HostPolicy(
        schema=SCHEMA,
        site=site.name,
        profile=site.profile,
        serial=serial,
        issued=moment,
        host=machine.name,
        role=machine.role,
        identity=parts.Identity(machine.dmi_uuid, machine.serial),
        management=management,
        interfaces=MappingProxyType(interfaces),
        routes=_routes(site, machine),
        flows=flows,
        lines=lines,
        tunnels=tunnels,
        sessions=sessions,
        accounts=MappingProxyType(accounts),
        devices=tuple(
            Rule(
                name=one.name,
                vendor=one.vendor,
                product=one.product,
                serial=one.serial,
                port=one.port,
                interfaces=frozenset(one.interfaces),
                serial_hash=one.serial_hash,
                count=one.count,
            )
            for one in machine.devices
        ),
        devices_mode=machine.devices_mode,
        disks=tuple(
            Disk(one.name, one.path, one.serial, one.wwn, one.mode) for one in machine.disks
        ),
        pci=machine.pci,
        boot=tuple(boot_words(machine.role.value, machine.boot)),
        console=machine.console,
        console_proof=parts.ConsoleProof(proof.reference, proof.tested) if proof else None,
        orders=parts.Orders(MappingProxyType(approvers(site))),
        modules=parts.Modules(
            lock=machine.modules.lock,
            allow=tuple(sorted(machine.modules.allow)),
            # as the kernel writes it in kernel.modules_disabled
            disabled="1" if enforce else "0",
        ),
        time=parts.Time(tuple(one for one in servers if one != management.address)),
        metrics=parts.Metrics(management.address, METRICS),
        listeners=listeners,
        derived=parts.Derived(
            derived_accounts(accounts, sessions, management, today=moment.partition("T")[0])
        ),
        nftables=Sealed.of({}),
        nftables_digest="",
        declared=MappingProxyType(declared(site, machine)),
        # The same facts as flat lists of text: the form checks compare with probes.
        macs=tuple(f"{name} {one.mac}" for name, one in interfaces.items()),
        addresses=tuple(f"{name} {one.address}" for name, one in interfaces.items()),
        networks=_networks(interfaces.values()),
        hops=tuple(map(_words, flows)),
        ssh_from=tuple(sorted({*management.controllers, *management.auditors})),
        desk_in=_desk(sessions, "in"),
        desk_out=_desk(sessions, "out"),
        everywhere=tuple(
            f"{one.proto} {one.address}:{one.port} {one.program}"
            for one in listeners
            if one.address == "0.0.0.0"  # noqa: S104 - looked for, not bound
        ),
        sockets=(
            *(
                f"{one.proto} {one.address}:{one.port}"
                for one in listeners
                if one.program != "wireguard"
            ),
            *crypt["tunnel_sockets"],
        ),
        line_ends=crypt["line_ends"],
        line_flows=crypt["line_flows"],
        line_policies=crypt["line_policies"],
        line_hops=crypt["line_hops"],
        tunnel_cards=crypt["tunnel_cards"],
        tunnel_peers=crypt["tunnel_peers"],
        tunnel_ends=crypt["tunnel_ends"],
        tunnel_sockets=crypt["tunnel_sockets"],
    )


def _management(site: Site, machine: Machine) -> parts.Management:
    ours = machine.on(MANAGEMENT)
    assert ours is not None  # noqa: S101 - an invariant of the site
    monitors = [one.on(MANAGEMENT) for one in site.of(Role.MONITOR)]
    return parts.Management(
        network=str(site.management.network),
        address=str(ours.address),
        interface=ours.name,
        controllers=tuple(map(str, site.management.controllers)),
        auditors=tuple(map(str, site.management.auditors)),
        monitors=tuple(str(one) for one in sorted(one.address for one in monitors if one)),
    )


def _interface(site: Site, one: Interface) -> parts.Interface:
    if one.link == MANAGEMENT:
        network, purpose = site.management.network, Purpose.MANAGEMENT
    else:
        link = site.links[one.link]
        network, purpose = link.network, link.purpose
    return parts.Interface(one.mac, one.link, purpose, f"{one.address}/{network.prefixlen}")


def _flow(site: Site, machine: Machine, flow: Flow) -> parts.Flow | None:
    """Return what ``flow`` is to ``machine``, or None when it does not touch it."""
    name = machine.name
    comes_by, goes_by = across(site, machine, flow)
    if name == flow.via:
        return parts.Passage(
            name=flow.name,
            mode=flow.mode,
            port=flow.port,
            direction="forward",
            from_address=str(_address(site, flow.sender, name)),
            to_address=str(_address(site, flow.receiver, name)),
            in_interface=_card(site, name, flow.sender),
            out_interface=_card(site, name, flow.receiver),
            line_from=comes_by,
            line_to=goes_by,
        )
    if name not in (flow.sender, flow.receiver):
        return None
    peer = flow.receiver if name == flow.sender else flow.sender
    next_hop = flow.via or peer
    local = _wire(site, name, next_hop)
    return parts.Hop(
        name=flow.name,
        mode=flow.mode,
        port=flow.port,
        direction="out" if name == flow.sender else "in",
        peer=peer,
        peer_address=str(_address(site, peer, flow.via or name)),
        local_address=str(local.address),
        interface=local.name,
        line_from=comes_by,
        line_to=goes_by,
    )


def _routes(site: Site, machine: Machine) -> tuple[parts.Route, ...]:
    """Return the routes the flows of ``machine`` need beyond its own links; never a default one."""
    found: dict[IPv4Network, parts.Route] = {}
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
                found[ends] = parts.Route(str(ends), via, interface)
            if inside is not None:
                via, interface = "", inside  # the tunnel has one other end
        elif machine.name in (flow.sender, flow.receiver):
            via = str(_wire(site, flow.via, machine.name).address)
            interface = _wire(site, machine.name, flow.via).name
        else:
            continue
        found[target] = parts.Route(str(target), via, interface)
    return tuple(found[target] for target in sorted(found))


def _sessions(site: Site, machine: Machine) -> Iterator[parts.Session]:
    """Yield the SSH sessions over the desk: terminal to core."""
    for own in machine.interfaces.values():
        link = site.links.get(own.link)
        if link is None or link.purpose is not Purpose.TERMINAL:
            continue
        wires = site.wires[link.name]
        incoming = machine.role is Role.CORE
        for other in site.of(Role.TERMINAL if incoming else Role.CORE):
            if other.name in wires:
                yield parts.Session(
                    direction="in" if incoming else "out",
                    peer=other.name,
                    peer_address=str(wires[other.name].address),
                    local_address=str(own.address),
                    interface=own.name,
                    port=SSH,
                )


def _accounts(site: Site, machine: Machine) -> dict[str, parts.Account]:
    return {
        person.id: parts.Account(
            role=person.role,
            uid=person.uid,
            keys=tuple(person.keys),
            authority_until=person.authority_until,
            trained=person.trained,
        )
        for person in site.people.values()
        if machine.role in _ACCOUNTS[person.role]
    }


def approvers(site: Site) -> dict[str, parts.Approver]:
    """Return whose signature under an order counts, on every machine the same."""
    return {
        person.id: parts.Approver(person.role, person.authority_until, person.approval_key)
        for person in site.people.values()
        if person.approval_key
    }


def _listeners(
    management: parts.Management,
    role: Role,
    flows: tuple[parts.Flow, ...],
    sessions: tuple[parts.Session, ...],
    encrypted: tuple[tuple[parts.Line, ...], tuple[parts.Tunnel, ...]],
) -> tuple[parts.Listener, ...]:
    """Return every socket that may wait on an address other than the loopback's."""
    own = management.address
    found: set[tuple[str, str, int, str]] = {
        ("tcp", own, SSH, "sshd"),
        ("tcp", own, METRICS, "agent"),
    }
    found |= {("tcp", one.local_address, SSH, "sshd") for one in sessions if one.direction == "in"}
    found |= {
        (_protocol(flow), flow.local_address, flow.port, "receive")
        for flow in flows
        if isinstance(flow, parts.Hop) and flow.direction == "in"
    }
    lines, tunnels = encrypted
    if lines:
        # strongSwan's IKE socket cannot be bound to an address; the packet filter narrows it.
        found |= {("udp", "0.0.0.0", port, IKE_DAEMON) for port in IKE_PORTS}  # noqa: S104
    # Neither can WireGuard's, which the kernel holds for both families.
    for one in tunnels:
        found |= {("udp", any_, one.port, "wireguard") for any_ in ("0.0.0.0", "::")}  # noqa: S104
    if role is Role.MONITOR:
        found.add(("udp", own, TIME, "chronyd"))
    return tuple(
        parts.Listener(*one)
        for one in sorted(found, key=lambda one: (one[0], int(ip_address(one[1])), one[2], one[1]))
    )


def _protocol(flow: parts.Flow) -> str:
    return "udp" if flow.mode is Mode.DIODE else "tcp"


def _networks(interfaces: Iterable[parts.Interface]) -> tuple[str, ...]:
    return tuple(sorted({str(IPv4Network(one.address, strict=False)) for one in interfaces}))


def _words(flow: parts.Flow) -> str:
    """Return a flow as the check on hops compares it."""
    if isinstance(flow, parts.Passage):
        place = f"{flow.in_interface} {flow.out_interface} {flow.from_address} {flow.to_address}"
    else:
        place = f"{flow.interface} {flow.peer_address} {flow.local_address}"
    return f"{flow.direction} {place} {_protocol(flow)} {flow.port}"


def _desk(sessions: tuple[parts.Session, ...], way: str) -> tuple[str, ...]:
    return tuple(
        f"{one.interface} {one.peer_address} {one.local_address} {one.port}"
        for one in sessions
        if one.direction == way
    )
