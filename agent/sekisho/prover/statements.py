"""A rule's statements: what it matches, what it rewrites, and the verdict it gives. Pure.

Statements run in order and the first that does not match ends the rule. Limits, quotas, counts of
connections and queues may match or not; sets that rules fill may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import z3

from sekisho.prover.chance import Chance
from sekisho.prover.expressions import Reader, Track, Value
from sekisho.prover.packet import FIELDS, TRANSPORT, TRUE, Bits, Bool, Packet, Write, all_of
from sekisho.prover.rewriting import anew, covers, rewritten, summed
from sekisho.prover.tables import TRANSLATIONS, Json, NamedSet, Rule, Table

_VERDICTS = ("accept", "drop", "return", "continue", "jump", "goto")
#: Statements without influence on what passes.
_IDLE = ("counter", "log", "comment", "last", "secmark", "ct helper", "ct timeout",
         "ct expectation", "nftrace")  # fmt: skip
_MAYBE = ("limit", "quota", "ct count", "connlimit", "meter")
#: Statements by which a rule changes what later rules see.
CHANGING = ("mangle", "reset", "notrack", "queue", *TRANSLATIONS)


@dataclass(slots=True)
class Effect:
    """What one rule does to a packet that reaches it.

    Attributes:
        match: whether every statement so far matched.
        packet: the packet behind the rule's rewriting (conditions included).
        track: what connection tracking says of it behind the rule.
        verdicts: (when, verdict, target chain).
        translated: when the rule gives the connection other addresses.

    """

    match: Bool
    packet: Packet
    track: Track
    verdicts: list[tuple[Bool, str, str]] = field(default_factory=list)
    translated: list[Bool] = field(default_factory=list)


def run(  # noqa: PLR0913, PLR0917 - what there is where a rule begins
    rule: Rule, table: Table, packet: Packet, track: Track, alive: Bool, chance: Chance
) -> Effect:
    """Return the effect of ``rule`` on a packet that reaches it when ``alive``.

    Raises `UnknownConstructError` for anything without a meaning here.
    """
    effect = Effect(match=TRUE, packet=packet, track=track)
    # One reader a rule: the number of a choice is then its place in the rule.
    reader = Reader(packet=packet, track=track, table=table, rule=rule, chance=chance)
    for statement in rule.statements:
        if not isinstance(statement, dict) or len(statement) != 1:
            raise reader.fail(statement, "a statement as an object (a chain in braces is none)")
        (kind, body), *_ = statement.items()
        reader.packet, reader.track = effect.packet, effect.track
        _one(reader, effect, kind, body, all_of(alive, effect.match))
    return effect


def _one(  # noqa: C901, PLR0912 - one branch a kind of statement
    reader: Reader, effect: Effect, kind: str, body: Any, here: Bool
) -> None:
    if kind in _VERDICTS:
        effect.verdicts.append((effect.match, kind, _target(reader, kind, body)))
    elif kind == "reject":
        effect.verdicts.append((effect.match, "drop", ""))
    elif kind == "match":
        effect.match = all_of(effect.match, matches(reader, body))
    elif kind == "queue":
        _queue(reader, effect, here)
    elif kind in _MAYBE:
        effect.match = all_of(effect.match, _perhaps(reader, kind, body))
    elif kind == "vmap":
        _verdict_map(reader, effect, body)
    elif kind in _IDLE:
        if isinstance(body, dict) and "map" in body:
            effect.match = all_of(effect.match, _in_map(reader, body["map"]))
    elif kind in ("set", "map"):
        key = body.get("elem")
        if isinstance(key, dict) and "elem" in key:
            key = key["elem"]["val"]
        full = reader.maybe(f"{body.get('set') or body.get('map')} not full")
        stated = [reader.maybe("statement of the element") for _ in body.get("stmt", ())]
        effect.match = all_of(effect.match, reader.readable(key), full, *stated)
    elif kind == "reset":  # a TCP option gives way to padding
        done = reader.maybe("option is reset")
        effect.packet = rewritten(reader.chance, effect.packet, all_of(here, done), ())
        effect.match = all_of(effect.match, done)
    elif kind == "notrack":
        effect.track = effect.track.left_alone(here)
    elif kind == "mangle":
        done = _mangle(reader, effect, body, here)
        effect.match = all_of(effect.match, done)
    elif kind in TRANSLATIONS:
        effect.packet = _translate(reader, kind, body, here)
        effect.translated.append(here)
        effect.verdicts.append((effect.match, "accept", ""))
    else:
        raise reader.fail({kind: body})


def _target(reader: Reader, kind: str, body: Any) -> str:
    if kind not in ("jump", "goto"):
        return ""
    if not isinstance(body, dict) or not isinstance(body.get("target"), str):
        raise reader.fail({kind: body}, "the name of a chain")
    return str(body["target"])


def _queue(reader: Reader, effect: Effect, here: Bool) -> None:
    """Let the program behind a queue drop the packet, or accept it as whatever it made of it."""
    accepts = reader.maybe("queue")
    done = all_of(here, accepts)
    packet = anew(reader.chance, effect.packet, done)
    mark = z3.If(done, reader.chance.anything("mark from the queue", 32), packet.get("mark"))
    effect.packet = packet.with_(mark=mark)
    effect.verdicts += [(all_of(effect.match, accepts), "accept", ""),
                        (all_of(effect.match, z3.Not(accepts)), "drop", "")]  # fmt: skip


def _perhaps(reader: Reader, kind: str, body: Any) -> Bool:
    if isinstance(body, dict) and "map" in body:
        return all_of(_in_map(reader, body["map"]), reader.maybe(kind))
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
        return all_of(reader.readable(left), z3.Not(inside))
    found = reader.value(left)
    width = found.bits.size()
    if op in ("in", "!"):
        mask = reader.constant(found.kind, width, right)
        hit = (found.bits & mask) != 0
        return all_of(found.readable, hit if op == "in" else z3.Not(hit))
    compare = {"<": z3.ULT, ">": z3.UGT, "<=": z3.ULE, ">=": z3.UGE}.get(op)
    if compare is None:
        raise reader.fail(op, "== != < > <= >= in !")
    other = reader.constant(found.kind, width, right)
    return all_of(found.readable, compare(found.bits, z3.BitVecVal(other, width)))


def _inside(reader: Reader, left: Any, right: Any) -> Bool:
    """Return whether the left side is (one of) the right side."""
    if isinstance(right, str) and right.startswith("@"):
        return _in_set(reader, left, _named(reader, right))
    if isinstance(right, dict) and set(right) == {"set"}:
        listed = right["set"]
        if isinstance(listed, str):
            return _in_set(reader, left, _named(reader, listed))
        if not listed:
            raise reader.fail(right, "a set in braces that holds something")
        return _elements(reader, left, listed)
    return reader.is_one_of(left, right)


def _named(reader: Reader, name: str) -> NamedSet:
    found = reader.table.sets.get(name.lstrip("@"))
    if found is None:
        raise reader.fail(name, "a set or map of this table")
    return found


def _element(reader: Reader, left: Any, element: Any, *, fades: bool = False) -> Bool:
    """Return whether the left side is one element; one with a time-out may be gone."""
    element, timed = _bared(element)
    equal = reader.is_one_of(left, element)
    return all_of(equal, reader.maybe("time-out")) if timed or fades else equal


def _bared(element: Any) -> tuple[Any, bool]:
    """Return an element without what it carries, and whether it need not match each time."""
    if not isinstance(element, dict) or not isinstance(element.get("elem"), dict):
        return element, False
    held = element["elem"]
    return held["val"], bool({"timeout", "expires", "limit", "quota", "ct count"} & set(held))


def _elements(reader: Reader, left: Any, listed: Sequence[Any], *, fades: bool = False) -> Bool:
    """Return whether the left side is one of some elements; like ones are asked at once."""
    bared = [_bared(one) for one in listed]
    steady = [one for one, timed in bared if not timed and not fades and _constant(one)]
    others = [one for one, (bare, timed) in zip(listed, bared, strict=True)
              if timed or fades or not _constant(bare)]  # fmt: skip
    single = [_element(reader, left, one, fades=fades) for one in others]
    return z3.Or(reader.is_any_of(left, steady), *single)


def _constant(element: Any) -> bool:
    """Return whether an element is made of constants: nothing that is read, no catch-all."""
    if isinstance(element, dict) and set(element) == {"concat"}:
        return all(_constant(one) for one in element["concat"])
    if isinstance(element, dict):
        return set(element) <= {"range", "prefix", "|"}
    return bool(element != "*") and not isinstance(element, list)


def _in_set(reader: Reader, left: Any, held: NamedSet) -> Bool:
    if held.grows:
        return all_of(reader.readable(left), reader.maybe(f"in @{held.name}"))
    listed = _elements(reader, left, held.elements, fades=held.fades)
    return all_of(reader.readable(left), listed)


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
    match, hits, goes_on = effect.match, [], []
    for hit, verdict in _chosen(reader, key, pairs, held):
        hits.append(hit)
        kind, target = _verdict(reader, verdict)
        effect.verdicts.append((all_of(match, hit), kind, target))
        if kind == "continue":
            goes_on.append(hit)
    # Without an element the rule ends; with "continue" its next statement follows.
    effect.match = all_of(match, z3.Or(*goes_on))


def _chosen(
    reader: Reader, key: Any, pairs: list[tuple[Any, Any]], held: NamedSet
) -> list[tuple[Bool, Any]]:
    """Return when a map's key falls on each of its values; ``*`` is where no other element hits."""
    values: dict[str, tuple[Any, list[Any]]] = {}
    for element, value in pairs:
        if not _is_catch_all(element):
            values.setdefault(repr(value), (value, []))[1].append(element)
    found = [(_elements(reader, key, elements, fades=held.fades), value)
             for value, elements in values.values()]  # fmt: skip
    others = all_of(reader.readable(key), z3.Not(z3.Or(*[hit for hit, _ in found])))
    for element, value in pairs:
        if _is_catch_all(element):
            found.append((all_of(others, _element(reader, key, element, fades=held.fades)), value))
    return found


