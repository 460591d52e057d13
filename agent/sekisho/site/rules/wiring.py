"""Which links may exist, and between whom. Pure.

The outside (``ip-vpn``) touches gateways only; core has inbound and outbound for neighbours and
nobody else; nothing but a terminal's desk touches core besides.
"""

from __future__ import annotations

from collections.abc import Iterator

from sekisho.core.errors import Problem
from sekisho.site.model import (
    MANAGEMENT,
    Encryption,
    Kind,
    Link,
    Machine,
    Purpose,
    Role,
    Side,
    Site,
)

#: Pairs of roles a dedicated data link may join, and the item that says why.
_PAIRS: dict[frozenset[Role], str] = {
    frozenset({Role.GATEWAY, Role.INBOUND}): "6-iv-d-2",
    frozenset({Role.INBOUND, Role.CORE}): "6-iv-e",
    frozenset({Role.CORE, Role.OUTBOUND}): "6-iv-e",
    frozenset({Role.OUTBOUND, Role.GATEWAY}): "6-iv-d-3",
}
_PAIRS_TEXT = "gateway-inbound, inbound-core, core-outbound or outbound-gateway"


def wiring_problems(site: Site) -> Iterator[Problem]:
    """Yield every link or interface that must not be."""
    yield from _interfaces(site)
    for link in site.links.values():
        yield from _members(site, link)
        if link.purpose is Purpose.TERMINAL:
            yield from _desk(site, link)
        elif link.kind is Kind.IP_VPN:
            yield from _outside(site, link)
        else:
            yield from _dedicated(site, link)
    yield from _neighbours(site)


def _interfaces(site: Site) -> Iterator[Problem]:
    members = {name: set(link.between) for name, link in site.links.items()}
    for machine in site.machines.values():
        used: dict[str, str] = {}
        for one in machine.interfaces.values():
            key = f"interfaces.{one.name}.link"
            if one.link == MANAGEMENT:
                continue
            link = site.links.get(one.link)
            if link is None:
                yield Problem(one.at, key, one.link, "the name of a link, or management")
                continue
            if machine.name not in members[one.link]:
                yield Problem(
                    one.at, key, one.link, f"a link that names {machine.name} under between:"
                )
            if one.link in used:
                yield Problem(one.at, key, f"{one.link} again", f"once ({used[one.link]})")
            used[one.link] = one.name
            if link.kind is Kind.IP_VPN and machine.role is not Role.GATEWAY:
                yield Problem(
                    one.at,
                    key,
                    f"{one.link}, which touches the outside",
                    f"an outside link on gateways only; {machine.name} is {machine.role}",
                    {Role.CORE: "6-iv-e", Role.OUTBOUND: "6-iv-d-3"}.get(machine.role, "6-iv-d-2"),
                )


def _members(site: Site, link: Link) -> Iterator[Problem]:
    wired = site.wires.get(link.name, {})
    seen: set[str] = set()
    for member in link.between:
        key = f"links.{link.name}.between"
        if member in seen:
            yield Problem(link.at, key, f"{member} again", "it once")
        seen.add(member)
        if member in site.machines:
            if member not in wired:
                yield Problem(
                    link.at,
                    key,
                    f"{member}, which has no interface on {link.name}",
                    f"an interface in host_vars/{member}.yml",
                )
        elif member not in site.peers:
            yield Problem(link.at, key, member, "a machine or a peer of this site")


def _machines(site: Site, link: Link) -> list[Machine]:
    return [site.machines[name] for name in link.between if name in site.machines]


def _outside(site: Site, link: Link) -> Iterator[Problem]:
    key = f"links.{link.name}.between"
    machines = _machines(site, link)
    peers = [site.peers[name] for name in link.between if name in site.peers]
    gateways = [machine for machine in machines if machine.role is Role.GATEWAY]
    for machine in machines:
        if machine.role is not Role.GATEWAY:
            yield Problem(
                link.at, key, f"{machine.name}, {machine.role}", "gateways and peers only",
                "6-iv-d-1",
            )  # fmt: skip
    if len(gateways) != 1 or not peers:
        yield Problem(
            link.at,
            key,
            f"{len(gateways)} gateways and {len(peers)} peers",
            "one gateway and at least one peer on an outside link",
            "6-iv-d-1",
        )
    if len({peer.side for peer in peers}) > 1:
        yield Problem(
            link.at, key, "providers and recipients together", "one side per link", "6-iv-d-3"
        )
    for peer in peers:
        inside = link.encryption is Encryption.WIREGUARD  # see `sekisho.site.rules.lines`
        if peer.router is None and peer.address not in link.network and not inside:
            yield Problem(
                peer.at,
                f"peers.{peer.name}.address",
                f"{peer.address}, outside {link.network} ({link.name})",
                "an address of the link, or a router: on it",
            )
        if peer.router is not None and (
            peer.router not in link.network
            or any(peer.router == machine.interfaces[name].address
                   for machine in machines for name in machine.interfaces)
        ):  # fmt: skip
            yield Problem(
                peer.at,
                f"peers.{peer.name}.router",
                str(peer.router),
                f"the carrier's router in {link.network} ({link.name})",
            )


