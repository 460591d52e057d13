"""Values of the site model: frozen, parsed once by `sekisho.site.parse`, never checked again.

Source: the Ansible inventory (`hosts.yml`, `group_vars/all`, `host_vars/`), the only description
of a site. ``at`` is always ``file:line`` of the value's definition.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from ipaddress import IPv4Address, IPv4Network

from sekisho.core import names as words
from sekisho.core.names import PersonRole

#: The link every machine has one interface on; it is described under ``management``.
MANAGEMENT = "management"

# Words of the host's policy, too.
Role = words.Role
Purpose = words.Purpose
Mode = words.Mode
Console = words.Console

#: Ansible group → role.
GROUPS: Mapping[str, Role] = {
    "inbound": Role.INBOUND,
    "core": Role.CORE,
    "outbound": Role.OUTBOUND,
    "gateways": Role.GATEWAY,
    "monitors": Role.MONITOR,
    "terminals": Role.TERMINAL,
}


class Side(enum.StrEnum):
    """Which end of the data path a peer stands at."""

    PROVIDER = "provider"
    RECIPIENT = "recipient"


class Kind(enum.StrEnum):
    """What carries a link: the carrier's closed service, or a line of our own."""

    IP_VPN = "ip-vpn"
    DEDICATED = "dedicated"


class Encryption(enum.StrEnum):
    """What encrypts a link: ourselves, the carrier (its word, attested), or nobody."""

    IPSEC = "ipsec"
    WIREGUARD = "wireguard"
    CARRIER = "carrier"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ConsoleProof:
    """Somebody's word that the way in works: where it is written down, and the day it was tried."""

    reference: str
    tested: date
    at: str


@dataclass(frozen=True, slots=True)
class RawFile:
    """One text of the inventory: ``path`` relative to it, and its content."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class RawInventory:
    """Every text the parser reads; nothing in it has been looked at.

    Attributes:
        where: the inventory as its reader named it; the front of every ``file:line``.
        hosts: ``hosts.yml``.
        group_vars: every file of ``group_vars/``.
        host_vars: every file of ``host_vars/``.
        keys: public key files (``keys/**/*.pub``) by relative path.

    """

    where: str
    hosts: RawFile
    group_vars: tuple[RawFile, ...]
    host_vars: tuple[RawFile, ...]
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Title:
    """A name in both languages."""

    en: str
    ja: str

    def as_json(self) -> dict[str, str]:
        """Return the title as plain JSON."""
        return {"en": self.en, "ja": self.ja}


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface of a machine; ``link`` is a link's name or `MANAGEMENT`."""

    name: str
    link: str
    mac: str
    address: IPv4Address
    at: str


@dataclass(frozen=True, slots=True)
class Device:
    """One USB device admitted: exactly this product, serial, port and set of interfaces.

    ``serial_hash`` stands instead of the serial number where the site does not want to write it
    down; ``count`` is how many such devices may be in use at once.
    """

    name: str
    vendor: str
    product: str
    serial: str
    port: str
    interfaces: tuple[str, ...]
    at: str
    serial_hash: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class Modules:
    """The kernel modules a machine may hold, and how far loading any other is shut off."""

    lock: str = "off"  # off | dry-run | enforce
    allow: tuple[str, ...] = ()
    at: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk of the machine's own: where it hangs, and what it is by serial number or WWN."""

    name: str
    path: str
    serial: str
    wwn: str
    mode: str
    at: str


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine we manage: its role, what proves its identity, how it is wired."""

    name: str
    role: Role
    title: Title
    dmi_uuid: str
    serial: str
    console: Console
    devices: tuple[Device, ...]
    disks: tuple[Disk, ...]
    interfaces: Mapping[str, Interface]
    ansible_host: str
    at: str
    console_proof: ConsoleProof | None = None
    #: enforce: what is not listed is refused; dry-run: it is only told of.
    devices_mode: str = "enforce"
    modules: Modules = Modules()
    #: The PCI functions it is made of (`sekisho.devices.pci`); none: the site does not say.
    pci: tuple[str, ...] = ()
    #: Words of its own on the kernel's command line, such as its console (`devices.boot_line`).
    boot: tuple[str, ...] = ()

    def on(self, link: str) -> Interface | None:
        """Return the interface on ``link``, or None; invariants allow one per link."""
        for interface in self.interfaces.values():
            if interface.link == link:
                return interface
        return None


@dataclass(frozen=True, slots=True)
class Management:
    """The network of administration, monitoring and time; never patients' data."""

    network: IPv4Network
    controllers: tuple[IPv4Address, ...]
    auditors: tuple[IPv4Address, ...]
    at: str


@dataclass(frozen=True, slots=True)
class Link:
    """A network between named neighbours, and nobody else."""

    name: str
    kind: Kind
    purpose: Purpose
    network: IPv4Network
    between: tuple[str, ...]
    at: str
    encryption: Encryption


@dataclass(frozen=True, slots=True)
class WireGuard:
    """A peer's end of a WireGuard line: its public key (base64), and the UDP port of both ends."""

    key: str
    port: int


@dataclass(frozen=True, slots=True)
class Peer:
    """An outside party. ``router`` is the carrier's router on our link when it is not direct.

    ``vpn`` is where its end of an encrypted link speaks IKE and ESP, or WireGuard: ``address``
    itself, unless the party has a gateway of its own in front of it.
    """

    name: str
    side: Side
    title: Title
    address: IPv4Address
    router: IPv4Address | None
    at: str
    vpn: IPv4Address
    wireguard: WireGuard | None = None


@dataclass(frozen=True, slots=True)
class Flow:
    """A one-way hop: ``sender`` opens the connection and pushes to ``receiver``."""

    name: str
    sender: str
    receiver: str
    via: str | None
    port: int
    mode: Mode
    at: str


@dataclass(frozen=True, slots=True)
class Person:
    """One person, one account, one role. ``keys`` are ``type base64`` without the comment.

    ``approval_key`` (SubjectPublicKeyInfo, DER) is what the person signs orders with, or ``b""``.
    """

    id: str
    name: Title
    role: PersonRole
    uid: int
    keys: tuple[str, ...]
    authority_until: date
    trained: date
    at: str
    approval_key: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Site:
    """A whole site. Mappings are by name, in the order of the inventory."""

    name: str
    title: Title
    profile: str
    management: Management
    links: Mapping[str, Link]
    peers: Mapping[str, Peer]
    flows: Mapping[str, Flow]
    people: Mapping[str, Person]
    machines: Mapping[str, Machine]
    at: str
    #: link → machine → interface, and (one, other) → link: see `sekisho.site.wires`.
    wires: Mapping[str, Mapping[str, Interface]] = field(repr=False)
    joins: Mapping[tuple[str, str], str] = field(repr=False)

    def of(self, role: Role) -> tuple[Machine, ...]:
        """Return the machines of one role, in the order of the inventory."""
        return tuple(machine for machine in self.machines.values() if machine.role is role)
