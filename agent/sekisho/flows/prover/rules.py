"""Rules as `nft -j list ruleset` writes them, into tables, chains and rules in order. Pure.

Accepts what the kernel lists and what `sekisho.flows.nftables` compiles (commands ``add``); the
expressions of a rule stay JSON here, `sekisho.flows.prover.expressions` gives them meaning.
Source: libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sekisho.errors import Problem, SekishoError, printable

Json = Mapping[str, Any]
_IP_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
#: Family → the hooks its base chains may be at.
HOOKS = {
    "ip": _IP_HOOKS, "ip6": _IP_HOOKS, "inet": ("ingress", *_IP_HOOKS),
    "arp": ("input", "output"), "netdev": ("ingress", "egress"), "bridge": _IP_HOOKS,
}  # fmt: skip
FAMILIES = tuple(HOOKS)


class UnknownConstructError(SekishoError):
    """A construct the prover has no meaning for: nothing can be proven of such rules."""

    def __init__(self, where: str, got: object, expected: str) -> None:
        problem = Problem(where, "", printable(got, 200), expected, hint="the verdict is `error`")
        super().__init__("the prover does not know a construct of these rules", (problem,))


@contextmanager
def at_host(host: str) -> Iterator[None]:
    """Name the host in an error about its rules, where several hosts are asked about at once."""
    try:
        yield
    except SekishoError as bad:
        problems = tuple(
            one if one.where.startswith(host) else replace(one, where=f"{host} {one.where}")
            for one in bad.problems
        )
        raise SekishoError(bad.message, problems) from None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; ``number`` is its place in the chain from 1, ``handle`` the kernel's (0: none)."""

    family: str
    table: str
    chain: str
    number: int
    handle: int
    comment: str
    statements: tuple[Json, ...]

    @property
    def where(self) -> str:
        """Return the rule's place as a reader looks it up."""
        handle = f" handle {self.handle}" if self.handle else ""
        return f"{self.family} {self.table} {self.chain} rule {self.number}{handle}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; a base chain has a hook, a type, a priority and a policy."""

    family: str
    table: str
    name: str
    hook: str
    kind: str
    priority: int
    policy: str
    devices: tuple[str, ...]
    rules: tuple[Rule, ...]

    @property
    def where(self) -> str:
        """Return the chain's place."""
        return f"{self.family} {self.table} {self.name}"


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A set or map: its elements, and whether they come and go at run time."""

    name: str
    types: tuple[str, ...]
    value_type: str
    elements: tuple[Any, ...]
    grows: bool
    fades: bool


@dataclass(frozen=True, slots=True)
class Table:
    """One table with its chains and sets by name."""

    family: str
    name: str
    dormant: bool
    chains: Mapping[str, Chain]
    sets: Mapping[str, NamedSet]


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything one host's kernel filters by."""

    host: str
    tables: tuple[Table, ...]
    #: Any statement that rewrites addresses: connections then have two tuples.
    translates: bool
    #: Any statement that gives a connection a helper or expects another connection.
    expects: bool

    def base(self, hook: str, families: tuple[str, ...]) -> list[tuple[Table, Chain]]:
        """Return the base chains at a hook in the order the kernel asks them."""
        found = [
            (table, chain)
            for table in self.tables
            if table.family in families and not table.dormant
            for chain in table.chains.values()
            if chain.hook == hook
        ]
        return sorted(found, key=lambda pair: pair[1].priority)


@dataclass(slots=True)
class _Draft:
    family: str
    name: str
    dormant: bool
    chains: dict[str, Json] = field(default_factory=dict)
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    sets: dict[str, Json] = field(default_factory=dict)


def read_rules(document: Any, host: str = "") -> Rules:
    """Return the rules of a libnftables document.

    Args:
        document: the value of ``nft -j list ruleset``, or a compiled transaction.
        host: whose rules these are, for messages.

    Raises:
        UnknownConstructError: an object of a kind that is not known.
        SekishoError: this is no libnftables document.

    """
    if not isinstance(document, dict) or not isinstance(document.get("nftables"), list):
        raise SekishoError(
            "cannot read the rules",
            (Problem(host or "nftables", "", printable(document), "libnftables JSON"),),
        )
    drafts: dict[tuple[str, str], _Draft] = {}
    for entry in document["nftables"]:
        kind, body = _object(entry, host)
        if kind in ("metainfo", "delete", "flush", "ct helper", "ct timeout", "ct expectation",
                    "counter", "quota", "limit", "secmark"):  # fmt: skip
            continue
        family = str(body.get("family", "ip"))
        if family not in FAMILIES:
            raise UnknownConstructError(f"{host} {kind}", family, "a family of nftables")
        if kind == "table":
            _table(drafts, family, body)
            continue
        draft = drafts.get((family, str(body.get("table"))))
        if draft is None:
            raise UnknownConstructError(host, entry, f"a {kind} of a table listed before it")
        _member(draft, kind, body, host)
    text = str(document)
    return Rules(
        host=host,
        tables=tuple(_finish(draft) for draft in drafts.values()),
        translates=any(f"'{word}': " in text for word in ("snat", "dnat", "masquerade", "redirect"))
        or any(f"'{word}'" in text for word in ("masquerade", "redirect")),
        expects=any(f"'{word}'" in text for word in ("ct helper", "ct expectation")),
    )


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


