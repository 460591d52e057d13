"""A rule's expressions into bit vectors: value, and whether the kernel can read it at all. Pure.

What depends on something outside the packet and the rules (time, processor, routing table, random
numbers) is a variable of its own: it may be anything. What has no meaning here is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import z3

from sekisho.flows.prover.constants import Span, flag_bits, number, spans
from sekisho.flows.prover.packet import FIELDS, NEEDS_TYPE, TRANSPORT, Bits, Bool, Packet
from sekisho.flows.prover.rules import Rule, Table, UnknownConstructError

TRUE, FALSE = z3.BoolVal(True), z3.BoolVal(False)


#: Reading these leaves something to chance, which belongs to the rule.
_CHANCY = ("icmp", "igmp", "icmpv6", "ether", "vlan", "8021q")


@dataclass(frozen=True, slots=True)
class Track:
    """What connection tracking says of a packet here: state bits, direction, or nothing yet."""

    state: Bits
    reply: Bool

    @property
    def known(self) -> Bool:
        """Whether the packet is of a connection (else only ``ct state`` can be read)."""
        return z3.And(self.state != 1, self.state != 64)


@dataclass(frozen=True, slots=True)
class Value:
    """What a rule read: bits, whether they could be read, and the type of nftables."""

    bits: Bits
    readable: Bool
    kind: str


@dataclass(slots=True)
class Reader:
    """Reads expressions of one rule against one packet."""

    packet: Packet
    track: Track
    table: Table
    rule: Rule
    asked: int = 0

    def fail(self, got: object, expected: str = "a construct nft(8) describes") -> Exception:
        """Return the error that names this rule."""
        return UnknownConstructError(self.rule.where, got, expected)

    def maybe(self, what: str) -> Bool:
        """Return a choice nobody can foresee: it may hold or not."""
        self.asked += 1
        return z3.Bool(f"{self.packet.prefix}?{what} in {self.rule.where} #{self.asked}")

    def value(self, expression: Any) -> Value:
        """Return the meaning of an expression."""
        if not isinstance(expression, dict) or len(expression) != 1:
            raise self.fail(expression, "an expression")
        (kind, body), *_ = expression.items()
        reader = _READERS.get(kind)
        if reader is None:
            raise self.fail(expression)
        if kind != "payload" or "base" in body:
            return reader(self, body)
        key = (body.get("protocol"), body.get("field"))
        if key in NEEDS_TYPE or key[0] in _CHANCY:
            return reader(self, body)
        found = self.packet.made.get(key)
        if found is None:
            found = self.packet.made[key] = reader(self, body)
        return found

    def constant(self, kind: str, width: int, value: Any) -> int:
        """Return one constant, flags together."""
        try:
            if isinstance(value, list) or (isinstance(value, dict) and "|" in value):
                return flag_bits(kind, width, value)
            return number(kind, width, value)
        except (ValueError, KeyError, TypeError) as bad:
            raise self.fail(value, f"a constant of type {kind} ({bad})") from None

    def spans(self, kind: str, width: int, value: Any) -> list[Span]:
        """Return a constant's numbers."""
        try:
            return spans(kind, width, value)
        except (ValueError, KeyError, TypeError) as bad:
            raise self.fail(value, f"a constant of type {kind} ({bad})") from None

    def is_one_of(self, left: Any, right: Any) -> Bool:
        """Return whether ``left`` (an expression) is the constant, set or element ``right``."""
        if isinstance(left, dict) and "concat" in left:
            parts = left["concat"]
            if not isinstance(right, dict) or len(right.get("concat", ())) != len(parts):
                raise self.fail(right, f"{len(parts)} parts")
            pairs = zip(parts, right["concat"], strict=True)
            return z3.And(*[self.is_one_of(part, wanted) for part, wanted in pairs])
        found = self.value(left)
        if found.kind == "open":
            return found.readable
        if isinstance(right, dict) and set(right) & set(_READERS) - {"|", "&", "^"}:
            other = self.value(right)
            return z3.And(found.readable, other.readable, found.bits == other.bits)
        width = found.bits.size()
        inside = [
            _between(found.bits, low, high) for low, high in self.spans(found.kind, width, right)
        ]
        return z3.And(found.readable, z3.Or(*inside))

    def readable(self, left: Any) -> Bool:
        """Return whether the kernel can read the expression, all parts of it."""
        if isinstance(left, dict) and "concat" in left:
            return z3.And(*[self.value(part).readable for part in left["concat"]])
        return self.value(left).readable


def _between(bits: Bits, low: int, high: int) -> Bool:
    width = bits.size()
    if low == high:
        return bits == low
    if low > high:
        return FALSE
    size = high - low + 1
    if size & (size - 1) == 0 and low % size == 0 and size < 1 << width:  # a prefix: cheaper
        cut = size.bit_length() - 1
        return z3.Extract(width - 1, cut, bits) == (low >> cut)
    return z3.And(z3.UGE(bits, low), z3.ULE(bits, high))


