"""The names nft writes for numbers, and constants into spans of numbers. Pure.

Sources: nft(8) "DATA TYPES"; IANA protocol numbers, ICMP, ICMPv6 and DSCP registries; the kernel's
``nf_conntrack_common.h`` for connection states (state bits: ``1 << (ctinfo % 3 + 1)``, invalid 1,
untracked 64).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

#: A closed interval of numbers.
Span = tuple[int, int]

#: Debian's ``/etc/protocols``, and nft's own words.
PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipv4": 4, "ipencap": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33,
    "ipv6": 41, "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51,
    "icmpv6": 58, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ospf": 89, "pim": 103,
    "comp": 108, "ipcomp": 108, "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136, "hopopt":
    0, "ip": 0, "ggp": 3, "st": 5, "igp": 9, "pup": 12, "hmp": 20, "xns-idp": 22, "rdp": 27,
    "iso-tp4": 29, "xtp": 36, "ddp": 37, "idpr-cmtp": 38, "idrp": 45, "skip": 57, "rspf": 73,
    "vmtp": 81, "eigrp": 88, "ax.25": 93, "ipip": 94, "etherip": 97, "encap": 98, "isis": 124,
    "fc": 133, "mobility-header": 135, "mpls-in-ip": 137, "manet": 138, "hip": 139, "shim6":
    140, "wesp": 141, "rohc": 142, "ethernet": 143,
}  # fmt: skip
TCP_FLAGS = {
    "fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128,
}  # fmt: skip
CT_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_UNREACHABLE = {
    "net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3,
    "frag-needed": 4, "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13,
}  # fmt: skip

#: Type of nftables → names and their numbers.
NAMES: Mapping[str, Mapping[str, int]] = {
    "inet_proto": PROTOCOLS,
    "tcp_flag": TCP_FLAGS,
    "ct_state": CT_STATES,
    "ct_dir": {"original": 0, "reply": 1},
    "ct_status": {
        "expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32,
        "dying": 512,
    },
    "nf_proto": {"ipv4": 2, "ipv6": 10},
    "ether_type": {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD, "vlan": 0x8100, "8021q": 0x8100,
                   "8021ad": 0x88A8},
    "icmp_type": {
        "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5,
        "echo-request": 8, "router-advertisement": 9, "router-solicitation": 10,
        "time-exceeded": 11, "parameter-problem": 12, "timestamp-request": 13,
        "timestamp-reply": 14, "info-request": 15, "info-reply": 16, "address-mask-request": 17,
        "address-mask-reply": 18,
    },
    "icmp_code": _UNREACHABLE,
    "icmpv6_code": {"no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3,
                    "port-unreachable": 4, "policy-fail": 5, "reject-route": 6},
    "icmpv6_type": {
        "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3,
        "parameter-problem": 4, "echo-request": 128, "echo-reply": 129,
        "mld-listener-query": 130, "mld-listener-report": 131, "mld-listener-done": 132,
        "mld-listener-reduction": 132, "nd-router-solicit": 133, "nd-router-advert": 134,
        "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137,
        "router-renumbering": 138, "ind-neighbor-solicit": 141, "ind-neighbor-advert": 142,
        "mld2-listener-report": 143,
    },
    "igmp_type": {"membership-query": 17, "membership-report-v1": 18, "membership-report-v2": 22,
                  "membership-report-v3": 34, "leave-group": 23},
    "arp_op": {"request": 1, "reply": 2, "rrequest": 3, "rreply": 4, "inrequest": 8, "inreply": 9,
               "nak": 10},
    "dscp": {
        "cs0": 0, "cs1": 8, "cs2": 16, "cs3": 24, "cs4": 32, "cs5": 40, "cs6": 48, "cs7": 56,
        "df": 0, "be": 0, "lephb": 1, "af11": 10, "af12": 12, "af13": 14, "af21": 18, "af22": 20,
        "af23": 22, "af31": 26, "af32": 28, "af33": 30, "af41": 34, "af42": 36, "af43": 38,
        "va": 44, "ef": 46,
    },
    "ecn": {"not-ect": 0, "ect1": 1, "ect0": 2, "ce": 3},
    "pkttype": {"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3},
    "boolean": {"exists": 1, "missing": 0},
}  # fmt: skip


def interface_number(name: str) -> int:
    """Return an interface's name as the kernel compares it: sixteen bytes."""
    return int.from_bytes(name.encode().ljust(16, b"\0")[:16], "big")


def interface_name(number: int) -> str:
    """Return the name a number stands for; bytes that are no text are shown escaped."""
    raw = number.to_bytes(16, "big").split(b"\0")[0]
    return raw.decode("ascii", "backslashreplace")


