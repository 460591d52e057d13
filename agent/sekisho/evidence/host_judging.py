"""Judging a bundle host by host, so that what is wrong with one host's facts names it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from sekisho.catalogue.model import Catalogue
from sekisho.evidence.bundle import BadBundleError
from sekisho.evidence.report import (
    AuditRun,
    HostJudge,
    HostRecord,
    OverBudgetError,
    judge_host,
)
from sekisho.facts.wire import WireError

#: Gives, by a compiled catalogue and the solver's name, what judges one host.
Judging = Callable[[bytes, str | None], AbstractContextManager[HostJudge]]


@contextmanager
def judged_here(_catalogue: bytes, _solver: str | None) -> Iterator[HostJudge]:
    """Judge in this process, within the bounds of what is parsed."""
    yield judge_host


def host_by_host(
    catalogue: Catalogue, run: AuditRun, compiled: bytes, judging: Judging
) -> AuditRun:
    """Return the run with each host judged, by itself: what is wrong with one's facts names it."""

    def judged(judge: HostJudge, host: HostRecord) -> HostRecord:
        try:
            return replace(host, findings=judge(catalogue, host, run.solver))
        except WireError as bad:
            raise BadBundleError(f"facts/{host.name}.json: not as it was written: {bad}") from None
        except OverBudgetError as bad:
            raise OverBudgetError(
                f"facts/{host.name}.json cannot be judged: {bad.message}"
            ) from None

    with judging(compiled, run.solver) as judge:
        return replace(run, hosts=tuple(judged(judge, host) for host in run.hosts))
