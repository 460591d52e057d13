"""Comparing a bundle's catalogue with the tool's own. Pure.

Whoever makes a bundle can leave checks out of its catalogue, or soften them, and judging again by
that catalogue agrees with itself. So the reader's tool says in what the two differ, and runs no
regular expression that is not in its own: a pattern made on purpose never ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.catalogue.compiled import Sources
from sekisho.catalogue.model import Op
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.evidence.scope import Scope

MAX_NAMED = 40


@dataclass(frozen=True, slots=True)
class Difference:
    """Items and checks by id: not in the bundle, only in the bundle, in both but not the same."""

    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is any difference."""
        return bool(self.missing or self.added or self.changed)

    def lines(self) -> list[str]:
        """Return the difference in words, a line for each kind of it."""
        return [
            f"{word}: {', '.join(names[:MAX_NAMED])}"
            + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
            for word, names in (
                ("missing in the bundle", self.missing),
                ("only in the bundle", self.added),
                ("not the same", self.changed),
            )
            if names
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return {
            "missing": list(self.missing),
            "added": list(self.added),
            "changed": list(self.changed),
        }


def compare_catalogues(own: Sources, theirs: Sources, scope: Scope) -> Difference:
    """Return how a bundle's catalogue differs from the part of ours that its scope asks for."""
    missing, added = set[str](), set[str]()
    for mine, told in ((own.items, scope.items), (own.checks, scope.checks)):
        missing |= mine.keys() - set(told)  # what it says there was to choose from
        added |= set(told) - mine.keys()
    items = tuple(name for name in scope.only_items if name in own.items)
    checks = tuple(name for name in scope.only_checks if name in own.checks)
    try:
        part = own if len(items) + len(checks) == 0 else own.only(items, checks)
    except SekishoError:  # nothing unknown is asked of it
        part = own
    changed = set[str]()
    for mine, held in ((part.items, theirs.items), (part.checks, theirs.checks)):
        missing |= mine.keys() - held.keys()
        added |= held.keys() - mine.keys()
        changed |= {name for name in mine.keys() & held.keys() if not _same(mine[name], held[name])}
    return Difference(tuple(sorted(missing)), tuple(sorted(added)), tuple(sorted(changed)))


def _same(one: Callable[[], Any], other: Callable[[], Any]) -> bool:
    return canonical(one()) == canonical(other())


def patterns(sources: Sources) -> frozenset[str]:
    """Return every regular expression the checks of a catalogue compare with."""
    return frozenset(
        pattern for load in sources.checks.values() for pattern in _patterns_of(load())
    )


def _patterns_of(check: Any) -> list[str]:
    asserts = check.get("asserts") if isinstance(check, Mapping) else None
    return [
        one["value"]
        for one in (asserts if isinstance(asserts, list) else ())
        if isinstance(one, Mapping)
        and one.get("op") == Op.MATCHES
        and isinstance(one.get("value"), str)
    ]


def strange_patterns(own: Sources, theirs: Sources) -> tuple[str, ...]:
    """Return the checks of a bundle's catalogue with a regular expression that is not ours."""
    known = patterns(own)
    return tuple(
        sorted(name for name, load in theirs.checks.items() if set(_patterns_of(load())) - known)
    )
