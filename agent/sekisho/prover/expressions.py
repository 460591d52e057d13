"""A rule's expressions into bit vectors: value, and whether the kernel can read it at all. Pure.

What depends on something outside the packet and the rules (time, processor, routing table, what a
connection carries) is open: anything, and something else each time it is read, since all of it
changes while a packet is on its way. What has no meaning here is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import z3

from sekisho.core.text import is_number
from sekisho.prover.chance import Chance
from sekisho.prover.constants import Span, flag_bits, folded, number, spans
from sekisho.prover.packet import (
    FALSE,
    FIELDS,
    NEEDS_TYPE,
    TRANSPORT,
    TRUE,
    Bits,
    Bool,
    Packet,
    all_of,
    within,
)
from sekisho.prover.tables import Rule, Table, UnknownConstructError

#: Below this many elements of a set there is nothing to fold.
_FEW = 8
#: The frame is not part of the model.
_UNSEEN = ("ether", "vlan", "8021q")
#: Reading these leaves something to chance, which belongs to the rule.
_CHANCY = ("icmp", "igmp", "icmpv6", "dccp", *_UNSEEN)
#: States of connection tracking by their bit, as the rules read them.
INVALID, NEW, UNTRACKED = 1, 8, 64


@dataclass(frozen=True, slots=True)
class Track:
    """What connection tracking says of a packet here: state bits, direction, or nothing yet.

    ``template``: a rule made up a connection that only hands on a zone.
    """

    state: Bits
    reply: Bool
    template: Bool = FALSE

    @property
    def known(self) -> Bool:
        """Whether the packet is of a connection (else only ``ct state`` can be read)."""
        return all_of(self.state != INVALID, self.state != UNTRACKED)

    def left_alone(self, here: Bool) -> Track:
        """Return what ``notrack`` makes of it: only what is of no connection is changed by it.

        Source: ``nft_notrack_eval``.
        """
        out = all_of(here, z3.Not(self.known))
        state = z3.If(out, z3.BitVecVal(UNTRACKED, 32), self.state)
        return Track(state, self.reply, self.template)

    def given_zone(self, here: Bool) -> Track:
        """Return what ``ct zone set`` makes of it: a template, which reads as a new connection.

        Source: ``nft_ct_set_zone_eval``.
        """
        template = all_of(here, z3.Not(self.known))
        return Track(z3.If(template, z3.BitVecVal(NEW, 32), self.state),
                     all_of(self.reply, z3.Not(template)),
                     z3.Or(self.template, template))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """What a rule read: bits, whether they could be read, and the type of nftables.

    Of kind ``open`` nothing is known: a match of it may match or not, whatever it asks.
    """

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
    chance: Chance

    def fail(self, got: object, expected: str = "a construct nft(8) describes") -> Exception:
        """Return the error that names this rule."""
        return UnknownConstructError(self.rule.where, got, expected)

    def maybe(self, what: str) -> Bool:
        """Return a choice nobody can foresee: it may hold or not."""
        return self.chance.maybe(what)

    def value(self, expression: Any) -> Value:
        """Return the meaning of an expression."""
        if not isinstance(expression, dict) or len(expression) != 1:
            raise self.fail(expression, "an expression")
        (kind, body), *_ = expression.items()
        reader = _READERS.get(kind)
        if reader is None:
            raise self.fail(expression)
        if not isinstance(body, Mapping) and kind not in _LISTS:
            raise self.fail(expression, "an expression")
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
        flags = isinstance(value, list) or (isinstance(value, dict) and "|" in value)
        return int(self._told(flag_bits if flags else number, kind, width, value))

    def spans(self, kind: str, width: int, value: Any) -> list[Span]:
        """Return a constant's numbers."""
        return list(self._told(spans, kind, width, value))

    def _told(self, read: Callable[[str, int, Any], Any], kind: str, width: int, value: Any) -> Any:
        try:
            return read(kind, width, value)
        except (ValueError, KeyError, TypeError) as bad:
            raise self.fail(value, f"a constant of type {kind} ({bad})") from None

    def is_one_of(  # noqa: PLR0911 - one answer a form
        self, left: Any, right: Any
    ) -> Bool:
        """Return whether ``left`` (an expression) is the constant, set or element ``right``."""
        if right == "*":  # a catch-all element
            return self.readable(left)
        if isinstance(left, dict) and "concat" in left:
            parts = left["concat"]
            if not isinstance(right, dict) or len(right.get("concat", ())) != len(parts):
                raise self.fail(right, f"{len(parts)} parts")
            pairs = zip(parts, right["concat"], strict=True)
            return all_of(*[self.is_one_of(part, wanted) for part, wanted in pairs])
        found = self.value(left)
        if found.kind == "open":
            return found.readable
        if found.kind == "ifindex" and is_number(str(right)):  # who has that number, and when?
            return self.maybe("interface by number")
        if isinstance(right, dict) and set(right) & set(_READERS) - {"|", "&", "^"}:
            other = self.value(right)
            if other.kind == "open":
                return all_of(found.readable, other.readable)
            if other.bits.size() != found.bits.size():
                raise self.fail(right, f"{found.bits.size()} bits, as the left side")
            return all_of(found.readable, other.readable, found.bits == other.bits)
        listed = self.spans(found.kind, found.bits.size(), right)
        return all_of(found.readable, within(found.bits, listed))

    def is_any_of(self, left: Any, listed: Sequence[Any]) -> Bool:
        """Return whether ``left`` is one of many constants, in as few terms as it can be said."""
        parts = left["concat"] if isinstance(left, dict) and "concat" in left else [left]
        found = [self.value(part) for part in parts]
        if len(listed) < _FEW or any(one.kind in ("open", "ifindex") for one in found):
            return z3.Or(*[self.is_one_of(left, one) for one in listed])
        rows = []
        for one in listed:
            row = one.get("concat", ()) if isinstance(one, dict) and len(parts) > 1 else (one,)
            if len(row) != len(parts):
                raise self.fail(one, f"{len(parts)} parts")
            rows.append(tuple(tuple(self.spans(value.kind, value.bits.size(), part))
                              for value, part in zip(found, row, strict=True)))  # fmt: skip
        terms = [
            all_of(*[within(value.bits, one) for value, one in zip(found, row, strict=True)])
            for row in folded(rows)
        ]
        return all_of(*[one.readable for one in found], z3.Or(*terms))

    def readable(self, left: Any) -> Bool:
        """Return whether the kernel can read the expression, all parts of it."""
        if isinstance(left, dict) and "concat" in left:
            return all_of(*[self.value(part).readable for part in left["concat"]])
        return self.value(left).readable


