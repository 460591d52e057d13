"""The kernel's network in netlink's bytes: messages apart, and what each says of the host. Pure.

A fact is one thing that is so: an address, a route, a routing rule, forwarding, a link that is up
or strange, an IPsec policy or association. The same message tells of it in an answer to a question
and in the kernel's announcement of a change. The bytes are input: what does not fit its own lengths
is `NetlinkError`, never a guess. Sources: netlink(7), rtnetlink(7), and the kernel's
``include/uapi/linux/{netlink,rtnetlink,if_addr,if_link,fib_rules,netconf,xfrm}.h``.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from sekisho.core.errors import SekishoError

NOOP, ERROR, DONE, OVERRUN = 1, 2, 3, 4
AF_INET, AF_INET6 = 2, 10
NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWRULE, DELRULE, GETRULE = 32, 33, 34
NEWNETCONF, DELNETCONF, GETNETCONF = 80, 81, 82
NEWSA, DELSA, GETSA, NEWPOLICY, DELPOLICY, GETPOLICY, UPDPOLICY, UPDSA = (
    *range(16, 22), 25, 26)  # fmt: skip
FLUSHSA, FLUSHPOLICY = 28, 29
#: `net/if.h`.
IFF_UP, IFF_PROMISC = 0x1, 0x100
MAIN, LOCAL, UNICAST, KERNEL = 254, 255, 1, 2
_ROUTE_TYPES = {1: "", 2: "local ", 3: "broadcast ", 4: "anycast ", 5: "multicast ",
                6: "blackhole ", 7: "unreachable ", 8: "prohibit ", 9: "throw "}  # fmt: skip
_NETCONF = {-1: "all", -2: "default"}
_WAYS = {0: "in", 1: "out", 2: "fwd"}
_PROTOCOLS = {6: "tcp", 17: "udp", 50: "esp", 51: "ah", 108: "comp"}
_MODES = {0: "transport", 1: "tunnel", 4: "beet"}


class NetlinkError(SekishoError):
    """Bytes that are no netlink message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its type and what follows the header."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is so in the kernel's network.

    Attributes:
        kind: address, route, rule, forwarding, link or xfrm.
        text: what, as a reader writes it; two facts of one kind and text are one.
        device: the interface it is at; "" at none.
        body: the message's own bytes: with the type of a deletion they take the thing away.

    """

    kind: str
    text: str
    device: str = field(default="", compare=False)
    body: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """What one announcement says: this is so now, or is no more."""

    fact: Fact
    there: bool


def messages(data: bytes) -> Iterator[Message]:
    """Yield the messages of a datagram; `NetlinkError` when their lengths do not fit."""
    at = 0
    while at < len(data):
        if len(data) - at < 16:
            raise NetlinkError(f"netlink: {len(data) - at} bytes where a header should be")
        length, kind, flags = struct.unpack_from("=IHH", data, at)
        if not 16 <= length <= len(data) - at:
            raise NetlinkError(f"netlink: a message of {length} bytes in {len(data) - at}")
        yield Message(kind, flags, data[at + 16 : at + length])
        at += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Return type → value of a run of attributes; the last of a type counts."""
    found, at = {}, 0
    while len(data) - at >= 4:
        length, kind = struct.unpack_from("=HH", data, at)
        if not 4 <= length <= len(data) - at:
            raise NetlinkError(f"netlink: an attribute of {length} bytes in {len(data) - at}")
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a message to the kernel."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def route_change(message: Message, names: Mapping[int, str]) -> list[Change]:
    """Return what a message of NETLINK_ROUTE says; nothing for what is no fact of ours.

    ``names``: interface index → name. Raises `NetlinkError` for a body that is too short.
    """
    known = _ROUTE.get(message.kind)
    return _read(message, known, names)


def xfrm_change(message: Message) -> list[Change]:
    """Return what a message of NETLINK_XFRM says."""
    return _read(message, _XFRM.get(message.kind), {})


_Reader = Callable[[bytes, Mapping[int, str]], list[Fact]]