def _is_catch_all(element: Any) -> bool:
    if isinstance(element, dict) and isinstance(element.get("elem"), dict):
        element = element["elem"].get("val")
    return bool(element == "*")


def _verdict(reader: Reader, verdict: Any) -> tuple[str, str]:
    if not isinstance(verdict, dict) or len(verdict) != 1 or not set(verdict) <= set(_VERDICTS):
        raise reader.fail(verdict, "a verdict")
    (kind, body), *_ = verdict.items()
    return kind, _target(reader, kind, body)


def _in_map(reader: Reader, body: Mapping[str, Any]) -> Bool:
    key, pairs, held = _pairs(reader, body)
    if held.grows:
        return all_of(reader.readable(key), reader.maybe(f"in @{held.name}"))
    return _elements(reader, key, [one for one, _ in pairs], fades=held.fades)


def _operand(reader: Reader, value: Any, kind: str, width: int) -> tuple[Bits, Bool]:
    """Return what a rewriting statement writes, and whether it can be known."""
    if isinstance(value, dict) and "map" in value:
        key, pairs, held = _pairs(reader, value["map"])
        bits, hits = reader.chance.anything("value of a map", width), []
        if held.grows:
            return bits, all_of(reader.readable(key), reader.maybe(f"in @{held.name}"))
        for hit, listed in _chosen(reader, key, pairs, held):
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


