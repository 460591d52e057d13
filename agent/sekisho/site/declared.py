"""What the site model declares of one machine's wires, written down without its compiler. Pure.

`lines` reads the site itself (not the host's policy, not its rules): each declared line is who
speaks with whom over which interfaces, and what either direction may hold. Needs no solver: a
host's policy carries its lines, so that an audit's evidence can be proven again without the site.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

from sekisho.nft.ipsec import IKE_PORTS
from sekisho.nft.management import METRICS, SSH, TIME
from sekisho.policy.parts import ESP, ICMP, TCP, UDP, DeclaredLine, Way
from sekisho.site.lines import encrypted, end
from sekisho.site.model import MANAGEMENT, Encryption, Flow, Machine, Mode, Purpose, Role, Site
from sekisho.site.tunnels import tunnel

_ECHO_REQUEST, _ECHO_REPLY = 8, 0


def stays(line: DeclaredLine, management: str) -> bool:
    """Return whether a line still stands at a quarantined host: what joins it to its monitor.

    Metrics are asked of it and time is asked by it, on its management interface; a monitor itself
    serves no time then, and scrapes nobody.
    """
    if management not in (line.iif, line.oif) or line.way == "forward":
        return False
    if line.name.startswith("metrics"):
        return True
    # Asked by this host: out, and the answers in.
    return line.name.startswith("time") and (line.way == "output") is not line.back


def declared(site: Site, machine: Machine) -> dict[str, Way]:
    """Return what the prover asks of a machine's rules, way by way, as its policy carries it."""
    every = lines(site, machine)
    return {
        way: Way(way, tuple(line for line in every if line.way == way))
        for way in ("input", "output", "forward")
    }


def _one(address: object) -> tuple[IPv4Network, ...]:
    return (IPv4Network(str(address)),)


def lines(site: Site, machine: Machine) -> list[DeclaredLine]:
    """Return every direction of every line the site declares at ``machine``."""
    found = [line for flow in site.flows.values() for line in _flow(site, machine, flow)]
    found += [*_outer(site, machine), *_around(site, machine)]
    found += _desk(site, machine)
    found += _services(site, machine)
    return found


def _address(site: Site, name: str, neighbour: str) -> tuple[IPv4Network, ...]:
    peer = site.peers.get(name)
    if peer is not None:
        return _one(peer.address)
    return _one(site.wires[site.joins[name, neighbour]][name].address)


def _flow(site: Site, machine: Machine, flow: Flow) -> Iterator[DeclaredLine]:
    stops = [flow.sender, *([flow.via] if flow.via else []), flow.receiver]
    if machine.name not in stops:
        return
    place = stops.index(machine.name)
    before = stops[place - 1] if place else ""
    after = stops[place + 1] if place + 1 < len(stops) else ""
    left = _near(site, machine.name, before) if before else ""
    right = _near(site, machine.name, after) if after else ""
    senders, receivers = _address(site, stops[0], stops[1]), _address(site, stops[-1], stops[-2])
    way = "forward" if before and after else "input" if before else "output"
    diode = flow.mode is Mode.DIODE
    protocol = UDP if diode else TCP
    came = bool(before) and encrypted(site, before, machine.name) is not None
    goes = bool(after) and encrypted(site, machine.name, after) is not None
    yield DeclaredLine(flow.name, way, left, right, senders, receivers, protocol, flow.port,
               back=False, bare=False, syn=True, ipsec=_by(came, goes))  # fmt: skip
    if diode:
        return
    way = {"input": "output", "output": "input"}.get(way, way)
    yield DeclaredLine(f"{flow.name}, replies", way, right, left, receivers, senders, protocol,
               flow.port, back=True, bare=True, syn=False, ipsec=_by(goes, came))  # fmt: skip


def _near(site: Site, name: str, neighbour: str) -> str:
    """Return the interface a neighbour's packets come and go by: its tunnel's, or a card."""
    card = site.wires[site.joins[name, neighbour]][name].name
    return tunnel(site, name, neighbour) or card


def _by(came: object, goes: object) -> str:
    return " ".join(word for word, asked in (("in", came), ("out", goes)) if asked)


def _outer(site: Site, machine: Machine) -> Iterator[DeclaredLine]:
    """Yield what carries the encrypted lines: ESP and IKE between their ends."""
    for link in site.links.values():
        if link.encryption is not Encryption.IPSEC or machine.name not in link.between:
            continue
        own = site.wires[link.name][machine.name]
        near = _one(own.address)
        far = tuple(
            IPv4Network(end(site, link.name, one)) for one in link.between if one != machine.name
        )
        for protocol, port in ((ESP, 0), *((UDP, port) for port in IKE_PORTS)):
            name = f"{link.name}, IPsec"
            yield DeclaredLine(name, "input", own.name, "", far, near, protocol, port,
                       back=False, bare=False, syn=False, ipsec="outer")  # fmt: skip
            yield DeclaredLine(name, "output", "", own.name, near, far, protocol, port,
                       back=False, bare=False, syn=False, ipsec="outer")  # fmt: skip


