"""Names for what nobody can foresee: one variable each time it is asked. Pure.

A limit may match at one evaluation and not at the next; so may whatever time, programs, other
packets and other tables change. Each reading has a variable of its own, named after where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import z3

from sekisho.prover.packet import Bits, Bool


@dataclass(slots=True)
class Chance:
    """Gives the variables of one place.

    Attributes:
        prefix: the packet's.
        where: the rule or hook.
        visit: which evaluation of it for this packet this is: a chain can be jumped to twice.
        asked: how many it has given.

    """

    prefix: str
    where: str
    visit: int = 1
    asked: int = 0

    def name(self, what: str) -> str:
        """Return the name of one variable; no two are alike."""
        self.asked += 1
        again = f" visit {self.visit}" if self.visit > 1 else ""
        return f"{self.prefix}?{what} in {self.where} #{self.asked}{again}"

    def maybe(self, what: str) -> Bool:
        """Return a choice: it may hold or not."""
        return z3.Bool(self.name(what))

    def anything(self, what: str, width: int) -> Bits:
        """Return bits that may be any."""
        return z3.BitVec(self.name(what), width)
