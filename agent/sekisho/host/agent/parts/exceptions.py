"""The exceptions part: what stands open by an order, what stands open without one, what waits.

It opens and closes nothing (`sekisho.host.devices.exception` does, without the agent). It proves
the open order again by the policy in force, tells the devices part what is excepted, and brings the
events into the journal that were written while there was none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sekisho.core.errors import SekishoError, printable
from sekisho.devices.exception import DeviceException
from sekisho.host import boot_clock
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.reporter import Book
from sekisho.host.devices import exception_state as state
from sekisho.orders.judge import problems_of, signers_of
from sekisho.orders.model import write_time
from sekisho.orders.parse import parse_order
from sekisho.policy.host_policy import HostPolicy

#: A closing needs this long; later than this it is overdue.
GRACE_S = 60
UNPROVEN = "6-iii-c.exception-unproven"
OVERDUE = "6-iii-c.exception-overdue"
STATES = ("proven", "unproven", "overdue")


class ExceptionsPart(Part):
    """Looks at the open exception; ``excepted`` is what the devices part may take as listed."""

    NAME = "exceptions"
    CHECKS = (UNPROVEN, OVERDUE)
    EVERY_S = 10.0

    def __init__(
        self,
        book: Book,
        run: Path = state.RUN,
        kept: Path = state.STATE,
        boottime: Callable[[], float] = boot_clock.boottime,
    ) -> None:
        self._book, self._run, self._kept, self._boottime = book, run, kept, boottime
        self._policy: HostPolicy | None = None
        self._told: set[tuple[str, str]] = set()
        self._proven: dict[tuple[str, str], str] = {}
        self._excepted: DeviceException | None = None
        self._stamp: tuple[int, ...] = ()

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, *common.paths.exceptions)

    def excepted(self) -> DeviceException | None:
        """Return what the devices part may take as listed now; what just changed is looked at."""
        if self._stamp != self._written():
            self.look()
        return self._excepted

    def _written(self) -> tuple[int, ...]:
        try:
            info = (self._run / "open.json").stat()
        except OSError:
            return ()
        return (info.st_ino, info.st_mtime_ns)

    def policy(self, policy: HostPolicy) -> None:
        """Judge by a new policy from now on."""
        self._policy = policy
        self._proven.clear()

    def look(self) -> None:
        """Judge what stands open now, and bring in what waits for the journal."""
        counts = dict.fromkeys(STATES, 0)
        self._excepted = None
        self._stamp = self._written()
        entries = state.entries(self._kept)
        standing = {name for name, entry in entries.items() if entry["state"] != "closed"}
        try:
            opened = state.read_open(self._run)
        except SekishoError as bad:
            opened = None
            counts["unproven"] += 1
            self._tell(UNPROVEN, "?", bad.diagnostics())
        if opened is not None:
            standing.add(opened.id)
        for name in sorted(standing):
            wrong = self._wrong(name, entries.get(name))
            late = self._late(entries.get(name))
            if wrong:
                counts["unproven"] += 1
                self._tell(UNPROVEN, name, wrong)
            if late:
                counts["overdue"] += 1
                self._tell(OVERDUE, name, "it stands open past its end")
            if not wrong and not late:
                counts["proven"] += 1
                if opened is not None and opened.id == name and self._same(opened, entries[name]):
                    self._excepted = opened.exception
        for label, count in counts.items():
            self._book.metrics.set("sekisho_exception_open", count, label)
        self._bring_in()
        self._book.up("exceptions", works=True)

    def _late(self, entry: Mapping[str, Any] | None) -> bool:
        if entry is None or type(entry.get("end_at")) is not int:
            return False
        deadline = entry.get("deadline")
        by_clock = self._book.wall() >= entry["end_at"] + GRACE_S
        return by_clock or (type(deadline) is int and self._boottime() >= deadline + GRACE_S)

    def _same(self, opened: state.Open, entry: Mapping[str, Any]) -> bool:
        """Tell whether what is let in is what the order says, for no longer."""
        content = {"device": entry.get("device"), "direction": entry.get("direction")}
        same = opened.exception.as_json() == content and opened.end == entry.get("end_at")
        if not same:
            self._tell(UNPROVEN, opened.id, "what is let in is not what the order says")
        return same and not opened.over(self._book.wall(), self._boottime())

    def _wrong(self, name: str, entry: Mapping[str, Any] | None) -> str:
        """Return why the order of an open exception does not hold, "" when it does."""
        policy = self._policy
        if entry is None or type(entry.get("file")) is not str:
            return "there is no order for it"
        if policy is None:
            return "there is no policy to prove its order by"
        key = (name, entry["file"])
        if key not in self._proven:
            self._proven[key] = self._prove(name, entry, policy)
        return self._proven[key]

    @staticmethod
    def _prove(name: str, entry: Mapping[str, Any], policy: HostPolicy) -> str:
        try:
            order = parse_order(entry["file"].encode(), f"order {name}")
            signers = signers_of(policy)
        except SekishoError as bad:
            return bad.diagnostics()
        wrong = [
            problem.line()
            for problem in problems_of(
                order, signers, site=policy.site, host=policy.host, now=None, where=name
            )
        ]
        content = {"device": entry.get("device"), "direction": entry.get("direction")}
        if order.id != name or dict(order.content) != content:
            wrong.append("what is remembered of it is not what it says")
        if int(order.end.timestamp()) != entry.get("end_at"):
            wrong.append("its end is not the one it says")
        return "; ".join(wrong)

    def _tell(self, check: str, name: str, why: str) -> None:
        if (check, name) in self._told:
            return
        self._told.add((check, name))
        what = f"exception {name}: {printable(why, 400)}"
        self._book.detect(check, "alert", what, {"order": name})

    def _bring_in(self) -> None:
        """Write what waits into the journal, and remove it once it is there."""
        for path, kind, data in state.spooled(self._kept):
            now = datetime.fromtimestamp(self._book.wall(), UTC)
            late = {**data, "brought_in": write_time(now)}
            if self._book.write(kind, late) is None:
                return
            path.unlink()
