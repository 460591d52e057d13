"""What must hold of a site as a whole. Pure: `check` returns every violation as one `Problem`.

Each rule names the item of Article 6 it serves. Linear in the size of the site (networks are
sorted once), so that ten thousand machines are checked in about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from ipaddress import IPv4Address, IPv4Network

from sekisho.core.errors import Problem, printable
from sekisho.core.names import PersonRole
from sekisho.devices.disks import Disk as Named
from sekisho.devices.module_list import Wanted, defects
from sekisho.site.model import MANAGEMENT, Console, Machine, Role, Site
from sekisho.site.rules.flows import flow_problems
from sekisho.site.rules.lines import line_problems
from sekisho.site.rules.wiring import wiring_problems
from sekisho.site.tunnels import tunnels_of

_KEYBOARD = "03:01:01"
#: A way in that was tried longer ago is not known to work.
TESTED_FOR = timedelta(days=366)
_RESERVED_ACCOUNTS = frozenset(
    [
        "root",
        "daemon",
        "bin",
        "sys",
        "sync",
        "games",
        "man",
        "lp",
        "mail",
        "news",
        "uucp",
        "proxy",
        "www-data",
        "backup",
        "list",
        "irc",
        "nobody",
        "messagebus",
        "sshd",
        "prometheus",
    ]
)


def check(site: Site, *, now: date) -> list[Problem]:
    """Return every violation of the site's invariants, in the order of their places."""
    rules: tuple[Callable[[Site], Iterable[Problem]], ...] = (
        _roles_filled,
        _machines_apart,
        _management,
        _addresses_once,
        _networks_apart,
        _consoles,
        _modules,
        wiring_problems,
        flow_problems,
        line_problems,
    )
    found = [problem for rule in rules for problem in rule(site)]
    found += _people(site, now)
    found += _proofs(site, now)
    return list(dict.fromkeys(found))


def _roles_filled(site: Site) -> Iterator[Problem]:
    items = {Role.INBOUND: "6-iv-d-2", Role.CORE: "6-iv-e", Role.OUTBOUND: "6-iv-d-3"}
    needed = (Role.INBOUND, Role.CORE, Role.OUTBOUND, Role.GATEWAY, Role.MONITOR)
    for role in needed:
        if not site.of(role):
            yield Problem(
                site.at, role.value, "no machine", "at least one", items.get(role, "6-iv-b")
            )


def _machines_apart(site: Site) -> Iterator[Problem]:
    """Prove that all machines are different computers: identity, serial, every MAC."""
    seen: dict[tuple[str, str], str] = {}
    for name, machine in site.machines.items():
        marks = [
            ("identity.dmi_uuid", machine.dmi_uuid, machine.at),
            ("identity.serial", machine.serial, machine.at),
        ]
        marks += [
            (f"interfaces.{one.name}.mac", one.mac, one.at) for one in machine.interfaces.values()
        ]
        for key, value, at in marks:
            mark = (key.rpartition(".")[2], value.casefold())
            if mark in seen:
                yield Problem(
                    at, key, f"{value}, which is {seen[mark]}'s", "its own value", "6-iii-a"
                )
            else:
                seen[mark] = f"{name} {key}"
        if name in site.peers:
            yield Problem(machine.at, name, "the name of a peer too", "one name, one party")


def _management(site: Site) -> Iterator[Problem]:
    """Every machine is managed over one interface, and nothing else uses that network."""
    network = site.management.network
    for key, listed in (
        ("management.controllers", site.management.controllers),
        ("management.auditors", site.management.auditors),
    ):
        for address in listed:
            if not _host_of(address, network):
                yield Problem(
                    site.management.at, key, str(address), f"a host address of {network}", "6-iv-a"
                )
    for machine in site.machines.values():
        ours = [one for one in machine.interfaces.values() if one.link == MANAGEMENT]
        if len(ours) != 1:
            yield Problem(
                machine.at,
                "interfaces",
                f"{len(ours)} interfaces on management",
                "exactly one",
                "6-iv-a",
            )
            continue
        if not _host_of(ours[0].address, network):
            yield Problem(
                ours[0].at,
                f"interfaces.{ours[0].name}.address",
                str(ours[0].address),
                f"a host address of {network}",
                "6-iv-e",
            )
        if machine.ansible_host != str(ours[0].address):
            yield Problem(
                machine.at,
                "ansible_host",
                printable(machine.ansible_host, 60) or "nothing",
                f"{ours[0].address}, the management address",
                "6-iv-a",
            )
    for peer in site.peers.values():
        if peer.address in network:
            yield Problem(
                peer.at,
                f"peers.{peer.name}.address",
                f"{peer.address}, inside the management network",
                "an address outside of it",
                "6-iv-e",
            )


