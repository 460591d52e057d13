"""The parts of a host's policy, each a frozen record whose fields say how they are written. Pure.

`sekisho.policy.host_policy` puts them together; `sekisho.compile.policy` makes them of a site.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import date
from ipaddress import IPv4Network
from typing import Any

from sekisho.core.names import HOST_NAME, IFNAME, NAME, Mode, PersonRole, Purpose
from sekisho.devices.module_list import LOCKS, MAX_MODULES
from sekisho.devices.module_list import NAME as MODULE
from sekisho.policy.forms import (
    Defects,
    Flag,
    Many,
    Named,
    Network,
    Record,
    Row,
    Text,
    Whole,
    Word,
    of,
    record,
)

_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_LENGTH = r"/(?:3[0-2]|[12]?[0-9])"
#: IP protocols of declared lines.
TCP, UDP, ICMP, ESP = 6, 17, 1, 50
PERSON = re.compile(r"[a-z][a-z0-9-]{0,30}", re.ASCII)
#: What an attestation's reference may hold: nothing that a terminal obeys or hides.
_READABLE = r"(?!\s)[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]{3,200}"


def choice(*words: str) -> Text:
    """Return the form of one of these words."""
    return Text("|".join(map(re.escape, words)), f"one of {', '.join(words)}")


class Day:
    """A day as YYYY-MM-DD."""

    _match = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII).fullmatch

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the day."""
        try:
            return date.fromisoformat(value if type(value) is str and self._match(value) else "")
        except ValueError:
            defects.add(at, value, "a day such as 2030-03-31")
            return date.min

    def write(self, value: Any) -> Any:
        """Return its text."""
        return value.isoformat()