def _payload(  # noqa: C901 - one condition a protocol
    reader: Reader, body: Mapping[str, Any]
) -> Value:
    packet = reader.packet
    if "base" in body:
        return _raw(reader, str(body["base"]), int(body["offset"]), int(body["len"]))
    protocol, name = str(body.get("protocol")), str(body.get("field"))
    if protocol in ("ether", "vlan", "8021q"):  # the frame is not part of the model
        kind, width = ("ether_addr", 48) if name in ("saddr", "daddr") else ("ether_type", 16)
        return Value(packet.get(f"{protocol}-{name}", width), reader.maybe("frame"), kind)
    known = FIELDS.get((protocol, name))
    if known is None:
        raise reader.fail({"payload": dict(body)})
    base, offset, width, kind = known
    bits = packet.bits(base, offset, width)
    if base == "arp":
        return Value(bits, packet.flag("arp?"), kind)
    if base == "nh4":
        return Value(bits, z3.Not(packet.six), kind)
    if base == "nh6":
        return Value(bits, packet.six, kind)
    needs = [packet.readable(offset + width)]
    if protocol in TRANSPORT:
        needs.append(packet.protocol == TRANSPORT[protocol])
    if protocol in ("icmp", "igmp"):  # rules made by other tools may not ask for the family
        needs.append(z3.Or(z3.Not(packet.six), reader.maybe("family")))
    if protocol == "icmpv6":
        needs.append(z3.Or(packet.six, reader.maybe("family")))
    types = NEEDS_TYPE.get((protocol, name))
    if types:
        listed = [packet.bits("th", 0, 8) == one for one in types]
        needs.append(z3.Or(*listed, reader.maybe("type")))
    return Value(bits, z3.And(*needs), kind)


def _raw(reader: Reader, base: str, offset: int, width: int) -> Value:
    packet = reader.packet
    last = offset + width
    if base == "th" and last <= 160:
        return Value(packet.bits("th", offset, width), packet.readable(last), "integer")
    if base == "nh" and last <= 160:
        four, six = packet.bits("nh4", offset, width), packet.bits("nh6", offset, width)
        return Value(z3.If(packet.six, six, four), TRUE, "integer")
    if base not in ("th", "nh", "ll", "ih"):
        raise reader.fail(base, "base ll, nh, th or ih")
    return Value(packet.get(f"{base}@{offset}", width), reader.maybe("raw bytes"), "integer")


_META = {
    "mark": (32, "mark"), "priority": (32, "integer"), "skuid": (32, "uid"), "skgid": (32, "gid"),
    "pkttype": (8, "pkttype"), "cpu": (32, "integer"), "iifgroup": (32, "devgroup"),
    "oifgroup": (32, "devgroup"), "cgroup": (32, "integer"), "rtclassid": (32, "integer"),
}  # fmt: skip
_OPEN_META = {"hour", "day", "time", "iiftype", "oiftype", "iifkind", "oifkind", "random",
              "sdif", "sdifname", "ibrname", "obrname", "ibriport", "broute"}  # fmt: skip


def _meta(  # noqa: PLR0911 - one answer a key
    reader: Reader, body: Mapping[str, Any]
) -> Value:
    packet, key = reader.packet, str(body.get("key"))
    if key in ("iif", "oif", "iifname", "oifname"):
        return Value(packet.get(key[:3]), TRUE, "ifname")
    if key == "nfproto":
        return Value(z3.If(packet.six, z3.BitVecVal(10, 8), z3.BitVecVal(2, 8)), TRUE, "nf_proto")
    if key == "protocol":
        kinds = z3.If(packet.six, z3.BitVecVal(0x86DD, 16), z3.BitVecVal(0x0800, 16))
        return Value(kinds, TRUE, "ether_type")
    if key == "l4proto":
        return Value(packet.protocol, packet.has_transport, "inet_proto")
    if key == "length":
        six = z3.ZeroExt(16, packet.field("ip6", "length")) + 40
        return Value(
            z3.If(packet.six, six, z3.ZeroExt(16, packet.field("ip", "length"))), TRUE, "integer"
        )
    if key in ("ipsec", "secpath"):
        one = z3.If(packet.flag("ipsec-in"), z3.BitVecVal(1, 8), z3.BitVecVal(0, 8))
        return Value(one, TRUE, "boolean")
    if key in _META:
        width, kind = _META[key]
        sure = TRUE if key in ("mark", "priority", "pkttype") else packet.flag(f"has {key}")
        return Value(packet.get(key, width), sure, kind)
    if key in _OPEN_META:
        return _open(reader, f"meta {key}")
    raise reader.fail({"meta": dict(body)})