def _read(
    message: Message, known: tuple[bool, _Reader] | None, names: Mapping[int, str]
) -> list[Change]:
    if known is None:
        return []
    there, read = known
    try:
        return [Change(fact, there) for fact in read(message.body, names)]
    except (struct.error, ValueError, IndexError) as bad:
        raise NetlinkError(f"netlink: a message of type {message.kind}: {bad}") from None


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("ascii", "backslashreplace")


def _address(family: int, data: bytes) -> str:
    size = {AF_INET: 4, AF_INET6: 16}.get(family)
    if size is None or len(data) < size:
        raise ValueError(f"an address of family {family} in {len(data)} bytes")
    return str(ip_address(data[:size]))


def _number(data: bytes) -> int:
    return int.from_bytes(data[:4], sys.byteorder)


def _name(index: int, names: Mapping[int, str]) -> str:
    return names.get(index, f"#{index}")


def link_name(body: bytes) -> tuple[int, str]:
    """Return index and name of a link's message."""
    try:
        (index,) = struct.unpack_from("=i", body, 4)
        return index, _text(attributes(body[16:]).get(3, b""))  # IFLA_IFNAME
    except struct.error as bad:
        raise NetlinkError(f"netlink: a link: {bad}") from None


def _link(body: bytes, _: Mapping[int, str]) -> list[Fact]:
    index, flags = struct.unpack_from("=iI", body, 4)
    held = attributes(body[16:])
    name = _text(held.get(3, b"")) or f"#{index}"
    kind = _text(attributes(held[18]).get(1, b"")) if 18 in held else ""  # IFLA_LINKINFO, its kind
    found = [Fact("link", f"{name} of kind {kind}", name)] if kind else []
    if flags & IFF_UP:
        found.append(Fact("link", f"{name} up", name))
    if flags & IFF_PROMISC:
        found.append(Fact("link", f"{name} listens in", name))
    return found


def _address_fact(body: bytes, names: Mapping[int, str]) -> list[Fact]:
    family, length, _, _, index = struct.unpack_from("=BBBBI", body)
    held = attributes(body[8:])
    value = held.get(2, held.get(1))  # IFA_LOCAL; with IPv6 IFA_ADDRESS
    if value is None:
        raise ValueError("no address in it")
    name = _name(index, names)
    return [Fact("address", f"{name} {_address(family, value)}/{length}", name, body)]


def _route(body: bytes, names: Mapping[int, str]) -> list[Fact]:
    family, length, _, _, table, protocol, _, kind, flags = struct.unpack_from("=BBBBBBBBI", body)
    if family not in (AF_INET, AF_INET6) or flags & 0x200:  # RTM_F_CLONED: a cached answer
        return []
    held = attributes(body[12:])
    table = _number(held[15]) if 15 in held else table  # RTA_TABLE
    target = _address(family, held.get(1, bytes(16)))  # without RTA_DST: anywhere
    name = _name(_number(held[4]), names) if 4 in held else ""  # RTA_OIF
    words = [f"{_ROUTE_TYPES.get(kind, f'type {kind} ')}{target}/{length}"]
    if 5 in held:
        words.append(f"via {_address(family, held[5])}")
    elif 18 in held:  # RTA_VIA: a family and its address
        (other,) = struct.unpack_from("=H", held[18])
        words.append(f"via {_address(other, held[18][2:])}")
    if name:
        words.append(f"dev {name}")
    if 9 in held:  # RTA_MULTIPATH
        words.append(f"nexthops {held[9].hex()}")
    if 30 in held:  # RTA_NH_ID
        words.append(f"nexthop {_number(held[30])}")
    if table != MAIN:
        words.append(f"table {table}")
    if protocol == KERNEL:
        words.append("proto kernel")
    return [Fact("route", " ".join(words), name, body)]


