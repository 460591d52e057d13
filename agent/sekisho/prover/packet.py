"""A packet as the solver sees it: headers as bit vectors, laid out as on the wire. Pure.

A packet is a prefix and what has been rewritten since: every other part is a variable named after
the prefix. The IPv4, IPv6 and transport headers are one vector each, so that a field and the raw
bytes it stands on are the same bits. Source: RFC 791, 8200, 9293, 768, 792, 826.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import z3

from sekisho.prover.constants import Span, joined

#: z3's types are not known to mypy.
Bits = Any
Bool = Any
TRUE, FALSE = z3.BoolVal(True), z3.BoolVal(False)

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
    ("ah", "th", ("nexthdr 0 8 inet_proto,hdrlength 8 8 integer,"
     "reserved 16 16 integer,spi 32 32 integer,"
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
#: Parts no other part is computed of.
_APART = {"mark", "iif", "oif", "ipsec-out"}
HEADERS = ("nh4", "nh6", "th", "arp")
_EXTENSIONS = (0, 43, 44, 51, 59, 60, 135, 139, 140)


def all_of(*terms: Bool) -> Bool:
    """Return that all terms hold; those that always do are left out."""
    kept = [one for one in terms if one is not TRUE]
    if len(kept) > 1:
        return z3.And(*kept)
    return kept[0] if kept else TRUE


@dataclass(frozen=True, slots=True)
class Write:
    """Bits of a header written over, ``when`` that happened.

    ``also``: what else has to hold, made only where the bits are read: few rules read a checksum.
    """

    offset: int
    width: int
    when: Bool
    bits: Bits
    also: Callable[[], Bool] | None = None

    @property
    def happened(self) -> Bool:
        """Return when the bits were written."""
        return self.when if self.also is None else z3.And(self.when, self.also())


#: Header → what was written over it, oldest first.
Written = Mapping[str, tuple[Write, ...]]


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet; `get` and `bits` read a part, `with_` and `write` give the packet rewritten.

    ``entered`` is what had been written when the base chain began that is walked now: the kernel
    looks at the protocol, fragments and where the transport header stands once a base chain
    (``nft_set_pktinfo``) and does not look again in it.
    """

    prefix: str
    parts: Mapping[str, Bits] = field(default_factory=dict)
    written: Written = field(default_factory=dict)
    entered: Written = field(default_factory=dict)
    #: Terms already built of this very packet; building them anew costs more than solving.
    made: dict[Any, Any] = field(default_factory=dict, compare=False)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        found = self.made.get(key)
        if found is None:
            found = self.made[key] = make()
        return found

    def get(self, name: str, width: int | None = None) -> Bits:
        """Return a part: what it was rewritten to, or its variable."""
        if name in HEADERS:
            return self.bits(name, 0, WIDTHS[name])
        found = self.parts.get(name)
        return self._variable(name, width or WIDTHS.get(name, 0)) if found is None else found

    def _variable(self, name: str, width: int) -> Bits:
        return self._once(("=", name), lambda: z3.BitVec(f"{self.prefix}.{name}", width))

    def flag(self, name: str) -> Bool:
        """Return a property that holds or does not."""
        found = self.parts.get(name)
        return z3.Bool(f"{self.prefix}.{name}") if found is None else found

    def with_(self, **parts: Bits) -> Packet:
        """Return the packet with parts other than headers rewritten."""
        made = self.made if set(parts) <= _APART else {}
        return Packet(self.prefix, {**self.parts, **parts}, self.written, self.entered, made)

    def write(self, base: str, *writes: Write) -> Packet:
        """Return the packet with bits of a header written over."""
        listed = {**self.written, base: (*self.written.get(base, ()), *writes)}
        return Packet(self.prefix, self.parts, listed, self.entered)

    def entering(self) -> Packet:
        """Return the packet as a base chain begins with it."""
        if self.entered is self.written or not self.written:
            return self
        return Packet(self.prefix, self.parts, self.written, self.written)

    def bits(self, base: str, offset: int, width: int, *, entry: bool = False) -> Bits:
        """Return ``width`` bits of a header from ``offset``; ``entry``: as the chain began."""
        entry = entry and bool(self.written)
        written = (self.entered if entry else self.written).get(base, ())
        return self._once((base, offset, width, entry), lambda: self._read(
            base, offset, width, written))  # fmt: skip

    def _read(self, base: str, offset: int, width: int, written: tuple[Write, ...]) -> Bits:
        found = cut(self._variable(base, WIDTHS[base]), offset, width)
        for one in written:
            first, last = max(offset, one.offset), min(offset + width, one.offset + one.width)
            if first >= last:
                continue
            new = cut(one.bits, first - one.offset, last - first)
            pieces = [cut(found, 0, first - offset)] if first > offset else []
            pieces.append(new)
            if last < offset + width:
                pieces.append(cut(found, last - offset, offset + width - last))
            whole = z3.Concat(*pieces) if len(pieces) > 1 else new
            when = one.happened
            found = whole if when is TRUE else z3.If(when, whole, found)
        return found

    def arrived(self, protocol: str, name: str) -> Bits:
        """Return a header field as the packet came, whatever was written since."""
        base, offset, width, _ = FIELDS[protocol, name]
        return self._once(("arrived", protocol, name), lambda: self._read(base, offset, width, ()))

    def field(self, protocol: str, name: str, *, entry: bool = False) -> Bits:
        """Return a header field; ``entry``: as the base chain began with it."""
        base, offset, width, _ = FIELDS[protocol, name]
        return self.bits(base, offset, width, entry=entry)

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
            self.extended, self.get("protocol6", 8), self.field("ip6", "nexthdr", entry=True)
        )  # fmt: skip
        return z3.If(self.six, chained, self.field("ip", "protocol", entry=True))

    @property
    def extended(self) -> Bool:
        """Whether an IPv6 packet has extension headers (what they hold is left open)."""
        return self._once("extended", self._extended)

    def _extended(self) -> Bool:
        following = self.field("ip6", "nexthdr", entry=True)
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
        four = self.bits("nh4", 51, 13, entry=True) != 0
        return z3.If(self.six, z3.And(self.extended, self.flag("fragment6")), four)

    @property
    def transport_length(self) -> Bits:
        """Return the bytes behind the network header(s), 16 bits."""
        return self._once("transport_length", self._transport_length)

    def _transport_length(self) -> Bits:
        four = self.size - _octets(self.field("ip", "hdrlength", entry=True))
        return z3.If(self.six, self.size6, four)

    @property
    def size(self) -> Bits:
        """Return the bytes of an IPv4 packet, its header too, whatever its length field says now.

        What comes is cut to its length field (``ip_rcv_core``); rewriting the field cuts nothing.
        """
        found = self.parts.get("size")
        return self.arrived("ip", "length") if found is None else found

    @property
    def size6(self) -> Bits:
        """Return the bytes behind an IPv6 packet's headers."""
        found = self.parts.get("size6")
        if found is not None:
            return found
        return z3.If(self.extended, self.get("length6", 16), self.arrived("ip6", "length"))

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
            found += [
                z3.UGE(self.field("ip", "hdrlength"), 5),
                z3.UGE(self.field("ip", "length"), _octets(self.field("ip", "hdrlength"))),
            ]
        return z3.And(*found)

    def is_bare(self) -> Bool:
        """Whether the packet is an IPv4 TCP segment that holds nothing but its headers.

        No IP options, no fragment, no lone SYN, and the total length is the headers', by its field
        and by what is there: a rewritten field hides bytes from nobody on the wire.
        """
        words = self.field("tcp", "doff")
        length = z3.BitVecVal(20, 16) + _octets(words)
        flags = self.field("tcp", "flags")
        return z3.And(
            z3.Not(self.six),
            self.field("ip", "protocol") == 6,
            self.field("ip", "hdrlength") == 5,
            self.bits("nh4", 50, 14) == 0,
            z3.UGE(words, 5),
            self.field("ip", "length") == length,
            self.size == length,
            (flags & 0x12) != 2,
        )

    def aged(self) -> Packet:
        """Return the packet as a router sees it after its routing decision: TTL one less.

        The kernel counts down before the forward hook (``ip_forward``, ``ip6_forward``).
        """
        ttl, hops = self.field("ip", "ttl"), self.field("ip6", "hoplimit")
        checksum = z3.BitVec(f"{self.prefix}.checksum", 16)
        return self.write("nh4", Write(64, 8, TRUE, ttl - 1), Write(80, 16, TRUE, checksum)).write(
            "nh6", Write(56, 8, TRUE, hops - 1)
        )


def cut(bits: Bits, offset: int, width: int) -> Bits:
    """Return ``width`` bits from ``offset``, counted from the left as on the wire."""
    top = bits.size() - 1 - offset
    return bits if width == bits.size() else z3.Extract(top, top - width + 1, bits)


def within(bits: Bits, listed: Iterable[Span]) -> Bool:
    """Return whether bits are a number of one of some spans."""
    terms = [_between(bits, low, high) for low, high in joined(listed)]
    return terms[0] if len(terms) == 1 else z3.Or(*terms)


def _between(bits: Bits, low: int, high: int) -> Bool:
    width = bits.size()
    if low == high:
        return bits == low
    size = high - low + 1
    if size & (size - 1) == 0 and low % size == 0 and size < 1 << width:  # a prefix: cheaper
        shared = width - size.bit_length() + 1
        return cut(bits, 0, shared) == low >> (width - shared)
    return all_of(z3.UGE(bits, low), z3.ULE(bits, high))


def _octets(words: Bits) -> Bits:
    """Return a length in words of four bytes as bytes, in 16 bits."""
    return z3.ZeroExt(10, z3.Concat(words, z3.BitVecVal(0, 2)))
