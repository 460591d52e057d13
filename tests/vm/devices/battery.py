"""The battery: both machines taken through everything, and one verdict a case."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.base import load_site
from tests.vm.devices import plan
from tests.vm.devices.judge import quantile
from tests.vm.devices.machine import Machine
from tests.vm.devices.plan import Case
from tests.vm.devices.trial import Observation, Trial, everything, say

WALLED, FREE = "core-1", "outside"


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict of one case.

    Attributes:
        case: the case.
        verdict: ``pass``, ``leak``, ``error`` (it proves nothing) or ``skipped``.
        why: the leaks, or what is missing, or the reason of the skip.
        control: what its positive control gave on the machine without the wall.
        open: what stays open to root alone.

    """

    case: Case
    verdict: str
    why: str
    control: str
    open: tuple[str, ...] = ()


def judge_case(  # noqa: PLR0911 - one way out a verdict
    case: Case, walled: Mapping[str, Observation], free: Mapping[str, Observation]
) -> Result:
    """Return the verdict of one case; whatever is missing makes it an error."""
    if case.skipped:
        return Result(case, "skipped", case.skipped, "")
    suffix = "" if case.device.what else "/pretended"
    if case.device.cold and case.moment in plan.RUNS:
        suffix = "/cold"
    control = free.get(case.control + suffix)
    known = control.seen.get(case.device.kind) if control else None
    gave = " ".join(sorted(known.got & set(case.device.gives))) if known else ""
    seen_at = walled.get(case.moment + suffix)
    seen = seen_at.seen.get(case.device.kind) if seen_at else None
    if seen is None or seen_at is None:
        why = seen_at.error if seen_at else "the moment was not tried"
        return Result(case, "error", why or "not observed", gave)
    opened = tuple(seen.open)
    if seen.leaks:
        return Result(case, "leak", "; ".join(seen.leaks), gave, opened)
    missing = set(case.device.gives) - (known.got if known else set())
    if missing:
        why = f"no positive control: without the wall it did not give {' '.join(sorted(missing))}"
        return Result(case, "error", why, gave, opened)
    if case.device.turns and seen.came < 2:
        return Result(case, "error", "it was not seen to come back as another", gave, opened)
    if seen.came == 0:
        return Result(case, "error", "the kernel did not see the device", gave, opened)
    if seen_at.lost or seen_at.error:
        why = seen_at.error or "the kernel's announcements were not all kept"
        return Result(case, "error", why, gave, opened)
    return Result(case, "pass", f"seen {seen.came}x", gave, opened)


@dataclass(frozen=True, slots=True)
class Report:
    """The battery's outcome.

    Attributes:
        results: one a case.
        walled: moment → what was observed behind the wall.
        free: the same without the wall.
        seconds: how long it took.

    """

    results: tuple[Result, ...]
    walled: Mapping[str, Observation]
    free: Mapping[str, Observation]
    seconds: float

    def of(self, verdict: str) -> list[Result]:
        """Return the results with ``verdict``."""
        return [result for result in self.results if result.verdict == verdict]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        found = self.walled.get("running", Observation("running")).delays
        figures = {
            name: {"count": len(values), "p50_s": quantile(values, 0.5), "p99_s": quantile(values, 0.99)}
            for name, values in (("plug_to_journal", found.plug), ("kernel_to_journal", found.kernel))
        }  # fmt: skip
        return {
            "cases": len(self.results),
            "verdicts": dict(Counter(result.verdict for result in self.results)),
            "strays": sorted({s for o in self.walled.values() for s in o.strays}),
            "seconds": round(self.seconds, 1),
            "moments": {
                side: {name: round(o.seconds, 1) for name, o in found.items()}
                for side, found in (("walled", self.walled), ("free", self.free))
            },
            **figures,
            "results": [
                {
                    "kind": r.case.device.kind, "moment": r.case.moment, "verdict": r.verdict,
                    "why": r.why, "control": f"{r.case.device.kind}@{r.case.control}",
                    "control_gave": r.control, "open_to_root": list(r.open),
                }
                for r in self.results
            ],
        }  # fmt: skip

    def table(self) -> str:
        """Return the result as a table: kinds down, moments across."""
        letters = {"pass": "·", "leak": "LEAK", "error": "?", "skipped": "-"}
        by = {(r.case.device.kind, r.case.moment): r for r in self.results}
        kinds = list(dict.fromkeys(kind for kind, _ in by))
        lines = [f"{'':24}" + "".join(f"{m[:12]:>14}" for m in plan.MOMENTS) + "  without the wall"]
        for kind in kinds:
            row = [by.get((kind, moment)) for moment in plan.MOMENTS]
            marks = "".join(f"{letters[r.verdict] if r else '':>14}" for r in row)
            gave = next((r.control for r in row if r and r.control), "")
            lines.append(f"{kind:24}{marks}  {gave}")
        for verdict in ("leak", "error"):
            lines += [f"{verdict.upper()} {r.case.name}: {r.why}" for r in self.of(verdict)]
        told = self.as_json()
        lines.append(
            f"{len(self.of('leak'))} leaks out of {len(self.results)} cases "
            f"({len(self.of('pass'))} pass, {len(self.of('error'))} prove nothing, "
            f"{len(self.of('skipped'))} skipped) in {self.seconds:.0f} s"
        )
        for name in ("plug_to_journal", "kernel_to_journal"):
            f = told[name]
            lines.append(f"{name}: p50 {f['p50_s']:.2f} s, p99 {f['p99_s']:.2f} s of {f['count']}")
        return "\n".join(lines)


def battery(
    *, walled: str = WALLED, free: str = FREE, moments: Sequence[str] = plan.MOMENTS,
    kinds: Sequence[str] = (),
) -> Report:  # fmt: skip
    """Run the battery on two machines of the running lab, side by side."""
    started = time.monotonic()
    site = load_site()
    only = bool(kinds) and not set(kinds) & set(plan.PRETENDED)
    devices = tuple(d for d in plan.devices() if not kinds or d.kind in kinds)
    trials = [
        Trial(Machine(walled, site), walled=True, devices=devices, kinds_only=only),
        Trial(Machine(free, site), walled=False, devices=devices, kinds_only=only),
    ]
    chosen = [list(moments), [m for m in moments if m in {"cold-boot", "running"}]]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(everything, trials, chosen))
    behind, without = (trial.observed for trial in trials)
    results = tuple(judge_case(case, behind, without) for case in plan.cases()
                    if not kinds or case.device.kind in kinds)  # fmt: skip
    return Report(results, behind, without, time.monotonic() - started)


def write(report: Report, path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    say(f"written: {path}")
    sys.stdout.write(report.table() + "\n")