def _rule(body: bytes, _: Mapping[int, str]) -> list[Fact]:
    family, to, of, tos, table, _, _, action, flags = struct.unpack_from("=BBBBBBBBI", body)
    if family not in (AF_INET, AF_INET6):
        return []
    held = attributes(body[12:])
    table = _number(held[15]) if 15 in held else table
    words = [f"ipv{4 if family == AF_INET else 6} {_number(held[6]) if 6 in held else 0}:"]
    for kind, word, length in ((2, "from", of), (1, "to", to)):
        if kind in held:
            words.append(f"{word} {_address(family, held[kind])}/{length}")
    # What else a rule can ask: interfaces, marks, ports, users, a goto, suppression, a tunnel.
    said = {1, 2, 6, 15, 21}  # addresses, priority, table, FRA_PROTOCOL
    said |= {kind for kind in (13, 14) if held.get(kind) == b"\xff" * 4}  # nothing suppressed
    words += [f"with {kind}={held[kind].hex()}" for kind in sorted(held) if kind not in said]
    words += [f"tos {tos}"] if tos else []
    words += ["not"] if flags & 0x2 else []  # FIB_RULE_INVERT
    words.append(f"lookup {table}" if action == 1 else f"action {action}")
    return [Fact("rule", " ".join(words), "", body)]


def _netconf(body: bytes, names: Mapping[int, str]) -> list[Fact]:
    held = attributes(body[4:])
    family = body[0]
    if family not in (AF_INET, AF_INET6) or 1 not in held:
        return []
    (index,) = struct.unpack("=i", held[1][:4])
    name = _NETCONF.get(index) or _name(index, names)
    text = f"ipv{4 if family == AF_INET else 6} {name}"
    if 2 not in held or not _number(held[2]):  # NETCONFA_FORWARDING
        return []
    return [Fact("forwarding", text, name)]


def _selector(body: bytes, at: int = 0) -> tuple[str, str, str, str, str]:
    to, source, to_port, to_mask, port, mask, family, to_length, length, protocol = (
        struct.unpack_from("!16s16sHHHH", body, at)
        + struct.unpack_from("=HBBB", body, at + 40)
    )  # fmt: skip
    family = family or AF_INET
    return (
        f"{_address(family, source)}/{length}",
        f"{_address(family, to)}/{to_length}",
        _PROTOCOLS.get(protocol, str(protocol)),
        str(port if mask else 0),
        str(to_port if to_mask else 0),
    )


def _policy(body: bytes, _: Mapping[int, str]) -> list[Fact]:
    way, action = body[160], body[161]
    if way not in _WAYS:  # a socket's own: a key daemon lets its own packets past
        return []
    words = [_WAYS[way], *_selector(body)]
    held = attributes(body[168:])
    templates = held.get(5, b"")  # XFRMA_TMPL
    for at in range(0, len(templates) - 63, 64):
        protocol = _PROTOCOLS.get(templates[at + 20], str(templates[at + 20]))
        reqid, mode = struct.unpack_from("=IB", templates, at + 44)
        words += [protocol, _MODES.get(mode, str(mode)), str(reqid)]
    if action:
        words.append("block")
    return [Fact("xfrm", " ".join(words), "", body)]


def _association(body: bytes, _: Mapping[int, str]) -> list[Fact]:
    reqid, family, mode = struct.unpack_from("=IHB", body, 208)
    protocol = _PROTOCOLS.get(body[76], str(body[76]))
    ends = f"{_address(family, body[80:96])} {_address(family, body[56:72])}"
    text = f"association {ends} {protocol} {_MODES.get(mode, str(mode))} {reqid}"
    return [Fact("xfrm", text, "", body)]


_ROUTE: Mapping[int, tuple[bool, _Reader]] = {
    NEWLINK: (True, _link), DELLINK: (False, _link), NEWADDR: (True, _address_fact),
    DELADDR: (False, _address_fact), NEWROUTE: (True, _route), DELROUTE: (False, _route),
    NEWRULE: (True, _rule), DELRULE: (False, _rule), NEWNETCONF: (True, _netconf),
}  # fmt: skip
_XFRM: Mapping[int, tuple[bool, _Reader]] = {
    NEWSA: (True, _association), UPDSA: (True, _association),
    NEWPOLICY: (True, _policy), UPDPOLICY: (True, _policy),
}  # fmt: skip
