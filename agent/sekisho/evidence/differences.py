"""Where the findings of a bundle are not those that judging again gives. Pure."""

from __future__ import annotations

from typing import Any

from sekisho.core.errors import printable
from sekisho.evidence.bundle import BadBundleError
from sekisho.evidence.stored_json import canonical_value, value_of

MAX_LISTED = 50
_FINDING = ("host", "check", "verdict")


def differences(ours: bytes, theirs: bytes, written_by: str, tool: str) -> list[str]:
    """Return what differs between our ``findings.json`` and the bundle's, in words."""
    found = ["findings.json: judging the facts again gives other findings"]
    try:
        told, mine = value_of("findings.json", theirs), canonical_value(ours)
        old, new = _written(told), _written(mine)
    except BadBundleError as bad:
        return [printable(str(bad), 300)]
    for host, check in sorted(old.keys() | new.keys()):
        was, now = old.get((host, check)), new.get((host, check))
        if was != now:
            words = [printable(one["verdict"], 20) if one else "nothing" for one in (was, now)]
            found.append(
                f"{printable(host, 70)}: {printable(check, 100)}: "
                f"{words[0]} written, {words[1]} judged"
            )
    if len(found) == 1:
        parts = [key for key in sorted(told.keys() | mine.keys()) if told.get(key) != mine.get(key)]
        found.append(f"differing: {printable(', '.join(parts))}")
    if written_by != tool:
        found.append(
            f"written by {printable(written_by, 80)}, judged by {tool}: the judge may differ"
        )
    return [
        *found[:MAX_LISTED],
        *([f"and {len(found) - MAX_LISTED} more"] if len(found) > MAX_LISTED else []),
    ]


def _written(value: Any) -> dict[tuple[str, str], Any]:
    """Return the findings of a ``findings.json`` by host and check, their form proven."""
    listed = value.get("findings") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise BadBundleError("findings.json: findings is missing or no list")
    found: dict[tuple[str, str], Any] = {}
    for index, one in enumerate(listed):
        where = f"findings.json: finding {index + 1}"
        if not isinstance(one, dict):
            raise BadBundleError(f"{where} is {type(one).__name__}, not an object")
        for key in _FINDING:
            if not isinstance(one.get(key), str):
                got = type(one.get(key)).__name__
                raise BadBundleError(f"{where}: {key} is {got}, not text")
        name = (one["host"], one["check"])
        if name in found:
            raise BadBundleError(f"{where}: {name[0]} and {name[1]} stand twice")
        found[name] = one
    return found
