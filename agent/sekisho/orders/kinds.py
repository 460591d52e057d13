"""The kinds of orders: who may ask, who may approve, for how long, and what stands in one. Pure.

A new kind is one entry of `KINDS`; nothing else of this room changes. ``content`` parses what only
that kind holds and returns every problem of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sekisho.core.errors import Problem, printable
from sekisho.core.names import PersonRole
from sekisho.devices.exception import exception_problems

_WALL = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)
MAX_WALLS = 16

MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of order.

    Attributes:
        longest: the window may be this long, no longer.
        ask: roles that may request.
        approve: roles that may approve.
        among: one of the two approvers has this role.
        content: (where, raw) → problems of what only this kind holds.

    """

    longest: timedelta
    ask: frozenset[PersonRole]
    approve: frozenset[PersonRole]
    among: PersonRole
    content: Callable[[str, Any], list[Problem]]


def _device(where: str, raw: Any) -> list[Problem]:
    return exception_problems(where, raw)[1]


def _maintenance(where: str, raw: Any) -> list[Problem]:
    """Return what is wrong with ``{"opens": ["modules"]}``: the walls that stand open, by name."""
    walls = raw.get("opens") if isinstance(raw, Mapping) and set(raw) == {"opens"} else None
    if (
        not isinstance(walls, list)
        or not 0 < len(walls) <= MAX_WALLS
        or not all(isinstance(name, str) and _WALL.fullmatch(name) for name in walls)
        or walls != sorted(set(walls))
    ):
        expected = f"opens: 1 to {MAX_WALLS} names of walls, sorted, each once"
        return [Problem(where, "", printable(raw, 80), expected, "6-iii-c")]
    return []


_WORKERS = frozenset({PersonRole.OPERATOR, PersonRole.ADMINISTRATOR})
_WATCHERS = frozenset({PersonRole.OFFICER, PersonRole.ADMINISTRATOR})

KINDS: Mapping[str, Kind] = {
    "device-exception": Kind(timedelta(hours=8), _WORKERS, _WATCHERS, PersonRole.OFFICER, _device),
    MAINTENANCE: Kind(timedelta(hours=24), _WORKERS, _WATCHERS, PersonRole.OFFICER, _maintenance),
}