def _mangle(reader: Reader, effect: Effect, body: Mapping[str, Any], here: Bool) -> Bool:
    """Rewrite something; return whether the rule goes on: what cannot be read ends it."""
    key, value = body.get("key"), body.get("value")
    packet = effect.packet
    if not isinstance(key, dict) or len(key) != 1:
        raise reader.fail(body)
    (what, where), *_ = key.items()
    if not isinstance(where, dict):
        raise reader.fail(body)
    name = str(where.get("key"))
    if what == "meta" and name == "mark":
        bits, sure = _operand(reader, value, name, 32)
        new = z3.If(all_of(here, sure), bits, packet.get(name))
        effect.packet = packet.with_(mark=new)
        return sure
    if what == "meta" and name in ("priority", "pkttype", "nftrace", "rtclassid", "secmark"):
        return _read(reader, value)
    if what == "ct" and name in ("mark", "label", "zone", "helper", "event", "secmark"):
        # What a connection carries is left open wherever it is read; without one nothing is
        # written and the rule goes on (nft_ct_set_eval).
        sure = _read(reader, value)
        if name == "zone":
            effect.track = effect.track.given_zone(all_of(here, sure))
        return sure
    if what == "tcp option":
        done = reader.maybe("option is rewritten")
        effect.packet = rewritten(reader.chance, packet, all_of(here, done), ())
        return done
    if what == "payload":
        return _rewrite(reader, effect, key, where, value, here)
    raise reader.fail({"mangle": dict(body)})


