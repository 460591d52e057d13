"""What every part of the agent tells: into the journal, into the metrics, bounded and counted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sekisho.core.errors import SekishoError, printable
from sekisho.host.metrics import Metrics
from sekisho.policy.host_policy import HostPolicy

RATE, BURST = 50.0, 500.0  # events of one kind a second; what may come at once
HEALTH_EVERY_S = 5.0  # so often is shown which parts work
STALE = 3  # periods without a good look, and a part does not work
ERROR_EVERY_S = 60.0  # the same part's failures are journalled this often, counted always


class Journal(Protocol):
    """What the agent needs of the journal's writer."""

    def append(self, kind: str, data: dict[str, Any], *, durable: bool = False) -> int:
        """Write one record and return its number."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Where everything is; another root in tests."""

    etc: Path = Path("/etc/sekisho")
    state: Path = Path("/var/lib/sekisho")
    run: Path = Path("/run/sekisho")
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    root: Path = Path("/")
    audit_log: Path = Path("/var/log/audit/audit.log")

    @property
    def exceptions(self) -> tuple[Path, Path]:
        """Return where the open exception stands, and where used orders are remembered."""
        return self.run.with_name("sekisho-exception"), self.state / "orders"


@dataclass(slots=True)
class _Allowance:
    tokens: float
    at: float
    dropped: int = 0


@dataclass(slots=True)
class Book:
    """The agent's voice. Nothing here raises: what cannot be written is counted and shown.

    Attributes:
        journal: the writer.
        metrics: the registry.
        policy: the site policy in force, or None.
        clock: seconds, monotonic.
        wall: seconds since 1970.

    """

    journal: Journal
    metrics: Metrics
    policy: HostPolicy | None = None
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _allowances: dict[str, _Allowance] = field(default_factory=dict)
    _errors: dict[str, float] = field(default_factory=dict)
    _works: dict[str, bool] = field(default_factory=dict)
    _good_until: dict[str, dict[int, float]] = field(default_factory=dict)

    def tell(self, kind: str, data: dict[str, Any], *, about: str = "") -> int | None:
        """Journal an event and return its number; None when it was dropped or lost (counted).

        ``about``: a name of ours (a check's) with an allowance of its own within the kind.
        """
        now = self.clock()
        held = self._allowances.setdefault(f"{kind} {about}", _Allowance(BURST, now))
        held.tokens = min(BURST, held.tokens + (now - held.at) * RATE)
        held.at = now
        if held.tokens < 1:
            held.dropped += 1
            self.metrics.add("sekisho_agent_dropped_total", "events")
            return None
        held.tokens -= 1
        if held.dropped:
            data = {**data, "dropped_before": held.dropped}
        number = self.write(kind, data)
        if number is not None:
            held.dropped = 0
        return number

    def write(self, kind: str, data: dict[str, Any]) -> int | None:
        """Journal an event whatever its rate: for sources that are bounded themselves."""
        try:
            return self.journal.append(kind, data)
        except SekishoError as error:
            self.metrics.add("sekisho_agent_errors_total", "journal")
            say(f"not journalled: {kind}: {error.diagnostics()}")
            return None

    def detect(
        self, check: str, severity: str, what: str, particulars: Mapping[str, Any] | None = None
    ) -> None:
        """Journal and count something that should not happen."""
        self.count_detection(check, severity)
        self.tell(
            "agent.detection",
            {**(particulars or {}), "id": check, "severity": severity, "what": what},
            about=check,  # who sets one check off without end hides no other
        )

    def count_detection(self, check: str, severity: str, at: float | None = None) -> None:
        """Count a detection that is in the journal already; ``at`` is its own time (Unix s).

        A log that is read after a pause tells of the past: it counts, but it is no news.
        """
        self.metrics.add("sekisho_detections_total", check, severity)
        last = "sekisho_detection_last_timestamp_seconds"
        when = int(self.wall() if at is None else min(at, self.wall()))
        if when > self.metrics.get(last, check, severity):
            self.metrics.set(last, when, check, severity)

    def failed(self, part: str, error: Exception) -> None:
        """Count a part's failure, show it, and journal it once a minute and part."""
        self.metrics.add("sekisho_agent_errors_total", part)
        text = (
            error.diagnostics()
            if isinstance(error, SekishoError)
            else (f"{type(error).__name__}: {error}")
        )
        now = self.clock()
        if now - self._errors.get(part, -ERROR_EVERY_S) < ERROR_EVERY_S:
            return
        self._errors[part] = now
        say(f"{part}: {text}")
        self.tell("agent.error", {"part": part, "error": printable(text, 600)})

    def up(self, part: str, *, works: bool) -> None:
        """Say whether a part of the agent does its work; it holds as long as its looks do."""
        self._works[part] = works
        self.parts()

    def looked(self, part: str, number: int, every_s: float) -> None:
        """Note that one of a part's looks went well; it is repeated ``every_s`` seconds."""
        until = self.clock() + STALE * max(every_s, HEALTH_EVERY_S)
        self._good_until[part] = {**self._good_until.get(part, {}), number: until}

    def parts(self) -> dict[str, bool]:
        """Return and show which parts work: what a part said is true until a look of it is missed.

        Called from the metrics server's threads too.
        """
        now, found = self.clock(), {}
        for part, works in sorted(self._works.copy().items()):
            late = any(now > until for until in self._good_until.get(part, {}).values())
            found[part] = works and not late
            self.metrics.set("sekisho_agent_part_up", int(found[part]), part)
        return found


def say(text: str) -> None:
    """Write one line for systemd's own log."""
    sys.stderr.write(f"sekisho-agent: {text}\n")
    sys.stderr.flush()