def spans(  # noqa: PLR0911 - one answer a form
    kind: str, width: int, value: Any
) -> list[Span]:
    """Return the numbers a constant stands for.

    Args:
        kind: the type of the left side, as nft(8) names it.
        width: its width in bits.
        value: a constant: number, text, range, prefix, flags.

    Raises:
        ValueError: this is no constant of the type.

    """
    if isinstance(value, bool):
        return [(int(value), int(value))]
    if isinstance(value, int):
        if not 0 <= value < 1 << width:
            raise ValueError(f"{value} does not fit into {width} bits")
        return [(value, value)]
    if isinstance(value, str):
        return [_text(kind, width, value)]
    if isinstance(value, dict) and len(value) == 1:
        if "range" in value:
            first, last = value["range"]
            low, high = _listed(kind, number(kind, width, first), number(kind, width, last))
            return [(low, high)]
        if "prefix" in value:
            _listed(kind, 0, 0)
            address, length = value["prefix"]["addr"], int(value["prefix"]["len"])
            low = number(kind, width, address) >> (width - length) << (width - length)
            return [(low, low | ((1 << (width - length)) - 1))]
        if "elem" in value and isinstance(value["elem"], dict):
            return spans(kind, width, value["elem"]["val"])
    if isinstance(value, (list, dict)):
        flags = flag_bits(kind, width, value)
        return [(flags, flags)]
    raise ValueError(f"{value!r} is no {kind}")


def joined(listed: Iterable[Span]) -> list[Span]:
    """Return the same numbers in order, in as few spans as there can be."""
    found: list[Span] = []
    for low, high in sorted(listed):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def folded(rows: Iterable[tuple[tuple[Span, ...], ...]]) -> list[tuple[tuple[Span, ...], ...]]:
    """Return fewer rows of spans that hold the same: those alike but for one column are one row.

    A thousand peers of one line are one row with a thousand addresses.
    """
    found = list(dict.fromkeys(rows))
    for column in range(len(found[0]) if found else 0):
        groups: dict[Any, list[Span]] = {}
        for row in found:
            groups.setdefault((row[:column], row[column + 1 :]), []).extend(row[column])
        found = [(*left, tuple(joined(one)), *right) for (left, right), one in groups.items()]
    return found


def _listed(kind: str, low: int, high: int) -> Span:
    """Return an interval as nft lists it; ValueError where nft is known to list another one.

    Names of interfaces in intervals come out empty (nft 1.0.6 and 1.1.3: ``{ "a1*", "a2*" }``).
    """
    if kind == "ifname":
        raise ValueError("nft does not list intervals of names as they are")
    if low > high:
        raise ValueError(f"the interval {low}-{high} holds nothing")
    return low, high


def flag_bits(kind: str, width: int, value: Any) -> int:
    """Return a constant of a bit-mask type: one flag, or several together."""
    if isinstance(value, dict) and set(value) == {"|"}:
        value = value["|"]
    listed = value if isinstance(value, list) else [value]
    found = 0
    for one in listed:
        if isinstance(one, dict) and set(one) == {"|"}:
            found |= flag_bits(kind, width, one)
        else:
            found |= number(kind, width, one)
    return found


def number(kind: str, width: int, value: Any) -> int:
    """Return the one number a constant stands for."""
    low, high = spans(kind, width, value)[0]
    if low != high:
        raise ValueError(f"{value!r} is more than one value")
    return low


def _text(  # noqa: C901, PLR0911 - one answer a type
    kind: str, width: int, text: str
) -> Span:
    if kind in ("ifname", "ifindex"):
        if not text:
            raise ValueError("an interface without a name")
        if text.endswith("*") and not text.endswith("\\*"):
            stem = text[:-1].encode()
            low = int.from_bytes(stem.ljust(16, b"\0"), "big")
            return low, low | ((1 << 8 * (16 - len(stem))) - 1)
        exact = interface_number(text.replace("\\*", "*"))
        return exact, exact
    if kind == "ipv4_addr":
        if "/" in text:
            network = ipaddress.IPv4Network(text)
            return int(network.network_address), int(network.broadcast_address)
        return (int(ipaddress.IPv4Address(text)),) * 2
    if kind == "ipv6_addr":
        return (int(ipaddress.IPv6Address(text)),) * 2
    if kind == "ether_addr":
        octets = bytes.fromhex(text.replace(":", ""))
        if len(octets) != 6:
            raise ValueError(f"{text!r} is no ether_addr")
        return (int.from_bytes(octets, "big"),) * 2
    named = NAMES.get(kind, {})
    if text in named:
        return named[text], named[text]
    plain = int(text, 0)
    if not 0 <= plain < 1 << width:
        raise ValueError(f"{text!r} does not fit into {width} bits")
    return plain, plain