def _host_of(address: IPv4Address, network: IPv4Network) -> bool:
    if address not in network:
        return False
    return network.prefixlen == 31 or address not in (
        network.network_address,
        network.broadcast_address,
    )


def _addresses_once(site: Site) -> Iterator[Problem]:
    seen: dict[IPv4Address, str] = dict.fromkeys(site.management.controllers, "a controller's")
    for machine in site.machines.values():
        for one in machine.interfaces.values():
            key = f"interfaces.{one.name}.address"
            if one.address in seen:
                yield Problem(
                    one.at, key, f"{one.address}, which is {seen[one.address]}", "its own address"
                )
            else:
                seen[one.address] = f"{machine.name} {one.name}'s"
            link = site.links.get(one.link)
            if link is not None and not _host_of(one.address, link.network):
                yield Problem(
                    one.at, key, str(one.address), f"a host address of {link.network} ({link.name})"
                )
    for peer in site.peers.values():
        key = f"peers.{peer.name}.address"
        if peer.address in seen:
            yield Problem(
                peer.at, key, f"{peer.address}, which is {seen[peer.address]}", "its own address"
            )
        else:
            seen[peer.address] = f"{peer.name}'s"


def _networks_apart(site: Site) -> Iterator[Problem]:
    named = [("management", site.management.network, site.management.at)]
    named += [(f"links.{link.name}", link.network, link.at) for link in site.links.values()]
    named += [
        (f"peers.{peer.name}", IPv4Network(peer.address), peer.at)
        for peer in site.peers.values()
        if peer.router is not None or peer.wireguard is not None
    ]
    named.sort(key=lambda entry: (int(entry[1].network_address), entry[1].prefixlen))
    widest = named[0]
    for entry in named[1:]:
        key, network, at = entry
        if network.network_address <= widest[1].broadcast_address:
            item = "6-iv-e" if "management" in (key, widest[0]) else ""
            yield Problem(
                at, key, f"{network}, inside {widest[0]} {widest[1]}", "a network of its own", item
            )
        if network.broadcast_address > widest[1].broadcast_address:
            widest = entry


def _consoles(site: Site) -> Iterator[Problem]:
    """Keep a way in for the owner when the network is shut; admit no device that holds data."""
    for machine in site.machines.values():
        names: set[str] = set()
        for device in machine.devices:
            if device.name in names:
                yield Problem(device.at, f"devices.{device.name}", "this name again", "it once")
            names.add(device.name)
            for triple in device.interfaces:
                if triple[:2] in ("08", "06", "09", "0a", "e0", "ff"):
                    yield Problem(
                        device.at,
                        f"devices.{device.name}.interfaces",
                        f"{triple}, which can carry data away",
                        "an input device (03:…) or a smart-card reader (0b:…)",
                        "6-iii-c",
                    )
        yield from _disks(machine)
        if machine.console is Console.LISTED_KEYBOARD and not _has_keyboard(machine):
            yield Problem(
                machine.at,
                "console",
                "listed-keyboard, and no keyboard is listed",
                f"a device with interface {_KEYBOARD}, or console: serial",
                "6-v-b",
            )


