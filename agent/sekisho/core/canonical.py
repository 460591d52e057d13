"""Canonical JSON: one byte string per value, the form everything signed or hashed takes.

Keys sorted by code point, no white space, UTF-8, no NaN (RFC 8785 in spirit; floats are refused
so that no two writers can differ).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        msg = "floats have no canonical form here; use integers (milliseconds, bytes)"
        raise TypeError(msg)
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                msg = f"keys must be text, got {key!r}"
                raise TypeError(msg)
            _refuse_floats(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_floats(inner)


def canonical(value: Any) -> bytes:
    """Return the canonical UTF-8 JSON of ``value``; TypeError for floats and odd keys."""
    _refuse_floats(value)
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8", "surrogatepass")


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical form, in lower-case hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def speaks(value: Any, schema: int) -> bool:
    """Return whether ``value``, read from JSON, is this schema number; ``true`` is not 1."""
    return type(value) is int and value == schema
