"""What a machine is made of on PCI: the site's list, and what is there. Pure.

A function is the machine's own when its place and its maker's numbers are both in the list, as
``0000:00:1f.2 8086:a102``. Without a list nothing on PCI can be told from what came.
Source: Documentation/ABI/testing/sysfs-bus-pci (``vendor``, ``device``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable

PLACE = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)
FUNCTION = re.compile(rf"({PLACE.pattern}) [0-9a-f]{{4}}:[0-9a-f]{{4}}", re.ASCII)
MAX_FUNCTIONS = 1024  # a server of two sockets has some three hundred
_NUMBER = re.compile(r"0x([0-9a-f]{4})", re.ASCII)


def function(place: str, vendor: str | None, device: str | None) -> str:
    """Return a function as the site writes it; ``????`` for what sysfs does not say."""
    found = (_NUMBER.fullmatch((text or "").strip()) for text in (vendor, device))
    return f"{place} {':'.join(one[1] if one else '????' for one in found)}"


def twice(functions: Iterable[str]) -> str | None:
    """Return the first place told twice, or None."""
    seen: set[str] = set()
    for one in functions:
        place = one.partition(" ")[0]
        if place in seen:
            return place
        seen.add(place)
    return None


def parse_functions(value: Any) -> frozenset[str]:
    """Return the functions of a policy's ``pci``; an empty list says that none was told.

    Raises:
        SekishoError: not a list of at most `MAX_FUNCTIONS` well-formed entries, each place once.

    """
    if not isinstance(value, list) or len(value) > MAX_FUNCTIONS:
        raise _refuse(value, f"a list of at most {MAX_FUNCTIONS} PCI functions")
    for entry in value:
        if not isinstance(entry, str) or not FUNCTION.fullmatch(entry):
            raise _refuse(entry, "a place and numbers such as 0000:00:1f.2 8086:a102")
    if place := twice(value):
        raise _refuse(f"{place} again", "each place once")
    return frozenset(value)


def _refuse(got: object, expected: str) -> SekishoError:
    problem = Problem("pci", "", printable(got, 80), expected, "6-iii-c")
    return SekishoError("the list of the machine's PCI functions was not read", (problem,))