def _proofs(site: Site, now: date) -> Iterator[Problem]:
    """Believe a person's word on the console for a year, and not a day in advance."""
    for machine in site.machines.values():
        proof = machine.console_proof
        if proof is None:
            if machine.console is Console.OUT_OF_BAND:
                expected = "reference and tested: who tried it, when, and where that is written"
                yield Problem(machine.at, "console", "out-of-band alone", expected, "6-v-b")
        elif not now - TESTED_FOR <= proof.tested <= now:
            yield Problem(
                proof.at,
                "console.tested",
                proof.tested.isoformat(),
                f"a day from {now - TESTED_FOR} to {now}",
                "6-v-b",
                "try the way in again, and write down when",
            )


def _modules(site: Site) -> Iterator[Problem]:
    """Keep what the console and the packet filter need in every list that will be enforced."""
    for machine in site.machines.values():
        wanted = Wanted(machine.modules.lock, machine.modules.allow)
        for key, got, expected in defects(
            wanted, console=machine.console.value, role=machine.role.value
        ):
            yield Problem(machine.modules.at, key, got, expected, "6-iii-c")
        if wanted.lock != "off" and tunnels_of(site, machine) and "wireguard" not in wanted.allow:
            needed = "what the machine's WireGuard lines need"
            yield Problem(machine.modules.at, "modules.allow", "no wireguard", needed, "6-iii-c")


def _disks(machine: Machine) -> Iterator[Problem]:
    """One name and one place each; a machine that can write nowhere could not be provisioned."""
    seen: dict[str, str] = {}
    for disk in machine.disks:
        for key, value in (("name", disk.name), ("path", disk.path)):
            if value and seen.setdefault(f"{key} {value}", disk.at) != disk.at:
                yield Problem(disk.at, f"disks.{disk.name}.{key}", f"{value} again", "it once")
        place = Named(disk.name, disk.path).pci
        if machine.pci and place not in {one.partition(" ")[0] for one in machine.pci}:
            yield Problem(
                disk.at,
                f"disks.{disk.name}.path",
                f"{place}, which `pci` does not list",
                "a function the machine is made of",
                "6-iii-c",
            )
        if disk.mode == "read-only" and len(machine.disks) == 1:
            yield Problem(
                disk.at,
                f"disks.{disk.name}.mode",
                "read-only, and it is the only disk",
                "a system disk that maintenance can write",
                "",
                "a terminal's own disk is made read-only by its role",
            )


def _has_keyboard(machine: Machine) -> bool:
    return any(_KEYBOARD in device.interfaces for device in machine.devices)


def _people(site: Site, now: date) -> Iterator[Problem]:
    uids: dict[int, str] = {}
    keys: dict[str, str] = {}
    for person in site.people.values():
        key = f"people.{person.id}"
        if person.id in _RESERVED_ACCOUNTS or person.id.startswith(("sekisho", "systemd-")):
            yield Problem(person.at, key, "a system account's name", "a person's own", "6-ii-d")
        if person.uid in uids:
            yield Problem(
                person.at, f"{key}.uid", f"{person.uid}, {uids[person.uid]}'s", "its own", "6-ii-d"
            )
        uids.setdefault(person.uid, person.id)
        sealing = [f"approval {person.approval_key.hex()}"] if person.approval_key else []
        for public in (*person.keys, *sealing):
            if public in keys:
                yield Problem(
                    person.at,
                    f"{key}.keys",
                    f"a key {keys[public]} holds too",
                    "a key of one person only",
                    "6-ii-d",
                )
            keys.setdefault(public, person.id)
        if person.authority_until < now:
            yield Problem(
                person.at,
                f"{key}.authority_until",
                f"{person.authority_until}, which is over",
                f"{now} or later, or no such person",
                "6-ii-d",
                "renew the authority, or remove the person",
            )
        if person.trained > now:
            yield Problem(
                person.at, f"{key}.trained", f"{person.trained}, still to come", "a past date",
                "6-ii-c",
            )  # fmt: skip
    for role, item in (
        (PersonRole.ADMINISTRATOR, "6-i-c"),
        (PersonRole.OFFICER, "6-i-b"),
        (PersonRole.AUDITOR, "6-i-f"),
    ):
        if not any(person.role is role for person in site.people.values()):
            yield Problem(site.at, "people", f"no {role}", "at least one", item)