def _table(drafts: dict[tuple[str, str], _Draft], family: str, body: Json) -> None:
    flags = body.get("flags") or []
    dormant = "dormant" in ([flags] if isinstance(flags, str) else flags)
    name = str(body["name"])
    drafts.setdefault((family, name), _Draft(family, name, dormant)).dormant = dormant


def _member(draft: _Draft, kind: str, body: Json, host: str) -> None:
    if kind == "chain":
        draft.chains[str(body["name"])] = body
        draft.rules.setdefault(str(body["name"]), [])
    elif kind in ("set", "map"):
        draft.sets[str(body["name"])] = body
    elif kind == "rule":
        chain = str(body["chain"])
        rules = draft.rules.setdefault(chain, [])
        rules.append(
            Rule(
                family=draft.family,
                table=draft.name,
                chain=chain,
                number=len(rules) + 1,
                handle=int(body.get("handle", 0)),
                comment=str(body.get("comment", "")),
                statements=tuple(body.get("expr", ())),
            )
        )
    elif kind == "element":
        listed = dict(draft.sets[str(body["name"])])
        listed["elem"] = [*listed.get("elem", []), *body.get("elem", [])]
        draft.sets[str(body["name"])] = listed
    else:
        raise UnknownConstructError(
            f"{host} {draft.family} {draft.name}", {kind: body.get("name")},
            "tables, chains, rules, sets, maps and counters",
        )  # fmt: skip


def _finish(draft: _Draft) -> Table:
    grown = {
        str(statement["set"].get("set", "")).lstrip("@")
        for rules in draft.rules.values()
        for rule in rules
        for statement in rule.statements
        if isinstance(statement.get("set"), dict)
    } | {
        str(statement["map"].get("map", "")).lstrip("@")
        for rules in draft.rules.values()
        for rule in rules
        for statement in rule.statements
        if isinstance(statement.get("map"), dict)
    }
    return Table(
        family=draft.family,
        name=draft.name,
        dormant=draft.dormant,
        chains={name: _chain(draft, name, body) for name, body in draft.chains.items()},
        sets={name: _set(name, body, grown) for name, body in draft.sets.items()},
    )


def _chain(draft: _Draft, name: str, body: Json) -> Chain:
    where = f"{draft.family} {draft.name} {name}"
    priority = body.get("prio", 0)
    if not isinstance(priority, int):
        raise UnknownConstructError(where, priority, "a priority as a number")
    policy = str(body.get("policy", "accept"))
    if policy not in ("accept", "drop"):
        raise UnknownConstructError(where, policy, "policy accept or drop")
    kind = str(body.get("type", ""))
    if "hook" in body and kind not in ("filter", "route", "nat"):
        raise UnknownConstructError(where, kind, "type filter, route or nat")
    if "hook" in body and body["hook"] not in HOOKS[draft.family]:
        raise UnknownConstructError(where, body["hook"], ", ".join(HOOKS[draft.family]))
    device = body.get("dev", ())
    return Chain(
        family=draft.family,
        table=draft.name,
        name=name,
        hook=str(body.get("hook", "")),
        kind=kind,
        priority=priority,
        policy=policy,
        devices=(device,) if isinstance(device, str) else tuple(device),
        rules=tuple(draft.rules.get(name, ())),
    )


def _set(name: str, body: Json, grown: set[str]) -> NamedSet:
    kind, value = body.get("type", ""), body.get("map", "")
    flags = body.get("flags", [])
    flags = [flags] if isinstance(flags, str) else flags
    return NamedSet(
        name=name,
        types=tuple(kind) if isinstance(kind, list) else (str(kind),),
        value_type=" . ".join(value) if isinstance(value, list) else str(value),
        elements=tuple(body.get("elem", ())),
        grows=name in grown or "dynamic" in flags,
        fades="timeout" in flags or "timeout" in body,
    )
