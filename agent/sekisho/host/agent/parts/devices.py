"""The devices part: every attempt to attach something is decided, recorded and counted.

The kernel and udev have acted already; this part tells, and notices when they let in what the
site does not list.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from sekisho.devices.attempts import CLASSES, DECISIONS, Attempt, tame
from sekisho.devices.disks import Disk, judge_disk
from sekisho.devices.exception import DeviceException, decide_excepted
from sekisho.devices.policy import Decision, Rule
from sekisho.devices.uevent import Uevent
from sekisho.host.agent.loop import HasFileno, Loop
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.parts.exceptions import ExceptionsPart
from sekisho.host.agent.reporter import Book, Paths
from sekisho.host.devices.admit import held_by, judge
from sekisho.host.kernel.disks import disk_of, disks_present
from sekisho.host.kernel.udev import (
    AnnouncementsLostError,
    DeviceMonitor,
    Outcome,
    attached,
    describe,
    device_value,
    driver_of,
    function_at,
    identity,
    outcome,
    place,
    present,
    read_attribute,
)
from sekisho.policy.host_policy import HostPolicy

AGAIN_S = 1.0  # until another monitor is tried
RETRY_S = 30.0  # until what was attached before is recorded again
SETTLE_S = 2.0  # udev's answer has come by then, on an emulated machine too
MAX_WAITING = 256
REFUSED = "6-iii-c.device-refused"
APPEARED = "6-iii-c.device-appeared"
LET_IN = "6-iii-c.device-let-in"
UNLISTED = "6-iii-c.disk-not-listed"


class Monitor(HasFileno, Protocol):
    """Announcements of added devices."""

    def added(self) -> Iterator[Uevent]:
        """Yield what is waiting; raise `AnnouncementsLostError` after a loss, when nothing is."""

    def close(self) -> None:
        """Stop listening."""


@dataclass(frozen=True, slots=True)
class _Judged:
    attempt: Attempt
    decision: str
    reason: str
    rule: str = ""
    dry: bool = False

    def as_json(self, when: str) -> dict[str, Any]:
        known = {"decision": self.decision, "reason": self.reason, "rule": self.rule, "when": when}
        if self.dry:
            known["mode"] = "dry-run: it is told of, not refused"
        return self.attempt.as_json() | {key: value for key, value in known.items() if value}


class DevicesPart(Part):
    """Decides, records and counts; looks again after udev has acted."""

    NAME = "devices"
    CHECKS = (REFUSED, APPEARED, LET_IN, UNLISTED)
    EVERY_S = 30.0

    def __init__(
        self,
        book: Book,
        paths: Paths,
        after: Callable[[float, Callable[[], None]], None],
        excepted: Callable[[], DeviceException | None] = lambda: None,
    ) -> None:
        self._book, self._sys, self._after = book, paths.sys, after
        self._excepted = excepted
        self._dry = False
        self._rules: tuple[Rule, ...] = ()
        self._waiting: deque[tuple[Path, _Judged]] = deque()
        self._let_in: set[tuple[str, str]] = set()
        self._disks: tuple[Disk, ...] = ()
        self._own: frozenset[str] = frozenset()
        self._unlisted: set[tuple[str, str]] = set()
        self._monitor: Monitor | None = None
        self._listen: Callable[[], None] = lambda: None
        #: Place → `identity` of what was attached before the agent, and of what is judged already.
        self._before: dict[str, int | None] | None = None
        self._told: dict[str, int | None] = {}

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(
            common.book,
            common.paths,
            common.after(cls),
            lambda: common.part(ExceptionsPart).excepted(),
        )

    def watch(self, loop: Loop) -> None:
        """Hear of every device, and tell of those attached when the policy is known."""
        self.hear(loop, DeviceMonitor)
        self._after(0.0, self.record)

    def policy(self, policy: HostPolicy) -> None:
        """Take the lists of a new policy."""
        self._dry = policy.devices_mode == "dry-run"
        self._book.metrics.set("sekisho_devices_dry_run", int(self._dry))
        self._rules, self._disks, self._own = policy.devices, policy.disks, frozenset(policy.pci)

    def record(self) -> None:
        """Record what is attached already: plugged in before the boot, or before the agent."""
        try:
            self._attached()
        except Exception:
            self._after(RETRY_S, self.record)
            raise

    def _attached(self) -> None:
        # First: what comes between the two walks is announced, and then judged.
        before = {path: identity(folder) for _, path, folder in attached(self._sys)}
        self._told = {}
        for attempt, folder in present(self._sys, self._own):
            self._told[place(folder, self._sys)] = identity(folder)
            self._record(self._judge(attempt, folder), folder, "start")
        self._before = {at: seen for at, seen in before.items() if at not in self._told}
        self.look()

    def hear(self, loop: Loop, opened: Callable[[], Monitor]) -> None:
        """Take announcements from now on, from a new monitor when one is of no use any more."""

        def listen() -> None:
            monitor = opened()
            loop.reader(self.NAME, monitor, lambda: heard(monitor))
            self._monitor = monitor

        def heard(monitor: Monitor) -> None:
            try:
                self.announced(monitor)
            except OSError:
                loop.forget(monitor)
                monitor.close()
                self._monitor = None
                self._after(AGAIN_S, self.look)
                raise

        self._listen = listen
        listen()

    def announced(self, monitor: Monitor) -> None:
        """Take the kernel's announcements; after a loss of some, look at everything.

        Raises:
            OSError: the monitor is of no use any more.

        """
        try:
            for event in monitor.added():
                self._announced(event)
        except AnnouncementsLostError as error:
            self._book.metrics.add("sekisho_agent_dropped_total", "devices", by=error.count)
            found = self._look()
            self._book.tell("devices.announcements-lost", {"lost": error.count, "found": found})

    def _announced(self, event: Uevent) -> None:
        folder = self._sys / event.path[1:]
        seen = identity(folder)
        if seen is not None and self._told.get(event.path) == seen:
            return
        attempt = describe(event.subsystem, folder, event.path)
        judged = self._judge(attempt, folder)
        if seen is None or identity(folder) != seen or _another(event, folder):
            # Whatever is at that place by now is announced itself.
            attempt = event.attempt()
            judged = _Judged(attempt, "unknown", "it was gone before it could be read")
        else:
            self._told[event.path] = seen
        self._record(judged, folder, "plugged")

    def _find(self) -> int:
        """Judge what is attached and was never announced to us; return how many.

        What is gone is forgotten.
        """
        if self._before is None:  # `start` will look
            return 0
        here: dict[str, int | None] = {}
        found = 0
        for subsystem, path, folder in attached(self._sys):
            seen = here[path] = identity(folder)
            if seen is None or seen in (self._told.get(path), self._before.get(path)):
                continue
            found += 1
            self._record(self._judge(describe(subsystem, folder, path), folder), folder, "found")
        self._before = {at: seen for at, seen in self._before.items() if here.get(at) == seen}
        self._told = {at: seen for at, seen in here.items() if at not in self._before}
        return found

    def _judge(self, attempt: Attempt, folder: Path) -> _Judged:
        try:
            return self._decide(attempt, folder)
        except Exception as error:  # noqa: BLE001 - one device must not hide the others
            self._book.failed("devices", error)
            return _Judged(attempt, "unknown", f"it could not be judged: {type(error).__name__}")

    def _decide(self, attempt: Attempt, folder: Path) -> _Judged:
        exception = self._excepted()
        if attempt.subsystem == "block":
            told = judge_disk(disk_of(folder), self._disks)
            if told.disk is not None:
                return _Judged(attempt, "admitted", told.reason, f"disks.{told.disk.name}")
            if exception is None or not self._below_excepted(attempt, exception):
                return _Judged(attempt, "appeared", told.reason)
        if attempt.subsystem != "usb":
            if exception is not None and self._below_excepted(attempt, exception):
                said = f"it is part of what is excepted as {exception.rule.name}"
                return _Judged(attempt, "admitted", said, exception.rule.name)
            if attempt.subsystem == "pci":
                return self._judge_function(attempt, folder)
            return _Judged(attempt, "appeared", "it did not come by way of the USB gate")
        device = device_value(folder)
        found: Decision = judge(device, self._rules, {}, exception)
        if found.admit:  # only then the others count, and only then they are read
            held = held_by(self._rules, folder.name, self._sys / "bus/usb/devices", exception)
            found = judge(device, self._rules, held, exception)
        decision = "admitted" if found.admit else "refused"
        return _Judged(attempt, decision, found.reason, found.rule, self._dry)

    def _judge_function(self, attempt: Attempt, folder: Path) -> _Judged:
        if function_at(folder) in self._own:
            return _Judged(attempt, "admitted", "the machine is made of it", "pci")
        driver = driver_of(folder)
        if driver == "pci-stub":
            said = "the kernel's stub holds it: not the machine's own"
            return _Judged(attempt, "refused", said)
        if not driver and self._own:  # should one take it yet, the next look tells
            return _Judged(attempt, "refused", "no driver has it, and the site does not list it")
        return _Judged(attempt, "appeared", "it did not come by way of the USB gate")

    def _below_excepted(self, attempt: Attempt, exception: DeviceException) -> bool:
        """Tell whether a disk hangs on the USB device that an open exception lets in."""
        for link in (self._sys / "bus/usb/devices").glob("[0-9]*-*"):
            if ":" not in link.name and f"/{link.name}/{link.name}:" in attempt.path:
                return decide_excepted(device_value(link), exception, taken=False).admit
        return False

    def _record(self, judged: _Judged, folder: Path, when: str) -> None:
        self._book.metrics.add(
            "sekisho_device_attempts_total", judged.decision, judged.attempt.label
        )
        data = judged.as_json(when)
        self._book.tell("device.attempt", data)
        if judged.decision != "admitted":
            gate = judged.attempt.subsystem == "usb" or judged.decision == "refused"
            check = REFUSED if gate else APPEARED
            what = f"{judged.attempt.label} {judged.attempt.name}: {judged.reason}"
            self._book.detect(check, "alert", what, data)
        if judged.attempt.subsystem != "usb":
            return
        if len(self._waiting) >= MAX_WAITING:
            self._book.metrics.add("sekisho_agent_dropped_total", "devices")
            return
        self._waiting.append((folder, judged))
        if len(self._waiting) == 1:
            self._after(SETTLE_S, self._settle)

    def _settle(self) -> None:
        """Record what became of the devices that came, and count what is attached."""
        while self._waiting:
            folder, judged = self._waiting.popleft()
            became = outcome(folder)
            data = judged.as_json("settled")
            if became is not None:
                data |= became.as_json()
            if judged.decision == "admitted":
                self._book.tell("device.outcome", data | {"gone": became is None})
        self.look()

    def look(self) -> None:
        """Count what is attached now, and tell of what works although it is not listed.

        What was not announced, because there was no monitor or no room, is judged first.
        """
        self._look()

    def _look(self) -> int:
        hears = self._hears()  # first: what comes after the walk is announced
        found = self._find()
        counts = {(decision, label): 0 for decision in DECISIONS for label in CLASSES}
        let_in: set[tuple[str, str]] = set()
        for attempt, folder in present(self._sys, self._own):
            judged = self._judge(attempt, folder)
            counts[judged.decision, attempt.label] += 1
            became = outcome(folder) if attempt.subsystem == "usb" else None
            if judged.decision == "refused" and became and works(became) and not self._dry:
                key = (attempt.path, attempt.serial)
                let_in.add(key)
                if key not in self._let_in:
                    what = f"{attempt.label} {attempt.name} works although it is not listed"
                    self._book.detect(
                        LET_IN, "alert", what, judged.as_json("seen") | became.as_json()
                    )
        self._let_in = let_in
        for (decision, label), count in counts.items():
            self._book.metrics.set("sekisho_devices_present", count, decision, label)
        self._book.metrics.set("sekisho_device_let_in", len(let_in))
        self._look_at_disks()
        self._book.up("devices", works=hears)
        return found

    def _hears(self) -> bool:
        """Open another monitor where there is none; tell whether one is open."""
        if self._monitor is None:
            try:
                self._listen()
            except OSError as error:
                self._book.failed("devices", error)
                return False
        return True

    def _look_at_disks(self) -> None:
        """Count the disks that are not the machine's own, and tell of each once."""
        unlisted: set[tuple[str, str]] = set()
        for seen in disks_present(self._sys):
            told = judge_disk(seen, self._disks)
            if told.disk is not None:
                continue
            key = (seen.place, seen.serial)
            unlisted.add(key)
            if key not in self._unlisted:
                what = f"disk {tame(seen.name)} is not the machine's own: {told.reason}"
                self._book.detect(UNLISTED, "alert", what, seen.as_json())
        self._unlisted = unlisted
        self._book.metrics.set("sekisho_disks_unlisted", len(unlisted))


def works(became: Outcome) -> bool:
    """Tell whether the kernel lets a device do anything: authorized, with a live interface."""
    return became.authorized and bool(became.live)


def _another(event: Uevent, folder: Path) -> bool:
    """Tell whether a later device than the one announced is at its place by now."""
    if event.number is None:
        return False
    name, number = event.number
    return read_attribute(folder, name) not in {str(number), None}
