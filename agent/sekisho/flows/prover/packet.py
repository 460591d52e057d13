"""A packet as the solver sees it: headers as bit vectors, laid out as on the wire. Pure.

A packet is a prefix and what has been rewritten since: every other part is a variable named after
the prefix. The IPv4, IPv6 and transport headers are one vector each, so that a field and the raw
bytes it stands on are the same bits. Source: RFC 791, 8200, 9293, 768, 792, 826.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import z3

#: z3's types are not known to mypy.
Bits = Any
Bool = Any

#: (protocol, field) → base header, offset and width in bits, type of nftables.
FIELDS: dict[tuple[str, str], tuple[str, int, int, str]] = {}
for _protocol, _base, _listed in (
    ("ip", "nh4", ("version 0 4 integer,hdrlength 4 4 integer,dscp 8 6 dscp,ecn 14 2 ecn,"
     "length 16 16 integer,id 32 16 integer,frag-off 48 16 integer,ttl 64 8 integer,"
     "protocol 72 8 inet_proto,checksum 80 16 integer,saddr 96 32 ipv4_addr,"
     "daddr 128 32 ipv4_addr")),
    ("ip6", "nh6", ("version 0 4 integer,dscp 4 6 dscp,ecn 10 2 ecn,flowlabel 12 20 integer,"
     "length 32 16 integer,nexthdr 48 8 inet_proto,hoplimit 56 8 integer,saddr 64 128 ipv6_addr,"
     "daddr 192 128 ipv6_addr")),
    ("th", "th", ("sport 0 16 inet_service,dport 16 16 inet_service")),
    ("tcp", "th", ("sport 0 16 inet_service,dport 16 16 inet_service,sequence 32 32 integer,"
     "ackseq 64 32 integer,doff 96 4 integer,reserved 100 4 integer,flags 104 8 tcp_flag,"
     "window 112 16 integer,checksum 128 16 integer,urgptr 144 16 integer")),
    ("udp", "th", ("sport 0 16 inet_service,dport 16 16 inet_service,length 32 16 integer,"
     "checksum 48 16 integer")),
    ("udplite", "th", ("sport 0 16 inet_service,dport 16 16 inet_service,csumcov 32 16 integer,"
     "checksum 48 16 integer")),
    ("sctp", "th", ("sport 0 16 inet_service,dport 16 16 inet_service,vtag 32 32 integer,"
     "checksum 64 32 integer")),
    ("dccp", "th", ("sport 0 16 inet_service,dport 16 16 inet_service")),
    ("icmp", "th", ("type 0 8 icmp_type,code 8 8 icmp_code,checksum 16 16 integer,"
     "id 32 16 integer,sequence 48 16 integer,gateway 32 32 integer,mtu 48 16 integer")),
    ("icmpv6", "th", ("type 0 8 icmpv6_type,code 8 8 icmpv6_code,checksum 16 16 integer,"
     "id 32 16 integer,sequence 48 16 integer,mtu 32 32 integer,packet-too-big 32 32 integer,"
     "parameter-problem 32 32 integer,max-delay 32 16 integer")),
    ("igmp", "th", ("type 0 8 igmp_type,mrt 8 8 integer,checksum 16 16 integer,"
     "group 32 32 ipv4_addr")),
    ("ah", "th", ("nexthdr 0 8 inet_proto,hdrlength 8 8 integer,spi 32 32 integer,"
     "sequence 64 32 integer")),
    ("esp", "th", ("spi 0 32 integer,sequence 32 32 integer")),
    ("comp", "th", ("nexthdr 0 8 inet_proto,flags 8 8 integer,cpi 16 16 integer")),
    ("arp", "arp", ("htype 0 16 integer,ptype 16 16 ether_type,hlen 32 8 integer,"
     "plen 40 8 integer,operation 48 16 arp_op,saddr_ether 64 48 ether_addr,"
     "saddr_ip 112 32 ipv4_addr,daddr_ether 144 48 ether_addr,daddr_ip 192 32 ipv4_addr")),
):  # fmt: skip
    for _entry in _listed.split(","):
        _name, _offset, _width, _kind = _entry.split(" ")
        FIELDS[_protocol, _name.replace("_", " ")] = (_base, int(_offset), int(_width), _kind)

#: Transport protocols by the number that must stand in the header before.
TRANSPORT = {
    "tcp": 6, "udp": 17, "udplite": 136, "sctp": 132, "dccp": 33, "icmp": 1, "icmpv6": 58,
    "igmp": 2, "ah": 51, "esp": 50, "comp": 108,
}  # fmt: skip
#: Fields nft reads only behind certain types of message.
NEEDS_TYPE = {
    ("icmp", "id"): (0, 8), ("icmp", "sequence"): (0, 8), ("icmp", "gateway"): (5,),
    ("icmp", "mtu"): (3,), ("icmpv6", "id"): (128, 129), ("icmpv6", "sequence"): (128, 129),
    ("icmpv6", "mtu"): (2,), ("icmpv6", "packet-too-big"): (2,),
    ("icmpv6", "parameter-problem"): (4,), ("icmpv6", "max-delay"): (130, 131, 132),
}  # fmt: skip
WIDTHS = {"nh4": 160, "nh6": 320, "th": 160, "arp": 224, "iif": 128, "oif": 128, "mark": 32}
_EXTENSIONS = (0, 43, 44, 51, 59, 60, 135, 139, 140)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet; `get` reads a part, `with_` gives the packet with the part rewritten."""

    prefix: str
    parts: Mapping[str, Bits] = field(default_factory=dict)
    #: Terms made of the headers, made once: making them is what a translation costs.
    made: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        found = self.made.get(key)
        if found is None:
            found = self.made[key] = make()
        return found

    def get(self, name: str, width: int | None = None) -> Bits:
        """Return a part: what it was rewritten to, or its variable."""
        found = self.parts.get(name)
        if found is not None:
            return found
        return self._once(name, lambda: z3.BitVec(f"{self.prefix}.{name}", width or WIDTHS[name]))

    def flag(self, name: str) -> Bool:
        """Return a property that holds or does not."""
        found = self.parts.get(name)
        return z3.Bool(f"{self.prefix}.{name}") if found is None else found

    def with_(self, **parts: Bits) -> Packet:
        """Return the packet with parts rewritten."""
        headers = {"nh4", "nh6", "th", "arp", "iif", "oif"} & set(parts)
        kept = {key: one for key, one in self.made.items() if key not in parts}
        return Packet(self.prefix, {**self.parts, **parts}, {} if headers else kept)

    def bits(self, base: str, offset: int, width: int) -> Bits:
        """Return ``width`` bits of a header from ``offset``."""
        top = WIDTHS[base] - 1 - offset
        return self._once(
            (base, offset, width),
            lambda: z3.Extract(top, top - width + 1, self.get(base)),
        )

    def field(self, protocol: str, name: str) -> Bits:
        """Return a header field."""
        base, offset, width, _ = FIELDS[protocol, name]
        return self.bits(base, offset, width)

    @property
    def six(self) -> Bool:
        """Whether this is IPv6 (else IPv4)."""
        return self.flag("six")

    @property
    def protocol(self) -> Bits:
        """Return the transport protocol, as connection tracking and ``meta l4proto`` see it."""
        return self._once("protocol", self._protocol)

    def _protocol(self) -> Bits:
        chained = z3.If(
            self.extended, self.get("protocol6", 8), self.field("ip6", "nexthdr")
        )  # fmt: skip
        return z3.If(self.six, chained, self.field("ip", "protocol"))

    @property
    def extended(self) -> Bool:
        """Whether an IPv6 packet has extension headers (what they hold is left open)."""
        return self._once("extended", self._extended)

    def _extended(self) -> Bool:
        following = self.field("ip6", "nexthdr")
        return z3.Or(*[following == one for one in _EXTENSIONS])

    @property
    def has_transport(self) -> Bool:
        """Whether the kernel finds a transport header at all."""
        return self._once("has_transport", self._has_transport)

    def _has_transport(self) -> Bool:
        return z3.Implies(z3.And(self.six, self.extended), self.flag("transport6"))

    @property
    def later_fragment(self) -> Bool:
        """Whether the packet is a fragment other than the first: it has no transport header."""
        return self._once("later_fragment", self._later_fragment)

    def _later_fragment(self) -> Bool:
        four = self.bits("nh4", 51, 13) != 0
        return z3.If(self.six, z3.And(self.extended, self.flag("fragment6")), four)

    @property
    def transport_length(self) -> Bits:
        """Return the bytes behind the network header(s), 16 bits."""
        return self._once("transport_length", self._transport_length)

    def _transport_length(self) -> Bits:
        head = z3.ZeroExt(10, z3.Concat(self.field("ip", "hdrlength"), z3.BitVecVal(0, 2)))
        four = self.field("ip", "length") - head
        six = z3.If(self.extended, self.get("length6", 16), self.field("ip6", "length"))
        return z3.If(self.six, six, four)

    def readable(self, last: int) -> Bool:
        """Whether the transport header can be read up to bit ``last``."""
        octets = (last + 7) // 8
        return self._once(
            ("readable", octets),
            lambda: z3.And(
                self.has_transport,
                z3.Not(self.later_fragment),
                z3.UGE(self.transport_length, octets),
            ),
        )

    def well_formed(self, *, arriving: bool) -> Bool:
        """Return what the kernel has checked before any hook; on output root sends what he likes.

        Source: ``ip_rcv_core`` and ``ip6_rcv_core``.
        """
        found = [
            self.field("ip", "version") == 4,
            self.field("ip6", "version") == 6,
            z3.ULE(self.get("length6", 16), self.field("ip6", "length")),
        ]
        if arriving:
            head = z3.ZeroExt(10, z3.Concat(self.field("ip", "hdrlength"), z3.BitVecVal(0, 2)))
            found += [
                z3.UGE(self.field("ip", "hdrlength"), 5),
                z3.UGE(self.field("ip", "length"), head),
            ]
        return z3.And(*found)

    def is_bare(self) -> Bool:
        """Whether the packet is an IPv4 TCP segment that holds nothing but its headers.

        No IP options, no fragment, no lone SYN, and the total length is the headers'.
        """
        words = self.field("tcp", "doff")
        length = z3.BitVecVal(20, 16) + z3.ZeroExt(10, z3.Concat(words, z3.BitVecVal(0, 2)))
        flags = self.field("tcp", "flags")
        return z3.And(
            z3.Not(self.six),
            self.field("ip", "protocol") == 6,
            self.field("ip", "hdrlength") == 5,
            self.bits("nh4", 50, 14) == 0,
            z3.UGE(words, 5),
            self.field("ip", "length") == length,
            (flags & 0x12) != 2,
        )

    def aged(self) -> Packet:
        """Return the packet as a router sees it after its routing decision: TTL one less.

        The kernel counts down before the forward hook (``ip_forward``, ``ip6_forward``).
        """
        four, six = self.get("nh4"), self.get("nh6")
        checksum = z3.BitVec(f"{self.prefix}.checksum", 16)
        return self.with_(
            nh4=z3.Concat(
                z3.Extract(159, 96, four),
                z3.Extract(95, 88, four) - 1,
                z3.Extract(87, 80, four),
                checksum,
                z3.Extract(63, 0, four),
            ),
            nh6=z3.Concat(
                z3.Extract(319, 264, six), z3.Extract(263, 256, six) - 1, z3.Extract(255, 0, six)
            ),
        )
