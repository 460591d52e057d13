"""The compiled catalogue: one canonical JSON file for servers and evidence bundles. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.core.bounds import json_within
from sekisho.core.canonical import canonical, speaks
from sekisho.core.errors import Problem, SekishoError, printable

SCHEMA = 1
#: A catalogue of ten times today's size still fits; a flood does not.
MAX_CATALOGUE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sources:
    """Raw items and checks by id, each read only when it is asked for."""

    items: Mapping[str, Callable[[], Any]]
    checks: Mapping[str, Callable[[], Any]]

    def only(self, items: tuple[str, ...], checks: tuple[str, ...]) -> Sources:
        """Return the part for ``items`` and ``checks``; raise `SekishoError` for an unknown id."""
        problems = [
            Problem("--item", "", printable(name), f"one of {', '.join(self.items)}")
            for name in items
            if name not in self.items
        ]
        problems += [
            Problem("--check", "", printable(name), "the id of a check (sekisho catalogue list)")
            for name in checks
            if name not in self.checks
        ]
        if problems:
            raise SekishoError("the catalogue has no such part", tuple(problems))
        kept = [
            name
            for name in self.checks
            if (not items or name.partition(".")[0] in items) and (not checks or name in checks)
        ]
        wanted = set(items) | ({name.partition(".")[0] for name in kept} if checks else set())
        return Sources(
            items={name: load for name, load in self.items.items() if name in wanted},
            checks={name: self.checks[name] for name in kept},
        )


def compile_catalogue(sources: Sources) -> bytes:
    """Return the canonical JSON of the whole catalogue, ready to install."""
    return canonical(
        {
            "schema": SCHEMA,
            "items": {name: load() for name, load in sources.items.items()},
            "checks": {name: load() for name, load in sources.checks.items()},
        }
    )


def from_json(data: bytes, where: str) -> Sources:
    """Return the sources of a compiled catalogue.

    Raises:
        SekishoError: too large, no JSON, another schema, or not the two mappings.

    """
    if len(data) > MAX_CATALOGUE_BYTES:
        raise _bad(where, "", f"more than {MAX_CATALOGUE_BYTES} bytes", "a compiled catalogue")
    try:
        json_within(data)
        raw = json.loads(data)
    except (ValueError, RecursionError) as bad:
        raise _bad(where, "", printable(str(bad)), "canonical JSON") from None
    if not isinstance(raw, dict) or not speaks(raw.get("schema"), SCHEMA):
        got = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise _bad(where, "schema", printable(got), str(SCHEMA))
    for key in ("items", "checks"):
        if not isinstance(raw.get(key), dict):
            raise _bad(where, key, printable(raw.get(key)), "a mapping by id")
    return Sources(
        items={name: _held(value) for name, value in raw["items"].items()},
        checks={name: _held(value) for name, value in raw["checks"].items()},
    )


def _held(value: Any) -> Callable[[], Any]:
    return lambda: value


def _bad(where: str, key: str, got: str, expected: str) -> SekishoError:
    return SekishoError(
        "the compiled catalogue is not in order",
        (Problem(where, key, got, expected, hint="compile it again: sekisho catalogue compile"),),
    )