class Base64:
    """Bytes in base64, the one way RFC 4648 writes them."""

    def __init__(self, least: int, most: int, expected: str) -> None:
        self._least, self._most, self._expected = least, most, expected

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the bytes."""
        try:
            found = base64.b64decode(value, validate=True) if type(value) is str else b""
        except (binascii.Error, ValueError):
            found = b""
        if not self._least <= len(found) <= self._most or self.write(found) != value:
            defects.add(at, value, self._expected)
        return found

    def write(self, value: Any) -> Any:
        """Return the text."""
        return base64.b64encode(value).decode()


NAMED = Text(NAME, "a name: lower-case letters, digits and dashes")
HOST = Text(HOST_NAME, "a machine's name")
CARD = Text(IFNAME, "an interface's name, 15 characters at most")
ADDRESS = Text(_IPV4, "an IPv4 address")
#: IPv6 is nowhere declared, but a socket of the kernel's may wait on all of both.
ANY_ADDRESS = Text(rf"{_IPV4}|::", "an IPv4 address, or ::")
PREFIX = Text(_IPV4 + _LENGTH, "an IPv4 address or network with its length, such as 10.0.0.1/24")
PORT = Whole(1, 65535)
REQID = Whole(1, 2**31 - 1)
#: Names of flows, lines and tunnels: a link's and a peer's together.
LINE = Text(r"[a-z][a-z0-9-]{0,127}", "a line's name: lower-case letters, digits and dashes")
SELECTOR = Text(
    rf"{_IPV4}/32\[tcp(?:/[0-9]{{1,5}})?\]", "a traffic selector such as 10.0.0.1/32[tcp/7601]"
)
IDENTITY = Text(r"[a-z0-9-]+(\.[a-z0-9-]+){0,8}", "a name in IKE")
#: A line of text made from checked parts, for a check to compare.
PHRASE = Text(
    r"[!-~\u0080-\ufffd]([ -~\u0080-\ufffd]{0,1022}[!-~\u0080-\ufffd])?", "a line of text"
)
PHRASES = Many(PHRASE)


@record
class Identity:
    """What proves which machine this is."""

    dmi_uuid: str = of(Text(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a UUID in lower case"))
    serial: str = of(Text(r"[A-Za-z0-9][A-Za-z0-9 ._/:+-]{0,62}", "the machine's serial number"))


@record
class Management:
    """The management network as this host meets it."""

    network: str = of(PREFIX)
    address: str = of(ADDRESS)
    interface: str = of(CARD)
    controllers: tuple[str, ...] = of(Many(ADDRESS))
    auditors: tuple[str, ...] = of(Many(ADDRESS))
    monitors: tuple[str, ...] = of(Many(ADDRESS))


@record
class Interface:
    """A network card; ``address`` with its network's length."""

    mac: str = of(Text(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", "a MAC address in lower case"))
    link: str = of(NAMED)
    purpose: Purpose = of(Word(Purpose))
    address: str = of(PREFIX)


@record
class Route:
    """A route; ``via`` is "" into a tunnel, which has one other end."""

    to: str = of(PREFIX)
    via: str = of(Text(rf"(?:{_IPV4})?", 'an IPv4 address, or ""'))
    interface: str = of(CARD)


@record
class Association:
    """The security association that a flow comes or goes by, and its two ends."""

    reqid: int = of(REQID)
    local_address: str = of(ADDRESS)
    peer_address: str = of(ADDRESS)


@record
class Hop:
    """A flow that begins or ends here; direction ``in`` or ``out``."""

    name: str = of(NAMED)
    mode: Mode = of(Word(Mode))
    port: int = of(PORT)
    direction: str = of(choice("in", "out"))
    peer: str = of(NAMED)
    peer_address: str = of(ADDRESS)
    local_address: str = of(ADDRESS)
    interface: str = of(CARD)
    line_from: Association | None = of(Record(Association), absent=True)
    line_to: Association | None = of(Record(Association), absent=True)


@record
class Passage:
    """A flow that a gateway passes on; direction ``forward``."""

    name: str = of(NAMED)
    mode: Mode = of(Word(Mode))
    port: int = of(PORT)
    direction: str = of(choice("forward"))
    from_address: str = of(ADDRESS)
    to_address: str = of(ADDRESS)
    in_interface: str = of(CARD)
    out_interface: str = of(CARD)
    line_from: Association | None = of(Record(Association), absent=True)
    line_to: Association | None = of(Record(Association), absent=True)


Flow = Hop | Passage


@record
class Child:
    """One flow's own pair of security associations on a line."""

    flow: str = of(NAMED)
    reqid: int = of(REQID)
    local_ts: str = of(SELECTOR)
    remote_ts: str = of(SELECTOR)


@record
class Line:
    """An encrypted line (IPsec) to one neighbour; ``interface`` is "" at a peer's own end."""

    name: str = of(LINE)
    link: str = of(NAMED)
    peer: str = of(NAMED)
    interface: str = of(Text(rf"(?:{IFNAME.pattern})?", 'an interface\'s name, or ""'))
    local_address: str = of(ADDRESS)
    peer_address: str = of(ADDRESS)
    local_id: str = of(IDENTITY)
    peer_id: str = of(IDENTITY)
    children: tuple[Child, ...] = of(Many(Record(Child)))
    starts: bool = of(Flag())


@record
class Tunnel:
    """A WireGuard line to one peer, with an interface of its own."""

    name: str = of(LINE)
    link: str = of(NAMED)
    peer: str = of(NAMED)
    interface: str = of(CARD)
    outside: str = of(CARD)
    local_address: str = of(ADDRESS)
    peer_address: str = of(ADDRESS)
    port: int = of(PORT)
    peer_key: str = of(Text(r"[A-Za-z0-9+/]{43}=", "a WireGuard key: 44 characters of base64"))
    allowed: str = of(PREFIX)
    ciphers: str = of(PHRASE)


@record
class Session:
    """An SSH session over the desk."""

    direction: str = of(choice("in", "out"))
    peer: str = of(HOST)
    peer_address: str = of(ADDRESS)
    local_address: str = of(ADDRESS)
    interface: str = of(CARD)
    port: int = of(PORT)


@record
class Account:
    """A person's account; ``keys`` are ``type base64``."""

    role: PersonRole = of(Word(PersonRole))
    uid: int = of(Whole(1000, 2**31 - 1))
    keys: tuple[str, ...] = of(
        Many(Text(r"[a-z0-9@.-]{1,64} [A-Za-z0-9+/]{40,8000}={0,2}", "an SSH key: type base64"))
    )
    authority_until: date = of(Day())
    trained: date = of(Day())


@record
class Approver:
    """A person whose signature under an order counts; ``key`` is SubjectPublicKeyInfo, DER."""

    role: PersonRole = of(Word(PersonRole))
    authority_until: date = of(Day())
    key: bytes = of(Base64(1, 8192, "a public key (DER) in base64"))


@record
class Orders:
    """Who may sign orders."""

    people: Mapping[str, Approver] = of(Named(PERSON, "a person of the site", Record(Approver)))


@record
class ConsoleProof:
    """Somebody's word that the way in at the console works, and the day it was tried."""

    reference: str = of(Text(_READABLE, "3 to 200 characters that people can read"))
    tested: date = of(Day())


@record
class Modules:
    """How far the module wall goes, what may load, and what `kernel.modules_disabled` shall be."""

    lock: str = of(choice(*LOCKS))
    allow: tuple[str, ...] = of(Many(Text(MODULE, "a kernel module's name"), most=MAX_MODULES))
    disabled: str = of(choice("0", "1"))


@record
class Time:
    """Whom this host asks for the time."""

    servers: tuple[str, ...] = of(Many(ADDRESS))


@record
class Metrics:
    """Where the agent serves its metrics."""

    address: str = of(ADDRESS)
    port: int = of(PORT)


@record
class Listener:
    """A socket that may wait on an address other than the loopback's."""

    proto: str = of(choice("tcp", "udp"))
    address: str = of(ANY_ADDRESS)
    port: int = of(PORT)
    program: str = of(Text(r"[a-z][a-z0-9-]{0,31}", "a program's name"))


@record
class AccountLists:
    """The accounts as flat lists, as the checks on them compare (`site.derived_accounts`)."""

    uids: tuple[str, ...] = of(PHRASES)
    keys: tuple[str, ...] = of(PHRASES)
    expiry: tuple[str, ...] = of(PHRASES)
    trained: tuple[str, ...] = of(PHRASES)
    administrators: tuple[str, ...] = of(PHRASES)
    privileged: tuple[str, ...] = of(PHRASES)
    auditors: tuple[str, ...] = of(PHRASES)
    listen: tuple[str, ...] = of(PHRASES)
    allow_users: tuple[str, ...] = of(PHRASES)
    apt_uris: tuple[str, ...] = of(PHRASES)


@record
class Derived:
    """What is computed from other parts, for checks to compare."""

    accounts: AccountLists = of(Record(AccountLists))


@record
class DeclaredLine:
    """One direction of one declared line at one machine, as the prover asks the rules about it.

    Attributes:
        name: what the site calls it.
        way: input, forward or output.
        iif: the interface in ("" on output); oif: the interface out ("" on input).
        senders: networks the source may be in; receivers: the same of the destination.
        protocol: TCP, UDP, ICMP or ESP.
        port: the service's port (ICMP: the type of message).
        back: the answering direction (the port is then the source's).
        bare: only segments without payload.
        syn: a connection must begin with a SYN here.
        ipsec: "in", "out" or both, by which side it has to come or go encrypted; "outer": these are
            IPsec's or WireGuard's own packets.

    """

    name: str = of(PHRASE)
    way: str = of(choice("input", "output", "forward"))
    iif: str = of(Text(rf"(?:{IFNAME.pattern})?", 'an interface\'s name, or ""'))
    oif: str = of(Text(rf"(?:{IFNAME.pattern})?", 'an interface\'s name, or ""'))
    senders: tuple[IPv4Network, ...] = of(Many(Network()))
    receivers: tuple[IPv4Network, ...] = of(Many(Network()))
    protocol: int = of(Whole(0, 255))
    port: int = of(Whole(0, 65535))
    back: bool = of(Flag())
    bare: bool = of(Flag())
    syn: bool = of(Flag())
    ipsec: str = of(choice("", "in", "out", "in out", "outer"))

    @property
    def mode_untracked(self) -> bool:
        """Whether no state is asked of its packets: a diode's, or a line's own around it."""
        return self.ipsec == "outer" or (self.protocol == UDP and self.syn)


@record
class Way:
    """The declared lines of one way through the packet filter; rows: there may be ten thousand."""

    way: str = of(choice("input", "output", "forward"))
    lines: tuple[DeclaredLine, ...] = of(Many(Row(DeclaredLine)))

    @classmethod
    def parse(cls, value: Any) -> Way:
        """Return the lines of one part of ``declared``; ValueError says what is wrong."""
        defects = Defects("declared", "")
        found = Record(cls).read(value, "way", defects)
        if defects.found:
            raise ValueError(defects.found[0].line())
        assert isinstance(found, cls)  # noqa: S101 - without a defect it is one
        return found
