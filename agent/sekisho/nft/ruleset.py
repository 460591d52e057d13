"""A table being built: counters, sets, chains and rules in the order the kernel wants. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.nft.statements import Json, table_object

FAMILY, TABLE = "inet", "sekisho"


class Ruleset:
    """Objects of the table in the order the kernel must see them: counters, sets, chains, rules."""

    def __init__(self) -> None:
        self.counters: dict[str, None] = {}
        self.chains: list[str] = []
        self.sets: list[Json] = []
        self.rules: list[Json] = []

    def count(self, name: str) -> Json:
        """Return the statement that counts in the named counter ``name``."""
        self.counters[name] = None
        return {"counter": name}

    def rule(self, chain: str, check: str, *statements: Json) -> None:
        """Add a rule; ``check`` is the id of the check that looks at it."""
        body = {"chain": chain, "comment": check, "expr": list(statements)}
        self.rules.append(table_object("rule", body))

    def set(self, name: str, kind: str | list[str], elements: Iterable[Any]) -> str:
        """Add a named set and return how a rule refers to it."""
        body: Json = {"name": name, "type": kind}
        if listed := list(elements):
            body["elem"] = listed
        self.sets.append(table_object("set", body))
        return f"@{name}"

    def counter_map(self, name: str, kind: list[str], elements: Mapping[str, list[Any]]) -> Json:
        """Add a map from a hop's key to its flow's counter; return the statement's map name."""
        pairs = []
        for flow, hop in elements.items():
            self.counters[flow] = None
            pairs.append([{"concat": hop}, flow])
        self.sets.append(
            table_object("map", {"name": name, "type": kind, "map": "counter", "elem": pairs})
        )
        return {"data": f"@{name}"}

    def chain(self, name: str) -> None:
        """Add a chain without a hook; maps and rules may jump to it."""
        self.chains.append(name)

    def verdict_map(
        self, name: str, kind: list[str], jumps: Iterable[tuple[list[Any], str]]
    ) -> str:
        """Add a map from a hop's key to the chain it goes on in; return how a rule names it."""
        elements = [[{"concat": hop}, {"jump": {"target": chain}}] for hop, chain in jumps]
        body = {"name": name, "type": kind, "map": "verdict", "elem": elements}
        self.sets.append(table_object("map", body))
        return f"@{name}"

    def document(self) -> Json:
        """Return the whole transaction."""
        table = {"table": {"family": FAMILY, "name": TABLE}}
        chains = [
            table_object(
                "chain",
                {"name": hook, "type": "filter", "hook": hook, "prio": 0, "policy": "drop"},
            )
            for hook in ("input", "forward", "output")
        ]
        return {
            "nftables": [
                {"add": table},
                {"delete": table},
                {"add": table},
                *(table_object("counter", {"name": name}) for name in self.counters),
                # A map's element must find the chain it jumps to.
                *(table_object("chain", {"name": name}) for name in self.chains),
                *self.sets,
                *chains,
                table_object("chain", {"name": "bare"}),
                *self.rules,
            ]
        }
