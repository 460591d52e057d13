"""How often a property is tried: as written, or a fifth of it in `make check`."""

from __future__ import annotations

from hypothesis import settings


def examples(number: int) -> int:
    """Return ``number``, or in the profile ``fast`` a fifth of it, but not under twenty."""
    if settings.get_current_profile_name() == "fast":
        return min(number, max(20, number // 5))
    return number