_CT_KEYS = {
    "mark": (32, "mark"), "status": (32, "ct_status"), "expiration": (32, "integer"),
    "zone": (16, "integer"), "id": (32, "integer"), "bytes": (64, "integer"),
    "packets": (64, "integer"), "avgpkt": (64, "integer"), "label": (128, "integer"),
    "ip saddr": (32, "ipv4_addr"), "ip daddr": (32, "ipv4_addr"), "ip6 saddr": (128, "ipv6_addr"),
    "ip6 daddr": (128, "ipv6_addr"), "proto-src": (16, "inet_service"),
    "proto-dst": (16, "inet_service"), "protocol": (8, "inet_proto"), "l3proto": (8, "nf_proto"),
}  # fmt: skip


def _ct(reader: Reader, body: Mapping[str, Any]) -> Value:
    key, track = str(body.get("key")), reader.track
    if key == "state":
        return Value(track.state, TRUE, "ct_state")
    if key == "direction":
        way = z3.If(track.reply, z3.BitVecVal(1, 8), z3.BitVecVal(0, 8))
        return Value(way, track.known, "ct_dir")
    if key == "helper":
        return _open(reader, "ct helper")
    if key not in _CT_KEYS:
        raise reader.fail({"ct": dict(body)})
    width, kind = _CT_KEYS[key]
    name = f"ct {body.get('dir', '')} {key}"
    return Value(reader.packet.get(name, width), z3.And(track.known, reader.maybe(name)), kind)


def _exists(kind: str) -> Callable[[Reader, Mapping[str, Any]], Value]:
    def read(reader: Reader, body: Mapping[str, Any]) -> Value:
        name = f"{kind} {body.get('name')}"
        there = reader.packet.flag(name)
        if kind == "ip option":  # without room for options there are none
            there = z3.And(there, reader.packet.field("ip", "hdrlength") != 5)
        where = z3.Not(reader.packet.six) if kind == "ip option" else TRUE
        if kind == "exthdr":
            there, where = z3.And(there, reader.packet.extended), reader.packet.six
        if kind == "tcp option":
            packet = reader.packet
            where = z3.And(packet.protocol == 6, packet.readable(160))
            there = z3.And(there, packet.field("tcp", "doff") != 5)
        if "field" not in body:
            return Value(z3.If(there, z3.BitVecVal(1, 8), z3.BitVecVal(0, 8)), where, "boolean")
        bits = reader.packet.get(f"{name} {body['field']}", 32)
        return Value(bits, z3.And(where, there), "integer")

    return read


def _rt(reader: Reader, body: Mapping[str, Any]) -> Value:
    if body.get("key") == "ipsec":
        out = z3.If(reader.packet.flag("ipsec-out"), z3.BitVecVal(1, 8), z3.BitVecVal(0, 8))
        return Value(out, TRUE, "boolean")
    return _open(reader, f"rt {body.get('key')}")


def _ipsec(reader: Reader, body: Mapping[str, Any]) -> Value:
    way, key = str(body.get("dir", "in")), str(body.get("key"))
    six = body.get("family") == "ip6"
    shapes = {"reqid": (32, "integer"), "spi": (32, "integer")}
    address = (128, "ipv6_addr") if six else (32, "ipv4_addr")
    width, kind = shapes.get(key, address)
    name = f"ipsec {way} {key} {body.get('spnum', 0)}"
    return Value(reader.packet.get(name, width), reader.packet.flag(f"ipsec-{way}"), kind)


def _open(reader: Reader, what: str) -> Value:
    """Return a value that may be anything, or not be there."""
    return Value(reader.packet.get(what, 64), reader.maybe(what), "open")


def _fib(reader: Reader, body: Mapping[str, Any]) -> Value:
    return _open(reader, f"fib {body.get('result')}")


def _arithmetic(name: str) -> Callable[[Reader, Any], Value]:
    def read(reader: Reader, body: Any) -> Value:
        if not isinstance(body, list) or len(body) < 2:
            raise reader.fail({name: body}, "two operands")
        left = reader.value(body[0])
        bits, width = left.bits, left.bits.size()
        for operand in body[1:]:
            other = reader.constant(left.kind, width, operand)
            if name == "&":
                bits = bits & other
            elif name == "|":
                bits = bits | other
            elif name == "^":
                bits = bits ^ other
            elif name == "<<":
                bits = bits << other
            else:
                bits = z3.LShR(bits, other)
        return Value(bits, left.readable, left.kind)

    return read


_READERS: dict[str, Callable[[Reader, Any], Value]] = {
    "payload": _payload,
    "meta": _meta,
    "ct": _ct,
    "rt": _rt,
    "fib": _fib,
    "ipsec": _ipsec,
    "exthdr": _exists("exthdr"),
    "tcp option": _exists("tcp option"),
    "ip option": _exists("ip option"),
    "sctp chunk": _exists("sctp chunk"),
    "numgen": lambda reader, _: _open(reader, "numgen"),
    "jhash": lambda reader, _: _open(reader, "jhash"),
    "symhash": lambda reader, _: _open(reader, "symhash"),
    "socket": lambda reader, _: _open(reader, "socket"),
    "osf": lambda reader, _: _open(reader, "osf"),
    **{name: _arithmetic(name) for name in ("&", "|", "^", "<<", ">>")},
}