def _payload(  # noqa: C901 - one condition a protocol
    reader: Reader, body: Mapping[str, Any]
) -> Value:
    packet = reader.packet
    if "base" in body:
        offset, width = body.get("offset"), body.get("len")
        if type(offset) is not int or type(width) is not int or offset < 0 or width < 1:
            raise reader.fail({"payload": dict(body)}, "an offset and a length in bits")
        return _raw(reader, str(body["base"]), offset, width)
    protocol, name = str(body.get("protocol")), str(body.get("field"))
    if protocol in _UNSEEN or (protocol, name) == ("dccp", "type"):
        return _open(reader, "frame" if protocol in _UNSEEN else "dccp type")
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
    return Value(bits, all_of(*needs), kind)


def _raw(reader: Reader, base: str, offset: int, width: int) -> Value:
    packet, last = reader.packet, offset + width
    if base == "th" and last <= 160:
        return Value(packet.bits("th", offset, width), packet.readable(last), "integer")
    if base == "nh" and last <= 160:
        four, six = packet.bits("nh4", offset, width), packet.bits("nh6", offset, width)
        return Value(z3.If(packet.six, six, four), TRUE, "integer")
    if base not in ("th", "nh", "ll", "ih"):
        raise reader.fail(base, "base ll, nh, th or ih")
    return _open(reader, "raw bytes")


_OPEN_META = {
    "priority", "skuid", "skgid", "pkttype", "cpu", "iifgroup", "oifgroup", "cgroup",
    "rtclassid", "hour", "day", "time", "iiftype", "oiftype", "iifkind", "oifkind", "random",
    "sdif", "sdifname", "ibrname", "obrname", "ibriport", "broute",
}  # fmt: skip


def _meta(  # noqa: PLR0911 - one answer a key
    reader: Reader, body: Mapping[str, Any]
) -> Value:
    packet, key = reader.packet, str(body.get("key"))
    if key in ("iif", "oif", "iifname", "oifname"):
        return Value(packet.get(key[:3]), TRUE, "ifname" if key.endswith("name") else "ifindex")
    if key == "nfproto":
        return Value(z3.If(packet.six, z3.BitVecVal(10, 8), z3.BitVecVal(2, 8)), TRUE, "nf_proto")
    if key == "protocol":
        kinds = z3.If(packet.six, z3.BitVecVal(0x86DD, 16), z3.BitVecVal(0x0800, 16))
        return Value(kinds, TRUE, "ether_type")
    if key == "l4proto":
        return Value(packet.protocol, packet.has_transport, "inet_proto")
    if key == "length" and "size6" not in packet.parts:
        six = z3.ZeroExt(16, packet.arrived("ip6", "length")) + 40
        return Value(z3.If(packet.six, six, z3.ZeroExt(16, packet.size)), TRUE, "integer")
    if key in ("ipsec", "secpath"):
        one = z3.If(packet.flag("ipsec-in"), z3.BitVecVal(1, 8), z3.BitVecVal(0, 8))
        return Value(one, TRUE, "boolean")
    if key == "mark":
        return Value(packet.get(key), TRUE, key)
    if key in _OPEN_META or key == "length":
        return _open(reader, f"meta {key}")
    raise reader.fail({"meta": dict(body)})


