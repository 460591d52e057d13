"""Which deliveries of a sender are missing, by their numbers."""

from __future__ import annotations

from dataclasses import dataclass

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.strict_json import strict_json

MAX_MISSING = 1000  # numbers kept, the highest
#: How far a number may be ahead of the highest one seen. A sender counts by one and a delivery in
#: between is lost now and then; one leap to the end would make every later number a repeated one.
MAX_STEP = 1000
#: Of the state on disk: `MAX_MISSING` numbers and their commas.
MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Sequence:
    """The numbers seen so far from one sender: the highest, and those below that never came."""

    highest: int = 0
    missing: tuple[int, ...] = ()

    def take(self, number: int) -> tuple[Sequence, bool]:
        """Return the state after ``number`` and whether that number had been seen before.

        Raises:
            SekishoError: the number is more than `MAX_STEP` ahead.

        """
        if number > self.highest + MAX_STEP:
            expected = f"at most {self.highest + MAX_STEP} ({MAX_STEP} after the last one seen)"
            problem = Problem("manifest", "sequence", str(number), expected)
            raise SekishoError("the number of the delivery leaps ahead", (problem,))
        if number > self.highest:
            gap = tuple(range(self.highest + 1, number))
            return Sequence(number, (*self.missing, *gap)[-MAX_MISSING:]), False
        if number in self.missing:
            return Sequence(self.highest, tuple(n for n in self.missing if n != number)), False
        return self, True

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return canonical({"highest": self.highest, "missing": list(self.missing)})


def parse_sequence(raw: bytes) -> Sequence:
    """Return the state kept in a file; SekishoError when it is none."""
    try:
        value = strict_json(raw, size=MAX_BYTES)
        highest, missing = value["highest"], tuple(value["missing"])
        if any(type(n) is not int or n < 0 for n in (highest, *missing)):
            raise ValueError("no whole numbers")  # noqa: TRY301 - one refusal for all of it
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        problem = Problem("sequence", "", printable(str(error)), "highest and missing")
        raise SekishoError("the count of deliveries cannot be read", (problem,)) from error
    return Sequence(highest, missing)