def _dedicated(site: Site, link: Link) -> Iterator[Problem]:
    key = f"links.{link.name}.between"
    for name in link.between:
        if name in site.peers:
            yield Problem(
                link.at, key, f"{name}, a peer", "machines of ours on a dedicated link", "6-iv-d-1"
            )
    machines = _machines(site, link)
    if len(link.between) != 2:
        yield Problem(link.at, key, f"{len(link.between)} members", "two ends", "6-iv-e")
        return
    roles = [machine.role for machine in machines]
    if len(roles) == 2 and frozenset(roles) not in _PAIRS:
        item = "6-iv-e" if Role.CORE in roles else "6-iv-d-3"
        yield Problem(link.at, key, "-".join(roles), _PAIRS_TEXT, item)


def _desk(site: Site, link: Link) -> Iterator[Problem]:
    key = f"links.{link.name}"
    if link.kind is not Kind.DEDICATED:
        yield Problem(link.at, f"{key}.kind", link.kind, "dedicated for terminals", "6-iv-e")
    roles = [machine.role for machine in _machines(site, link)]
    peers = [name for name in link.between if name in site.peers]
    if roles.count(Role.CORE) != 1 or roles.count(Role.TERMINAL) != len(roles) - 1 or peers:
        yield Problem(
            link.at,
            f"{key}.between",
            ", ".join([*dict.fromkeys(roles), *peers]),
            "terminals and one core on a terminal link",
            "6-iv-e",
        )


def _neighbours(site: Site) -> Iterator[Problem]:
    """Count data neighbours by role: what each machine may be joined to, and how often."""
    around: dict[str, list[str]] = {name: [] for name in site.machines}
    for link in site.links.values():
        if link.purpose is Purpose.DATA:
            # More than a few machines on one link is an error already, and would be n² here.
            for name in [one for one in link.between if one in around][:4]:
                around[name] += [other for other in link.between if other != name]
    for name, others in around.items():
        machine = site.machines[name]
        if machine.role is Role.GATEWAY:
            yield from _gateway(site, machine, others)
            continue
        roles = [site.machines[one].role if one in site.machines else "peer" for one in others]
        expected, item = _wanted(machine.role, sorted(roles))
        if expected:
            yield Problem(
                machine.at,
                "interfaces",
                f"data neighbours: {', '.join(sorted(others)) or 'none'}",
                expected,
                item,
            )


def _wanted(role: Role, around: list[str]) -> tuple[str, str]:
    """Return what the neighbours should be, and the item; ("", "") when they are."""
    match role:
        case Role.CORE if around != [Role.INBOUND, Role.OUTBOUND]:
            return "exactly two: one inbound and one outbound", "6-iv-e"
        case Role.INBOUND | Role.OUTBOUND if (
            around.count(Role.CORE) != 1 or Role.GATEWAY not in around
        ):
            item = "6-iv-d-2" if role is Role.INBOUND else "6-iv-d-3"
            return "exactly one core, and gateways", item
        case Role.MONITOR | Role.TERMINAL if around:
            return f"no data link on a {role}", "6-iv-e"
        case _:
            return "", ""


def _gateway(site: Site, machine: Machine, others: list[str]) -> Iterator[Problem]:
    """Keep a gateway to one side; one on both would join the outsides behind core's back."""
    sides = {site.peers[other].side for other in others if other in site.peers}
    roles = {site.machines[other].role for other in others if other in site.machines}
    if sides == {Side.PROVIDER} and roles == {Role.INBOUND}:
        return
    if sides == {Side.RECIPIENT} and roles == {Role.OUTBOUND}:
        return
    yield Problem(
        machine.at,
        "interfaces",
        f"a gateway between {', '.join(sorted(sides)) or 'no peer'} and "
        f"{', '.join(sorted(roles)) or 'no server'}",
        "providers and inbound, or recipients and outbound",
        "6-iv-d-3",
    )