#: What a connection carries: rules, other packets, programs and time change it at any moment.
_CT_KEYS = {
    "mark", "status", "expiration", "zone", "id", "bytes", "packets", "avgpkt", "label", "helper",
    "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr", "saddr", "daddr", "proto-src", "proto-dst",
    "protocol", "l3proto", "secmark",
}  # fmt: skip


def _ct(reader: Reader, body: Mapping[str, Any]) -> Value:
    key, track = str(body.get("key")), reader.track
    if key == "state":
        return Value(track.state, TRUE, "ct_state")
    if key == "direction":
        way = z3.If(track.reply, z3.BitVecVal(1, 8), z3.BitVecVal(0, 8))
        there = track.known
        if track.template is not FALSE:  # seen not to match then, of either direction
            there = all_of(there, z3.Or(z3.Not(track.template), reader.maybe("ct direction")))
        return Value(way, there, "ct_dir")
    if key not in _CT_KEYS:
        raise reader.fail({"ct": dict(body)})
    found = _open(reader, f"ct {key}")
    return Value(found.bits, all_of(track.known, found.readable), found.kind)


def _exists(kind: str) -> Callable[[Reader, Mapping[str, Any]], Value]:
    def read(reader: Reader, body: Mapping[str, Any]) -> Value:
        packet, name = reader.packet, body.get("name")
        if not isinstance(name, str):  # tcp option @kind,offset,length
            return _open(reader, kind)
        there, where = reader.maybe(f"{kind} {name}"), TRUE
        if kind == "ip option":  # without room for options there are none
            there = all_of(there, packet.field("ip", "hdrlength") != 5)
            where = z3.Not(packet.six)
        elif kind == "exthdr":
            there = all_of(there, packet.extended)
            where = z3.Or(packet.six, reader.maybe("family"))
        elif kind == "tcp option":
            whole = all_of(packet.protocol == TRANSPORT["tcp"], packet.readable(160))
            there = all_of(there, whole, packet.field("tcp", "doff") != 5)
        if "field" in body:
            return Value(reader.chance.anything(f"{kind} {name}", 64), all_of(where, there), "open")
        return missing(there, where, everywhere=kind in ("tcp option", "sctp chunk"))

    return read


def missing(there: Bool, where: Bool, *, everywhere: bool) -> Value:
    """Return what ``exists`` and ``missing`` ask for: 1 or 0.

    ``everywhere``: it reads 0, and ``missing`` matches, of a packet that cannot have the thing at
    all, of another protocol or cut short (``nft_exthdr_tcp_eval``, ``nft_exthdr_sctp_eval``).
    """
    found = z3.If(all_of(where, there), z3.BitVecVal(1, 8), z3.BitVecVal(0, 8))
    return Value(found, TRUE if everywhere else where, "boolean")


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
    return Value(reader.chance.anything(what, 64), reader.maybe(what), "open")


def _arithmetic(name: str) -> Callable[[Reader, Any], Value]:
    def read(reader: Reader, body: Any) -> Value:
        if not isinstance(body, list) or len(body) < 2:
            raise reader.fail({name: body}, "two operands")
        left = reader.value(body[0])
        if name in ("<<", ">>"):  # of how many bits, and in which order of bytes, is nft's affair
            return Value(reader.chance.anything("shift", 64),
                         all_of(left.readable, reader.maybe("shift")), "open")  # fmt: skip
        if left.kind == "open":
            return left
        bits, width = left.bits, left.bits.size()
        for operand in body[1:]:
            other = reader.constant(left.kind, width, operand)
            if name == "&":
                bits = bits & other
            elif name == "|":
                bits = bits | other
            else:
                bits = bits ^ other
        return Value(bits, left.readable, left.kind)

    return read


#: Expressions whose body is a list.
_LISTS = ("&", "|", "^", "<<", ">>")

_READERS: dict[str, Callable[[Reader, Any], Value]] = {
    "payload": _payload,
    "meta": _meta,
    "ct": _ct,
    "rt": _rt,
    "fib": lambda reader, body: _open(reader, f"fib {body.get('result')}"),
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
    **{name: _arithmetic(name) for name in _LISTS},
}
