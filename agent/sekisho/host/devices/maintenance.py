"""Maintenance: one boot with a wall open, by an order that two people signed for a third.

The order lies in /var/lib/sekisho/maintenance.order; it counts once, for the boot it is found at,
within its window, by a clock that is not before what this host has seen
(`sekisho.host.spent_orders`). That boot is told on the console; a timer of systemd, armed before
anything is opened, ends it without the agent. Who may sign is in the site's own signed policy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sekisho.core.errors import SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.host.devices import exception_state
from sekisho.host.policy_store import PolicyStore
from sekisho.host.spent_orders import OrderRecord
from sekisho.orders.judge import problems_of, signers_of
from sekisho.orders.kinds import MAINTENANCE
from sekisho.orders.model import MAX_BYTES, Order, Phase, write_time
from sekisho.orders.parse import parse_order

UNIT = "sekisho-maintenance-end"
#: What an order may open, by the names it uses.
WALLS = frozenset({"modules"})
NOTICE = """\

*** MAINTENANCE 保守中: order {id}, until {end} UTC
*** {opens} open; asked by {requester}, approved by {approvers}
*** {reason}

"""


@dataclass(frozen=True, slots=True)
class Opened:
    """What is open in this boot, by which order, until when; nothing: an empty id."""

    id: str = ""
    opens: frozenset[str] = frozenset()
    end: str = ""


class Maintenance:
    """Reads, proves, uses up and ends the host's maintenance order."""

    def __init__(
        self,
        root: Path,
        run: Callable[[Sequence[str]], int],
        *,
        host: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._root, self._run, self._host, self._clock = root, run, host, clock
        self.order = root / "var/lib/sekisho/maintenance.order"
        self.record = OrderRecord(root)
        self._notices = (
            root / "run/issue.d/60-sekisho-maintenance.issue",
            root / "run/motd.d/60-sekisho-maintenance",
        )

    # -- proving -------------------------------------------------------------------------------

    def prove(self, raw: bytes, where: str) -> Order:
        """Return the maintenance order of ``raw`` when everything but its window holds here.

        Raises:
            SekishoError: the policy or the order is not proven, it opens what is no wall, or the
                clock cannot be right.

        """
        store = PolicyStore(
            self._root / "etc/sekisho/policy.json", self._root / "var/lib/sekisho", host=self._host
        )
        policy = store.load().value
        order = parse_order(raw, where)
        if order.kind != MAINTENANCE:
            raise SekishoError(f"{where} is an order of kind {order.kind}; expected {MAINTENANCE}")
        strange = sorted(set(order.content["opens"]) - WALLS)
        if strange:
            raise SekishoError(f"{where} opens {', '.join(strange)}; expected {sorted(WALLS)}")
        found = problems_of(
            order,
            signers_of(policy),
            site=policy.site,
            host=self._host,
            now=None,
            where=where,
        )
        if found:
            raise SekishoError("the order does not hold", tuple(found))
        self.record.check_clock(self._clock(), policy)
        return order

    def place(self, raw: bytes, where: str) -> Order:
        """Put an order where the next boot finds it; SekishoError when it would not open that."""
        order = self.prove(raw, where)
        if order.phase(self._clock()) is Phase.OVER:
            raise SekishoError(f"{where}: its window is over since {write_time(order.end)}")
        self.record.refuse_used(order)
        write_atomic(self.order, raw, mode=0o644)
        return order

    # -- a boot --------------------------------------------------------------------------------

    def begin(self) -> Opened:
        """Use the order up for this boot and arm its end, or open nothing.

        Raises:
            SekishoError: there is an order, and it does not hold now.

        """
        self.take_down()
        if not self.order.exists():
            return Opened()
        order = self.prove(read_bounded(self.order, MAX_BYTES + 1), str(self.order))
        now = self._clock()
        with exception_state.alone(self.record.store):
            return self._use(order, now)

    def _use(self, order: Order, now: datetime) -> Opened:
        self.record.refuse_used(order)
        if order.phase(now) is not Phase.WITHIN:
            raise SekishoError(f"maintenance order {order.id}: now is {order.phase(now).value} it")
        # Used before it opens: a power cut in between loses the order, not the wall.
        told = _told(order) | {"boot_id": self._boot_id()}
        # "closed": nothing of it is open that the exceptions' timer would have to close.
        use = told | {"schema": 1, "id": order.id, "kind": MAINTENANCE, "state": "closed"}
        exception_state.remember(use | {"at": write_time(now)}, self.record.store)
        exception_state.spool("maintenance.used", told, self.record.store)
        seconds = max(1, int((order.end - now).total_seconds()))
        armed = self._run(
            ["systemd-run", f"--unit={UNIT}", f"--on-active={seconds}", "--no-block",
             "--timer-property=AccuracySec=1s", "/usr/lib/sekisho/modules-wall", "end"]
        )  # fmt: skip
        if armed != 0:
            raise SekishoError(f"maintenance order {order.id}: its end could not be armed")
        self._show(order)
        return Opened(order.id, frozenset(order.content["opens"]), write_time(order.end))

    def current(self) -> Opened:
        """Return what this boot's order still opens; nothing when none, or when it is over."""
        if not self.order.exists():
            return Opened()
        try:
            order = self.prove(read_bounded(self.order, MAX_BYTES + 1), str(self.order))
            uses = self.record.earlier_uses() | exception_state.entries(self.record.store)
        except (SekishoError, OSError):
            return Opened()
        mine = uses.get(order.id, {}).get("boot_id") == self._boot_id()
        if not mine or order.phase(self._clock()) is not Phase.WITHIN:
            return Opened()
        return Opened(order.id, frozenset(order.content["opens"]), write_time(order.end))

    def take_down(self) -> None:
        """Take the notices off the console."""
        for path in self._notices:
            path.unlink(missing_ok=True)

    def _show(self, order: Order) -> None:
        text = NOTICE.format(
            id=order.id,
            end=write_time(order.end),
            opens=", ".join(order.content["opens"]),
            requester=order.requester,
            approvers=" and ".join(order.approvers),
            reason=printable(order.reason, 200).replace("\\", "/"),  # agetty reads \\ as its own
        )
        for path in self._notices:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode(), mode=0o644)

    def _boot_id(self) -> str:
        return (self._root / "proc/sys/kernel/random/boot_id").read_text().strip()


def _told(order: Order) -> dict[str, Any]:
    """Return what the journal says of an order: who, why, what, how long."""
    return {
        "order": order.id,
        "requester": order.requester,
        "approvers": list(order.approvers),
        "reason": order.reason,
        "opens": list(order.content["opens"]),
        "start": write_time(order.start),
        "end": write_time(order.end),
    }


def this_host() -> str:
    """Return the host's name in the site."""
    return os.uname().nodename.partition(".")[0]
