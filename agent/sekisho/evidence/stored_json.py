"""JSON of a bundle's files: canonical bytes only, bounded in size and depth. Pure."""

from __future__ import annotations

from typing import Any

from sekisho.core.canonical import canonical
from sekisho.core.errors import printable
from sekisho.evidence.bundle import BadBundleError
from sekisho.facts.wire import strict_json

MAX_DEPTH = 64  # ours nest 20 deep
#: Of manifest, run, catalogue and each policy; facts and findings are bounded where they are read.
MAX_BYTES = 16 * 1024 * 1024


def canonical_value(data: bytes) -> Any:
    """Return the value of canonical JSON; ValueError for any other form of it, or any depth."""
    value = strict_json(data)
    _check_depth(value)
    try:
        if canonical(value) != data:
            raise ValueError("not in canonical form")
    except (TypeError, RecursionError) as bad:
        raise ValueError(str(bad)) from None
    return value


def _check_depth(value: Any) -> None:
    """Refuse what is nested so deep that a later walk over it could fail."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH}")


def value_of(name: str, data: bytes) -> Any:
    """Return the value of one file; `BadBundleError` names the file and what is wrong."""
    if len(data) > MAX_BYTES and not name.startswith(("facts/", "findings")):
        raise BadBundleError(f"{name}: more than {MAX_BYTES} bytes")
    try:
        return canonical_value(data)
    except ValueError as bad:
        raise BadBundleError(f"{name}: not as it was written: {printable(str(bad))}") from None
