"""Rules as `nft -j list ruleset` writes them, into tables, chains and rules in order. Pure.

Accepts what the kernel lists and what `sekisho.nft.filter` compiles (commands ``add``); the
expressions of a rule stay JSON here, `sekisho.prover.expressions` gives them meaning. A
listing comes from a host that may lie or be broken, by an nft that has faults of its own: what is
not as it should be is an error that says where. Source: libnftables-json(5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.prover.tables import (
    FAMILIES,
    HOOKS,
    TRANSLATIONS,
    Chain,
    Json,
    NamedSet,
    Rule,
    Rules,
    Table,
    UnknownConstructError,
    garbled,
    marks_early,
    statements,
)

#: The first nft known to list a table's one flag as it is (1.0.6 writes freed memory there), and
#: the protocol of a field that is rewritten.
_LISTS_FLAGS = (1, 1, 3)
_TABLE_FLAGS = {"dormant", "owner", "persist"}
#: Objects that decide nothing by themselves.
_IDLE = ("metainfo", "delete", "flush", "ct helper", "ct timeout", "ct expectation", "counter",
         "quota", "limit", "secmark")  # fmt: skip


@dataclass(slots=True)
class _Draft:
    family: str
    name: str
    dormant: bool
    chains: dict[str, Json] = field(default_factory=dict)
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    sets: dict[str, Json] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.family} {self.name}"


def read_rules(document: Any, host: str = "") -> Rules:
    """Return the rules of a libnftables document.

    Args:
        document: the value of ``nft -j list ruleset``, or a compiled transaction.
        host: whose rules these are, for messages.

    Raises:
        UnknownConstructError: an object of a kind that is not known, or of another shape.
        SekishoError: this is no libnftables document.

    """
    if not isinstance(document, dict) or not isinstance(document.get("nftables"), list):
        raise SekishoError(
            "cannot read the rules",
            (Problem(host or "nftables", "", printable(document), "libnftables JSON"),),
        )
    with garbled(host):
        return _read(document["nftables"], host)


def _read(entries: list[Any], host: str) -> Rules:
    drafts: dict[tuple[str, str], _Draft] = {}
    version: tuple[int, ...] | None = None
    expects = False
    for entry in entries:
        kind, body = _object(entry, host)
        if kind == "metainfo" and "version" in body:
            version = _version(body["version"], host)
        expects = expects or kind in ("ct helper", "ct expectation")
        if kind in _IDLE:
            continue
        family = body.get("family")
        if family not in FAMILIES:
            raise UnknownConstructError(f"{host} {kind}", family, "a family of nftables")
        if kind == "table":
            _table(drafts, family, body, version)
            continue
        draft = drafts.get((family, _name(body, "table", f"{host} {kind}")))
        if draft is None:
            raise UnknownConstructError(host, entry, f"a {kind} of a table listed before it")
        _member(draft, kind, body)
        if kind == "rule" and version is not None and version < _LISTS_FLAGS:
            _wholly_listed(f"{draft.where} {body.get('chain')}", body.get("expr", []))
    tables = tuple(_finish(draft) for draft in drafts.values())
    kinds = {kind for table in tables for kind in statements(table)}
    bases = {chain.kind for table in tables for chain in table.chains.values()}
    translates = "nat" in bases or bool(kinds & set(TRANSLATIONS))
    return Rules(
        host=host,
        tables=tables,
        translates=translates,
        reroutes=translates or "route" in bases or "queue" in kinds,
        marks=any(marks_early(table) for table in tables),
        expects=expects or bool(kinds & {"ct helper", "ct expectation"}),
    )


def _wholly_listed(where: str, statements: Any) -> None:
    """Raise where an old nft leaves out the protocol a rewriting is for: ``icmp type set 0``."""
    for one in statements if isinstance(statements, list) else ():
        key = one.get("mangle", {}).get("key", {}) if isinstance(one, dict) else {}
        if isinstance(key.get("payload"), dict) and key["payload"].get("protocol") == "th":
            raise UnknownConstructError(
                where, one, "no rewriting of any transport's ports: this nft leaves out of which",
            )  # fmt: skip


def _version(text: Any, host: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(".") if part.isascii())
    except (AttributeError, ValueError):
        raise UnknownConstructError(f"{host} metainfo", text, "nft's version") from None


def _object(entry: Any, host: str) -> tuple[str, Json]:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UnknownConstructError(host, entry, "one object of libnftables JSON")
    (kind, body), *_ = entry.items()
    if kind in ("add", "create") and isinstance(body, dict) and len(body) == 1:
        (kind, body), *_ = body.items()
    if kind in ("delete", "flush"):
        return kind, {}
    if not isinstance(body, dict):
        raise UnknownConstructError(host, entry, "one object of libnftables JSON")
    return str(kind), body


def _name(body: Json, key: str, where: str) -> str:
    name = body.get(key)
    if not isinstance(name, str) or not name:
        raise UnknownConstructError(where, name, f"the name of a {key}")
    return name


def _table(
    drafts: dict[tuple[str, str], _Draft], family: str, body: Json, version: tuple[int, ...] | None
) -> None:
    name = _name(body, "name", f"{family} table")
    dormant = is_dormant(f"{family} {name}", body.get("flags", []), version)
    drafts.setdefault((family, name), _Draft(family, name, dormant)).dormant = dormant


def is_dormant(where: str, flags: Any, version: tuple[int, ...] | None) -> bool:
    """Return whether a table filters nothing; an error where its flags cannot be relied on.

    Args:
        where: the table.
        flags: as listed: one as a text, several as a list.
        version: the nft that listed them; None: nobody did, they are compiled.

    """
    if isinstance(flags, str):
        if version is not None and version < _LISTS_FLAGS:
            raise UnknownConstructError(
                where, f"flags {flags!r}", "no flag of a table: this nft lists one wrongly",
            )  # fmt: skip
        flags = [flags]
    if not isinstance(flags, list) or not all(one in _TABLE_FLAGS for one in flags):
        raise UnknownConstructError(where, flags, f"flags of {', '.join(sorted(_TABLE_FLAGS))}")
    return "dormant" in flags


def _member(draft: _Draft, kind: str, body: Json) -> None:
    if kind == "chain":
        name = _name(body, "name", f"{draft.where} chain")
        if draft.chains.setdefault(name, body) != body:
            raise UnknownConstructError(f"{draft.where} {name}", body, "each chain once")
    elif kind in ("set", "map"):
        draft.sets[_name(body, "name", f"{draft.where} {kind}")] = body
    elif kind == "rule":
        chain = _name(body, "chain", f"{draft.where} rule")
        rules = draft.rules.setdefault(chain, [])
        rules.append(_rule(draft, chain, len(rules) + 1, body))
    elif kind == "element":
        name = _name(body, "name", f"{draft.where} {kind}")
        listed = dict(draft.sets[name])
        listed["elem"] = [*listed.get("elem", []), *body.get("elem", [])]
        draft.sets[name] = listed
    else:
        raise UnknownConstructError(
            draft.where, {kind: body.get("name")}, "tables, chains, rules, sets, maps and counters",
        )  # fmt: skip


def _rule(draft: _Draft, chain: str, number: int, body: Json) -> Rule:
    statements = body.get("expr", [])
    rule = Rule(
        family=draft.family,
        table=draft.name,
        chain=chain,
        number=number,
        handle=int(body.get("handle", 0)),
        comment=str(body.get("comment", "")),
        statements=tuple(statements) if isinstance(statements, list) else (statements,),
    )
    for statement in rule.statements:
        if not isinstance(statement, dict) or len(statement) != 1:
            expected = "a statement as an object (nft writes a chain in braces as text)"
            raise UnknownConstructError(rule.where, statement, expected)
    return rule


def _finish(draft: _Draft) -> Table:
    grown = {
        str(statement[kind].get(kind, "")).lstrip("@")
        for rules in draft.rules.values()
        for rule in rules
        for statement in rule.statements
        for kind in ("set", "map")
        if isinstance(statement.get(kind), dict)
    }
    if lost := set(draft.rules) - set(draft.chains):
        raise UnknownConstructError(draft.where, sorted(lost), "rules of chains that are listed")
    return Table(
        family=draft.family,
        name=draft.name,
        dormant=draft.dormant,
        chains={name: _chain(draft, name, body) for name, body in draft.chains.items()},
        sets={name: _set(name, body, grown) for name, body in draft.sets.items()},
    )


def _chain(draft: _Draft, name: str, body: Json) -> Chain:
    where = f"{draft.where} {name}"
    hook, kind = body.get("hook", ""), body.get("type", "")
    priority, policy = body.get("prio", 0), body.get("policy", "accept")
    if type(priority) is not int:
        raise UnknownConstructError(where, priority, "a priority as a number")
    if policy not in ("accept", "drop"):
        raise UnknownConstructError(where, policy, "policy accept or drop")
    base = {"hook", "type", "prio"} & set(body)
    if base and base != {"hook", "type", "prio"}:
        raise UnknownConstructError(where, sorted(base), "a hook, a type and a priority, or none")
    if base and kind not in ("filter", "route", "nat"):
        raise UnknownConstructError(where, kind, "type filter, route or nat")
    if base and hook not in HOOKS[draft.family]:
        raise UnknownConstructError(where, hook, ", ".join(HOOKS[draft.family]))
    device = body.get("dev", ())
    return Chain(
        family=draft.family,
        table=draft.name,
        name=name,
        hook=hook,
        kind=kind,
        priority=priority,
        policy=policy,
        devices=(device,) if isinstance(device, str) else tuple(device),
        rules=tuple(draft.rules.get(name, ())),
    )


def _set(name: str, body: Json, grown: set[str]) -> NamedSet:
    kind, value = body.get("type", ""), body.get("map", "")
    flags, elements = body.get("flags", []), body.get("elem", [])
    flags = [flags] if isinstance(flags, str) else flags
    if not isinstance(elements, list):
        raise UnknownConstructError(f"set {name}", elements, "a list of elements")
    return NamedSet(
        name=name,
        types=tuple(kind) if isinstance(kind, list) else (str(kind),),
        value_type=" . ".join(value) if isinstance(value, list) else str(value),
        elements=tuple(elements),
        grows=name in grown or "dynamic" in flags,
        # With statements of its own an element need not match each time.
        fades="timeout" in flags or bool({"timeout", "stmt"} & set(body)),
    )
