"""One host's rules as tables, chains and rules in order, and errors that name their place. Pure.

`sekisho.prover.rules` reads them. The expressions of a rule stay JSON here,
`sekisho.prover.expressions` gives them meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable

Json = Mapping[str, Any]
_IP_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
#: Family → the hooks its base chains may be at.
HOOKS = {
    "ip": _IP_HOOKS, "ip6": _IP_HOOKS, "inet": ("ingress", *_IP_HOOKS),
    "arp": ("input", "output"), "netdev": ("ingress", "egress"), "bridge": _IP_HOOKS,
}  # fmt: skip
FAMILIES = tuple(HOOKS)
#: Statements that give a connection other addresses.
TRANSLATIONS = ("snat", "dnat", "masquerade", "redirect")


class UnknownConstructError(SekishoError):
    """A construct the prover has no meaning for: nothing can be proven of such rules."""

    def __init__(self, where: str, got: object, expected: str) -> None:
        problem = Problem(where, "", printable(got, 200), expected, hint="the verdict is `error`")
        super().__init__("the prover does not know a construct of these rules", (problem,))


#: What reading a document of another shape than nft's ends in.
_GARBLED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError,
            OverflowError)  # fmt: skip


@contextmanager
def garbled(host: str, *also: type[Exception]) -> Iterator[None]:
    """Make an error of this host of whatever reading its rules ends in.

    A listing comes from the host and may be of any shape; no other host's answer may be lost by it.
    ``also``: what a solver's own library raises of terms that do not fit.
    """
    try:
        yield
    except _GARBLED + also as bad:
        told = f"{type(bad).__name__}: {bad}"
        raise UnknownConstructError(host, told, "rules as nft lists them") from None


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
    #: Any chain or statement that translates addresses: connections then have two tuples.
    translates: bool
    #: Anything after which the kernel routes a packet of its own anew.
    reroutes: bool
    #: Any rule that marks what comes before IPsec may have decrypted it.
    marks: bool
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


def statements(table: Table) -> Iterator[str]:
    """Yield the kind of every statement in a table."""
    for chain in table.chains.values():
        for rule in chain.rules:
            for statement in rule.statements:
                yield from statement


def marks_early(table: Table) -> bool:
    """Return whether a chain by which packets come in, or one it jumps to, sets a mark."""
    left = [one for one in table.chains.values() if one.hook in ("ingress", "prerouting", "input")]
    seen: set[str] = set()
    while left:
        chain = left.pop()
        if chain.name in seen:
            continue
        seen.add(chain.name)
        for rule in chain.rules:
            for statement in rule.statements:
                if "queue" in statement or "'key': 'mark'" in str(statement.get("mangle", "")):
                    return True
                held: list[Any] = [statement]
                if "vmap" in statement:  # any map of the table: it may be the one named
                    held += [one.elements for one in table.sets.values()]
                names = {name for one in held for name in targets(one)}
                left += [table.chains[name] for name in names if name in table.chains]
    return False


def targets(value: Any) -> Iterator[str]:
    """Yield the chains that verdicts in a piece of JSON jump or go to."""
    if isinstance(value, dict):
        if isinstance(value.get("target"), str):
            yield value["target"]
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for one in value:
        yield from targets(one)
