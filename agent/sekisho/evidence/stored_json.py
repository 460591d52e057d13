"""JSON of a bundle's files: canonical bytes only, bounded in size and depth. Pure."""

from __future__ import annotations

from typing import Any

from sekisho.core.errors import printable
from sekisho.core.strict_json import strict_json
from sekisho.evidence.bundle import BadBundleError

#: Of manifest, run, catalogue and each policy; facts and findings are bounded where they are read.
MAX_BYTES = 16 * 1024 * 1024
MAX_FILE = 64 * 1024 * 1024


def canonical_value(data: bytes) -> Any:
    """Return the value of canonical JSON; ValueError for any other form of it, or any depth."""
    return strict_json(data, size=MAX_FILE, surrogates=True, form=True)


def value_of(name: str, data: bytes) -> Any:
    """Return the value of one file; `BadBundleError` names the file and what is wrong."""
    if len(data) > MAX_BYTES and not name.startswith(("facts/", "findings")):
        raise BadBundleError(f"{name}: more than {MAX_BYTES} bytes")
    try:
        return canonical_value(data)
    except ValueError as bad:
        raise BadBundleError(f"{name}: not as it was written: {printable(str(bad))}") from None
