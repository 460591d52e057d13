"""What a host holds every order against, of whatever kind: its clock, and the orders it has used.

The clock: an order of last year holds again for whoever sets the clock back. So the earliest time
it can be now is the later of the policy's issue (signed by the site) and the newest record of this
host's own journal; a clock before that opens nothing.

Used orders: ``/var/lib/sekisho/orders/ID.json`` (`sekisho.host.devices.exception_state.remember`:
made once, by link(2), lasting before anything is opened), for every kind. Its removal does not make
an order new: the journal is asked, too, and so is what earlier versions kept.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import read_bounded
from sekisho.journal.records import MAX_LINE, Record, parse_line, skim_line
from sekisho.local.journal_files import segment_paths
from sekisho.orders.model import Order, write_time
from sekisho.policy.host_policy import HostPolicy

#: The clock may be this far behind what was written down: records are stamped by several clocks.
SLACK_S = 5
#: An order's use is looked for in the journal this long before it was made: clocks are set.
BEFORE_S = 86_400
#: Records that say that an order was used (`data.order` names it).
USES = frozenset({"exception.opening", "exception.opened", "exception.closed", "maintenance.used"})
MAX_EARLIER = 1024 * 1024
_T = re.compile(rb'"t":([0-9]{1,17})\}\n\Z')


class OrderRecord:
    """The clock's floor and the used orders of one host."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.store = root / "var/lib/sekisho/orders"
        self.journal = root / "var/lib/sekisho/journal"
        #: Used maintenance orders, as an earlier version kept them.
        self.earlier = root / "var/lib/sekisho/maintenance-used.json"

    # -- the clock ------------------------------------------------------------------------------

    def floor(self, policy: HostPolicy) -> datetime:
        """Return the earliest time it can be now.

        Raises:
            SekishoError: the policy's time of issue is none, or the journal cannot be read.

        """
        try:
            issued = datetime.fromisoformat(policy.issued).astimezone(UTC)
        except (ValueError, OverflowError):
            problem = Problem("policy", "issued", policy.issued, "a time", "6-iv-b")
            raise SekishoError("cannot determine the earliest time it can be", (problem,)) from None
        try:
            return max(issued, datetime.fromtimestamp(max(self._times(), default=0) / 1000, UTC))
        except (OSError, ValueError, OverflowError) as bad:
            got = printable(str(bad), 120)
            problem = Problem(
                str(self.journal), "", got, "a readable journal with times", "6-iv-b",
                "sekisho verify names the record",
            )  # fmt: skip
            raise SekishoError("cannot determine the earliest time it can be", (problem,)) from None

    def check_clock(self, now: datetime, policy: HostPolicy) -> None:
        """Refuse when the clock is before what this host must have seen already."""
        floor = self.floor(policy)
        if now.timestamp() < floor.timestamp() - SLACK_S:
            problem = Problem(
                "clock", "", write_time(now),
                f"not before {write_time(floor)}, when this host's policy was issued or its "
                "journal last written",
                "6-iv-b", "set the clock right: chronyc tracking",
            )  # fmt: skip
            raise SekishoError(
                "the clock cannot be right, so no window can be determined; nothing is opened",
                (problem,),
            )

    def _times(self) -> Iterator[int]:
        """Yield times (Unix ms) of records that may be the newest, each proven by its own hash.

        First and last of every segment, and every new maximum of the last: a clock that was set
        back writes old times behind new ones.
        """
        paths = self._segments()
        for path in paths[:-1]:
            yield from (record.t for record in self._ends(path))
        for path in paths[-1:]:
            newest = -1
            for line in _lines(path):
                found = _T.search(line)
                if found is not None and int(found[1]) > newest and skim_line(line) is not None:
                    newest = int(found[1])
                    yield newest

    def _segments(self) -> list[Path]:
        try:
            return segment_paths(self.journal)
        except FileNotFoundError:
            return []

    @staticmethod
    def _ends(path: Path) -> list[Record]:
        """Return the first and the last sound record of a segment."""
        with path.open("rb") as stream:
            lines = [stream.readline(MAX_LINE + 1)]
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 2 * MAX_LINE))
            tail = stream.read(2 * MAX_LINE).split(b"\n")
        found = [_parse(lines[0])]
        found += [next(filter(None, (_parse(one + b"\n") for one in reversed(tail))), None)]
        return [record for record in found if record is not None]

    # -- used orders ----------------------------------------------------------------------------

    def used(self, order: Order) -> str:
        """Return where it says that an order was used here, "" when it was not.

        Raises:
            SekishoError: that cannot be determined: then no order is new.

        """
        path = self.store / f"{order.id}.json"
        if os.path.lexists(path):
            return str(path)
        if order.id in self.earlier_uses():
            return str(self.earlier)
        try:
            return self._in_journal(order)
        except OSError as bad:
            problem = Problem(str(self.journal), "", str(bad), "a readable journal", "6-iii-c")
            raise SekishoError("cannot determine which orders were used", (problem,)) from None

    def refuse_used(self, order: Order) -> None:
        """Raise SekishoError when an order was used here."""
        place = self.used(order)
        if place:
            problem = Problem(
                place, "id", f"{order.id}, used before", "a new order: each opens once", "6-iii-c"
            )
            raise SekishoError("the order was used before and opens nothing again", (problem,))

    def earlier_uses(self) -> dict[str, Any]:
        """Return the uses an earlier version kept; SekishoError when they are malformed."""
        if not self.earlier.exists():
            return {}
        try:
            value = json.loads(read_bounded(self.earlier, MAX_EARLIER))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not all(isinstance(use, dict) for use in value.values()):
            raise SekishoError(
                f"{self.earlier} is garbled: cannot determine which orders were used"
            )
        return value

    def _in_journal(self, order: Order) -> str:
        """Return the segment in which a record says that the order was used, or ""."""
        since = (order.made.timestamp() - BEFORE_S) * 1000
        name = order.id.encode()
        for path in reversed(self._segments()):
            ends = self._ends(path)
            if len(ends) == 2 and max(record.t for record in ends) < since:
                continue
            for line in _lines(path):
                record = _parse(line) if name in line else None
                if record and record.kind in USES and record.data.get("order") == order.id:
                    return str(path)
        return ""


def _lines(path: Path) -> Iterator[bytes]:
    """Yield a segment's lines of a record's length at most; what is longer is no record."""
    with path.open("rb") as stream:
        while line := stream.readline(MAX_LINE + 1):
            yield line


def _parse(line: bytes) -> Record | None:
    try:
        return parse_line(line)
    except (ValueError, TypeError, RecursionError):
        return None