def _rewrite(  # noqa: PLR0913, PLR0917 - the parts of the statement
    reader: Reader, effect: Effect, key: Json, where: Json, value: Any, here: Bool
) -> Bool:
    """Rewrite a field of a header; return whether the rule goes on."""
    packet, protocol, name = effect.packet, str(where.get("protocol")), str(where.get("field"))
    known = FIELDS.get((protocol, name))
    if known is None:
        raise reader.fail(key, "a field of a header that is known")
    base, offset, width, kind = known
    bits, sure = _operand(reader, value, kind, width)
    legible = all_of(sure, reader.value(key).readable)
    tried = all_of(here, legible)
    whole, beyond = TRUE, covers(base, name)
    if beyond:
        unsummed = reader.maybe("checksum out of reach")
        whole = summed(packet, unsummed, TRANSPORT.get(protocol))
    written = (base, Write(offset, width, all_of(tried, whole), bits))
    effect.packet = rewritten(reader.chance, packet, tried, (written,), beyond=beyond)
    return all_of(legible, whole)


def _read(reader: Reader, value: Any) -> Bool:
    """Return whether what a statement writes can be read: constants can, and what names them."""
    if isinstance(value, dict) and "map" in value:
        return _in_map(reader, value["map"])
    if isinstance(value, dict) and not set(value) & {"range", "prefix"} and not _flags(value):
        return reader.value(value).readable
    return TRUE


def _translate(reader: Reader, kind: str, body: Any, here: Bool) -> Packet:
    """Return the packet with an address, and maybe a port, it did not have.

    A destination told as one address is that; anything else is left open.
    """
    side, port = ("saddr", 0) if kind in ("snat", "masquerade") else ("daddr", 16)
    told = body.get("addr") if isinstance(body, dict) else None
    writes = [("th", Write(port, 16, here, reader.chance.anything("port", 16)))]
    for base, protocol, width in (("nh4", "ip", 32), ("nh6", "ip6", 128)):
        _, offset, _, _ = FIELDS[protocol, side]
        address = reader.chance.anything(side, width)
        if isinstance(told, str) and (":" in told) == (protocol == "ip6") and _plain(told):
            exact = reader.constant(f"ipv{4 if width == 32 else 6}_addr", width, told)
            address = z3.BitVecVal(exact, width)
        writes.append((base, Write(offset, width, here, address)))
    return rewritten(reader.chance, reader.packet, here, writes)


def _plain(text: str) -> bool:
    return not set(text) & set("@/-")
