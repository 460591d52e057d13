"""Facts of other machines, read and judged in processes with limits of time and memory.

What a host sends is parsed nowhere else: this process hands on the bytes and gets findings back.
One process forks a child for each host (`sekisho.control.judging.child`); at most `PLACES` run at
once, so that hosts together take at most `PLACES` times `CHILD_BYTES`, however many are asked.
Waiting for a place is not the host's time; from then on its own deadline runs.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sekisho.catalogue.model import Catalogue, Finding, Verdict
from sekisho.control.judging.child import CHILD_BYTES, receive, send
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError, printable
from sekisho.core.strict_json import strict_json
from sekisho.evidence.report import (
    HostJudge,
    HostRecord,
    NoSolverError,
    OverBudgetError,
    judge_host,
)
from sekisho.facts.answer import Answer, answer_from_json
from sekisho.facts.wire import (
    MAX_RAW_BYTES,
    MAX_RESPONSE_BYTES,
    Packed,
    Request,
    Response,
    WireError,
    decode_response,
)
from sekisho.policy.host_policy import HostPolicy

PLACES = min(4, max(2, os.cpu_count() or 1))
#: One host's facts of a bundle may take this long: as an audit's own deadline for a host.
BUNDLE_SECONDS = 300.0
_MAX_TOLD = 4 * 1024 * 1024
#: A child is ended by the kernel at its limit; a starved machine tells so later.
_GRACE = 5.0

#: Reads one host's answer: its bytes, the request, the host's name, seconds that are left.


@dataclass(frozen=True, slots=True)
class JudgedResponse(Response):
    """An answer whose facts were evaluated as they came, and what they were found to be."""

    findings: tuple[Finding, ...] = ()


Reader = Callable[[bytes, Request, str, float], Response]


def read_here(body: bytes, request: Request, _host: str, _seconds: float) -> Response:
    """Return an answer parsed in this process, within the protocol's bounds, and not judged."""
    return decode_response(body, request)


@contextmanager
def bundle_judge(catalogue: bytes, solver: str | None) -> Iterator[HostJudge]:
    """Give what judges the hosts of one bundle, by its catalogue, in processes with limits."""
    with Judging(catalogue, solver) as judging:
        yield judging.judge


class Judging:
    """The judging process of one audit or one bundle; a context manager, for several threads."""

    def __init__(self, catalogue: bytes, solver: str | None, *, size: int = CHILD_BYTES) -> None:
        self._catalogue = catalogue
        self._solver = solver
        self._size = size
        self._places = threading.BoundedSemaphore(PLACES)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sekisho.control.judging.child"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            )
        self._control = ours
        try:
            ours.settimeout(60)
            send(ours, canonical({"solver": self._solver}), self._catalogue)
            receive(ours, 64)
            ours.settimeout(None)
        except (OSError, EOFError) as bad:
            self._stop()
            raise SekishoError(f"the judging process did not start: {bad}") from None

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None

    def reader(self, policies: Mapping[str, HostPolicy]) -> Reader:
        """Return what reads and judges the answers of an audit's hosts, each by its policy."""

        def read(body: bytes, request: Request, host: str, seconds: float) -> Response:
            job = {"nonce": request.nonce, "probes": list(request.probes)}
            told, packed = self._ask(job, host, policies[host], body, seconds)
            return JudgedResponse(
                nonce=request.nonce,
                collector=str(told["collector"]),
                digest=str(told["digest"]),
                raw=Packed(packed),
                findings=_findings(told, host),
                answer=_how(told),
            )

        return read

    def judge(
        self, catalogue: Catalogue, host: HostRecord, _solver: str | None
    ) -> tuple[Finding, ...]:
        """Judge one host of a bundle; as `sekisho.evidence.report.judge_host`, with limits.

        Raises:
            WireError: its facts are none.
            OverBudgetError: they took more than the limits.
            NoSolverError: the bundle was judged with a solver, and there is none here.

        """
        if not isinstance(host.raw, Packed):
            return judge_host(catalogue, host, None)  # it gave none: nothing to parse
        job = {"nonce": "", "probes": None}
        told, _ = self._ask(job, host.name, host.policy, host.raw.data, BUNDLE_SECONDS)
        return _findings(told, host.name)

    def _ask(
        self,
        job: dict[str, Any],
        host: str,
        policy: HostPolicy | None,
        body: bytes,
        seconds: float,
    ) -> tuple[dict[str, Any], bytes]:
        with self._places:
            until = time.monotonic() + seconds
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    self._hand_over(theirs)
                ours.settimeout(seconds + _GRACE)
                try:
                    send(
                        ours,
                        canonical(job | {"host": host, "seconds": str(seconds),
                                         "bytes": self._size}),
                        b"" if policy is None else policy.as_bytes(),
                        body,
                    )  # fmt: skip
                    told = strict_json(receive(ours, _MAX_TOLD), size=_MAX_TOLD, surrogates=True)
                    packed = receive(ours, max(MAX_RESPONSE_BYTES, MAX_RAW_BYTES))
                except (OSError, EOFError, ValueError):
                    late = time.monotonic() >= until
                    raise OverBudgetError(
                        f"reading and judging its facts took more than {seconds:.3g} s"
                        if late
                        else f"reading and judging its facts took more than "
                        f"{self._size // 1024 // 1024} MiB of memory"
                    ) from None
        if not isinstance(told, dict):
            raise OverBudgetError("the judging process gave no answer")
        if "solver" in told:
            raise NoSolverError(str(told["solver"]))
        if "refused" in told:
            raise WireError(str(told["refused"]))
        if "over" in told:
            raise OverBudgetError(
                f"its facts could not be read and judged: {printable(told['over'], 240)}"
            )
        return told, packed

    def _hand_over(self, theirs: socket.socket) -> None:
        with self._lock:
            for attempt in (1, 2):
                try:
                    if self._control is None:
                        self._start()
                    if self._control is not None:
                        socket.send_fds(self._control, [b"j"], [theirs.fileno()])
                        return
                except OSError:
                    self._stop()  # killed from outside, for want of memory: begin anew, once
                    if attempt == 2:
                        break
        raise OverBudgetError("the judging process is gone")


def _how(told: Mapping[str, Any]) -> Answer | None:
    try:
        return None if told["answer"] is None else answer_from_json(told["answer"])
    except (KeyError, ValueError):
        raise OverBudgetError("the judging process gave no answer's signature") from None


def _findings(told: Mapping[str, Any], host: str) -> tuple[Finding, ...]:
    try:
        found = tuple(
            Finding(**{**entry, "verdict": Verdict(entry["verdict"])}) for entry in told["findings"]
        )
    except (KeyError, TypeError, ValueError):
        raise OverBudgetError("the judging process gave no findings") from None
    if any(finding.host != host for finding in found):
        raise OverBudgetError("the judging process told of another host")
    return found