def _around(site: Site, machine: Machine) -> Iterator[DeclaredLine]:
    """Yield what carries the tunnels: WireGuard's UDP between each two ends."""
    for link in site.links.values():
        if link.encryption is not Encryption.WIREGUARD or machine.name not in link.between:
            continue
        own = site.wires[link.name][machine.name]
        for peer in [site.peers[name] for name in link.between if name in site.peers]:
            assert peer.wireguard is not None  # noqa: S101 - an invariant of the site
            far, near, name = _one(peer.vpn), _one(own.address), f"{link.name}, WireGuard"
            port = peer.wireguard.port
            yield DeclaredLine(name, "input", own.name, "", far, near, UDP, port,
                       back=False, bare=False, syn=False, ipsec="outer")  # fmt: skip
            yield DeclaredLine(name, "output", "", own.name, near, far, UDP, port,
                       back=False, bare=False, syn=False, ipsec="outer")  # fmt: skip


def _both(line: DeclaredLine) -> Iterator[DeclaredLine]:
    yield line
    way = {"input": "output", "output": "input"}[line.way]
    yield DeclaredLine(f"{line.name}, replies", way, line.oif, line.iif, line.receivers,
               line.senders, line.protocol, line.port, back=True, bare=False, syn=False,
               ipsec="")  # fmt: skip


def _desk(site: Site, machine: Machine) -> Iterator[DeclaredLine]:
    for own in machine.interfaces.values():
        link = site.links.get(own.link)
        if link is None or link.purpose is not Purpose.TERMINAL:
            continue
        core = machine.role is Role.CORE
        others = [
            wire.address
            for name, wire in site.wires[link.name].items()
            if site.machines[name].role is (Role.TERMINAL if core else Role.CORE)
        ]
        if not others:
            continue
        far, near = tuple(IPv4Network(str(one)) for one in others), _one(own.address)
        if core:
            yield from _both(DeclaredLine("desk", "input", own.name, "", far, near, TCP, SSH,
                                  back=False, bare=False, syn=True, ipsec=""))  # fmt: skip
        else:
            yield from _both(DeclaredLine("desk", "output", "", own.name, near, far, TCP, SSH,
                                  back=False, bare=False, syn=True, ipsec=""))  # fmt: skip


def _services(site: Site, machine: Machine) -> Iterator[DeclaredLine]:
    ours = machine.on(MANAGEMENT)
    if ours is None:
        return
    name, own, everyone = ours.name, _one(ours.address), (site.management.network,)
    admins = tuple(
        IPv4Network(str(one))
        for one in sorted({*site.management.controllers, *site.management.auditors})
    )
    watching = [other.on(MANAGEMENT) for other in site.of(Role.MONITOR)]
    monitors = tuple(IPv4Network(str(one.address)) for one in watching if one is not None)

    def asked(
        what: str, who: tuple[IPv4Network, ...], protocol: int, port: int
    ) -> Iterator[DeclaredLine]:
        yield from _both(DeclaredLine(what, "input", name, "", who, own, protocol, port,
                              back=False, bare=False, syn=False, ipsec=""))  # fmt: skip

    def asks(
        what: str, whom: tuple[IPv4Network, ...], protocol: int, port: int
    ) -> Iterator[DeclaredLine]:
        yield from _both(DeclaredLine(what, "output", "", name, own, whom, protocol, port,
                              back=False, bare=False, syn=False, ipsec=""))  # fmt: skip

    yield from asked("administration", admins, TCP, SSH)
    yield from asked("metrics", monitors, TCP, METRICS)
    anywhere = (IPv4Network("0.0.0.0/0"),)
    yield DeclaredLine("echo", "input", name, "", admins, anywhere, ICMP, _ECHO_REQUEST,
               back=False, bare=False, syn=False, ipsec="")  # fmt: skip
    yield DeclaredLine("echo, replies", "output", "", name, anywhere, admins, ICMP, _ECHO_REPLY,
               back=True, bare=False, syn=False, ipsec="")  # fmt: skip
    if machine.role is Role.MONITOR:
        yield from asks("scraping", everyone, TCP, METRICS)
        yield from asked("time", everyone, UDP, TIME)
    else:
        yield from asks("time", monitors, UDP, TIME)
