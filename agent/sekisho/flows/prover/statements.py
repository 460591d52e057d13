"""A rule's statements: what it matches, what it rewrites, and the verdict it gives. Pure.

Statements run in order and the first that does not match ends the rule. Limits, quotas, counts of
connections and queues may match or not; sets that rules fill may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import z3

from sekisho.flows.prover.expressions import FALSE, TRUE, Reader, Track, Value
from sekisho.flows.prover.packet import FIELDS, Bits, Bool, Packet
from sekisho.flows.prover.rules import NamedSet, Rule, Table

_VERDICTS = ("accept", "drop", "return", "continue", "jump", "goto")
#: Statements without influence on what passes.
_IDLE = ("counter", "log", "comment", "last", "secmark", "ct helper", "ct timeout",
         "ct expectation", "nftrace")  # fmt: skip
_MAYBE = ("limit", "quota", "ct count", "connlimit")


@dataclass(slots=True)
class Effect:
    """What one rule does to a packet that reaches it.

    Attributes:
        match: whether every statement matched.
        verdicts: (condition beyond ``match``, verdict, target chain).
        packet: the packet behind the rule's rewriting (conditions included).
        untracked: whether the rule takes the packet out of connection tracking.

    """

    match: Bool
    packet: Packet
    verdicts: list[tuple[Bool, str, str]] = field(default_factory=list)
    untracked: Bool = FALSE


def run(rule: Rule, table: Table, packet: Packet, track: Track, alive: Bool) -> Effect:
    """Return the effect of ``rule`` on a packet that reaches it when ``alive``.

    Raises `UnknownConstructError` for anything without a meaning here.
    """
    effect = Effect(match=TRUE, packet=packet)
    # One reader a rule: the number of a choice is then its place in the rule.
    reader = Reader(packet=packet, track=track, table=table, rule=rule)
    for statement in rule.statements:
        if not isinstance(statement, dict) or len(statement) != 1:
            raise reader.fail(statement, "a statement")
        (kind, body), *_ = statement.items()
        reader.packet = effect.packet
        _one(reader, effect, kind, body, z3.And(alive, effect.match))
    return effect


def _one(  # noqa: C901, PLR0912 - one branch a kind of statement
    reader: Reader, effect: Effect, kind: str, body: Any, here: Bool
) -> None:
    if kind in _VERDICTS:
        target = str(body["target"]) if kind in ("jump", "goto") else ""
        effect.verdicts.append((TRUE, kind, target))
    elif kind == "reject":
        effect.verdicts.append((TRUE, "drop", ""))
    elif kind == "match":
        effect.match = z3.And(effect.match, matches(reader, body))
    elif kind in _MAYBE or (kind == "queue"):
        effect.match = z3.And(effect.match, _perhaps(reader, kind, body, effect))
    elif kind == "vmap":
        _verdict_map(reader, effect, body)
    elif kind in ("counter", "limit", "quota") or kind in _IDLE:
        if isinstance(body, dict) and "map" in body:
            effect.match = z3.And(effect.match, _in_map(reader, body["map"]))
    elif kind in ("set", "map"):
        key = body.get("elem")
        if isinstance(key, dict) and "elem" in key:
            key = key["elem"]["val"]
        full = reader.maybe(f"{body.get('set') or body.get('map')} not full")
        stated = [reader.maybe("statement of the element") for _ in body.get("stmt", ())]
        effect.match = z3.And(effect.match, reader.readable(key), full, *stated)
    elif kind == "notrack":
        effect.untracked = z3.Or(effect.untracked, here)
    elif kind == "mangle":
        effect.packet, done = _mangle(reader, body, here)
        effect.match = z3.And(effect.match, done)
    elif kind in ("snat", "dnat", "masquerade", "redirect"):
        effect.packet = _translate(reader, kind, body, here)
        effect.verdicts.append((TRUE, "accept", ""))
    else:
        raise reader.fail({kind: body})


def _perhaps(reader: Reader, kind: str, body: Any, effect: Effect) -> Bool:
    if isinstance(body, dict) and "map" in body:
        return z3.And(_in_map(reader, body["map"]), reader.maybe(kind))
    if kind == "queue":  # the program behind the queue accepts or drops
        accepts = reader.maybe("queue")
        effect.verdicts += [(accepts, "accept", ""), (z3.Not(accepts), "drop", "")]
        return TRUE
    return reader.maybe(kind)


def matches(reader: Reader, body: Mapping[str, Any]) -> Bool:
    """Return whether a match statement matches."""
    op, left, right = str(body.get("op")), body.get("left"), body.get("right")
    if isinstance(left, dict) and "concat" not in left and reader.value(left).kind == "open":
        return reader.value(left).readable
    if op in ("==", "!="):
        inside = _inside(reader, left, right)
        if op == "==":
            return inside
        return z3.And(reader.readable(left), z3.Not(inside))
    found = reader.value(left)
    width = found.bits.size()
    if op in ("in", "!"):
        mask = reader.constant(found.kind, width, right)
        hit = (found.bits & mask) != 0
        return z3.And(found.readable, hit if op == "in" else z3.Not(hit))
    compare = {"<": z3.ULT, ">": z3.UGT, "<=": z3.ULE, ">=": z3.UGE}.get(op)
    if compare is None:
        raise reader.fail(op, "== != < > <= >= in !")
    other = reader.constant(found.kind, width, right)
    return z3.And(found.readable, compare(found.bits, z3.BitVecVal(other, width)))


def _inside(reader: Reader, left: Any, right: Any) -> Bool:
    """Return whether the left side is (one of) the right side."""
    if isinstance(right, str) and right.startswith("@"):
        return _in_set(reader, left, _named(reader, right))
    if isinstance(right, dict) and set(right) == {"set"}:
        listed = right["set"]
        if isinstance(listed, str):
            return _in_set(reader, left, _named(reader, listed))
        return z3.Or(*[_element(reader, left, one) for one in listed])
    return reader.is_one_of(left, right)


def _named(reader: Reader, name: str) -> NamedSet:
    found = reader.table.sets.get(name.lstrip("@"))
    if found is None:
        raise reader.fail(name, "a set or map of this table")
    return found


def _element(reader: Reader, left: Any, element: Any, *, fades: bool = False) -> Bool:
    """Return whether the left side is one element; one with a time-out may be gone."""
    timed = fades
    if isinstance(element, dict) and isinstance(element.get("elem"), dict):
        timed = timed or bool({"timeout", "expires"} & set(element["elem"]))
        timed = timed or bool({"limit", "quota", "ct count"} & set(element["elem"]))
        element = element["elem"]["val"]
    equal = reader.is_one_of(left, element)
    return z3.And(equal, reader.maybe("time-out")) if timed else equal


def _in_set(reader: Reader, left: Any, held: NamedSet) -> Bool:
    if held.grows:
        return z3.And(reader.readable(left), reader.maybe(f"in @{held.name}"))
    listed = [_element(reader, left, one, fades=held.fades) for one in held.elements]
    return z3.And(reader.readable(left), z3.Or(*listed))


def _pairs(reader: Reader, body: Mapping[str, Any]) -> tuple[Any, list[tuple[Any, Any]], NamedSet]:
    """Return the key, the (element, value) pairs of a map, and how it changes."""
    data = body.get("data")
    if isinstance(data, str):
        held = _named(reader, data)
        listed = list(held.elements)
    elif isinstance(data, dict) and isinstance(data.get("set"), list):
        held = NamedSet("", (), "", (), grows=False, fades=False)
        listed = data["set"]
    else:
        raise reader.fail(data, "a map")
    pairs = []
    for one in listed:
        if not isinstance(one, list) or len(one) != 2:
            raise reader.fail(one, "a pair of element and value")
        pairs.append((one[0], one[1]))
    return body.get("key"), pairs, held


def _verdict_map(reader: Reader, effect: Effect, body: Mapping[str, Any]) -> None:
    key, pairs, held = _pairs(reader, body)
    if held.grows:
        raise reader.fail(f"@{held.name}", "a verdict map that no rule fills")
    catch_all: list[tuple[Any, Any]] = []
    exact: list[tuple[Any, Any]] = []
    for element, verdict in pairs:
        (catch_all if element == "*" else exact).append((element, verdict))
    hits = []
    for element, verdict in exact:
        hit = _element(reader, key, element, fades=held.fades)
        hits.append(hit)
        _verdict(reader, effect, hit, verdict)
    none = z3.And(reader.readable(key), z3.Not(z3.Or(*hits)))
    for _, verdict in catch_all:
        _verdict(reader, effect, none, verdict)
    # Without an element the rule ends; with "continue" it goes on: both pass to the next rule.


def _verdict(reader: Reader, effect: Effect, hit: Bool, verdict: Any) -> None:
    if not isinstance(verdict, dict) or len(verdict) != 1 or not set(verdict) <= set(_VERDICTS):
        raise reader.fail(verdict, "a verdict")
    (kind, body), *_ = verdict.items()
    target = str(body["target"]) if kind in ("jump", "goto") else ""
    effect.verdicts.append((hit, kind, target))


def _in_map(reader: Reader, body: Mapping[str, Any]) -> Bool:
    key, pairs, held = _pairs(reader, body)
    if held.grows:
        return z3.And(reader.readable(key), reader.maybe(f"in @{held.name}"))
    return z3.Or(*[_element(reader, key, one, fades=held.fades) for one, _ in pairs])


def _operand(reader: Reader, value: Any, kind: str, width: int) -> tuple[Bits, Bool]:
    """Return what a rewriting statement writes, and whether it can be known."""
    if isinstance(value, dict) and "map" in value:
        key, pairs, held = _pairs(reader, value["map"])
        bits, hits = reader.packet.get(f"{reader.rule.where} map", width), []
        if held.grows:
            return bits, z3.And(reader.readable(key), reader.maybe(f"in @{held.name}"))
        for element, listed in pairs:
            hit = _element(reader, key, element, fades=held.fades)
            bits = z3.If(hit, z3.BitVecVal(reader.constant(kind, width, listed), width), bits)
            hits.append(hit)
        return bits, z3.Or(*hits)
    if isinstance(value, dict) and not set(value) & {"range", "prefix"} and not _flags(value):
        found: Value = reader.value(value)
        size = found.bits.size()
        if size < width:
            return z3.ZeroExt(width - size, found.bits), found.readable
        return z3.Extract(width - 1, 0, found.bits), found.readable
    return z3.BitVecVal(reader.constant(kind, width, value), width), TRUE


def _flags(value: Mapping[str, Any]) -> bool:
    """Return whether ``|`` joins names of flags: a constant, nothing that is read."""
    members = value.get("|")
    return isinstance(members, list) and all(isinstance(one, (str, int)) for one in members)


def _mangle(reader: Reader, body: Mapping[str, Any], here: Bool) -> tuple[Packet, Bool]:
    """Return the rewritten packet, and whether the rule goes on: what cannot be read ends it."""
    key, value = body.get("key"), body.get("value")
    packet = reader.packet
    if not isinstance(key, dict) or len(key) != 1:
        raise reader.fail(body)
    (what, where), *_ = key.items()
    if what == "meta" and where.get("key") in ("mark", "priority", "pkttype"):
        name = str(where["key"])
        width = 8 if name == "pkttype" else 32
        bits, sure = _operand(reader, value, name, width)
        new = z3.If(z3.And(here, sure), bits, packet.get(name, width))
        return packet.with_(**{name: new}), sure
    if what == "meta" and where.get("key") in ("nftrace", "rtclassid"):
        return packet, TRUE
    if what == "ct" and where.get("key") in ("mark", "label", "zone", "helper", "event", "secmark"):
        # What a connection carries is left open wherever it is read; without one nothing is
        # written and the rule goes on (nft_ct_set_eval).
        wide = reader.value(value).bits.size() if _is_read(value) else 0
        return packet, _operand(reader, value, "integer", wide)[1] if wide else TRUE
    if what in ("tcp option", "exthdr"):
        return packet, reader.maybe("option is rewritten")
    if what == "payload" and "protocol" in where:
        known = FIELDS.get((str(where["protocol"]), str(where["field"])))
        if known is not None:
            base, _, width, kind = known
            bits, sure = _operand(reader, value, kind, width)
            legible = z3.And(sure, reader.value(key).readable)
            spliced = _spliced(packet, known, bits)
            new = z3.If(z3.And(here, legible), spliced, packet.get(base))
            return packet.with_(**{base: new}), legible
    raise reader.fail({"mangle": dict(body)})


def _is_read(value: Any) -> bool:
    """Return whether a statement writes what it reads elsewhere (no constant, no map)."""
    return isinstance(value, dict) and not set(value) & {"map", "range", "prefix"}


def _spliced(packet: Packet, known: tuple[str, int, int, str], bits: Bits) -> Bits:
    base, offset, width, _ = known
    whole = packet.get(base)
    size = whole.size()
    parts = [bits]
    if offset:
        parts.insert(0, z3.Extract(size - 1, size - offset, whole))
    if offset + width < size:
        parts.append(z3.Extract(size - offset - width - 1, 0, whole))
    return z3.Concat(*parts) if len(parts) > 1 else parts[0]


def _translate(reader: Reader, kind: str, body: Any, here: Bool) -> Packet:
    """Return the packet with an address, and maybe a port, it did not have: left open."""
    packet = reader.packet
    side, port = ("saddr", 0) if kind in ("snat", "masquerade") else ("daddr", 16)
    told = body.get("addr") if isinstance(body, dict) else None
    width, protocol, base = 32, "ip", "nh4"
    if isinstance(body, dict) and body.get("family") == "ip6":
        width, protocol, base = 128, "ip6", "nh6"
    name = f"{reader.rule.where} {side}"
    if isinstance(told, str) and not told.startswith("@"):
        address = z3.BitVecVal(reader.constant(f"ipv{'6' if width == 128 else '4'}_addr", width,
                                               told), width)  # fmt: skip
    else:
        address = packet.get(name, width)
    new = {base: z3.If(here, _spliced(packet, FIELDS[protocol, side], address), packet.get(base))}
    if told is None:  # masquerade and redirect: to this host's own, in either family
        six = packet.get(f"{name} 6", 128)
        new["nh6"] = z3.If(here, _spliced(packet, FIELDS["ip6", side], six), packet.get("nh6"))
    free = packet.get(f"{reader.rule.where} port", 16)
    ported = _spliced(packet, ("th", port, 16, ""), free)
    changes = z3.And(here, z3.Or(packet.protocol == 6, packet.protocol == 17))
    new["th"] = z3.If(changes, ported, packet.get("th"))
    return packet.with_(**new)
