"""What an audit found, as one JSON value: the content of `findings.json` and of ``--json``. Pure.

The report is a function of the catalogue, the hosts' facts and policies, and the times: judging
an evidence bundle again gives the same value, byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sekisho.catalogue.facts import facts_from_raw
from sekisho.catalogue.judge import HostFacts, Prover, exit_code, judge_all
from sekisho.catalogue.model import Catalogue, Finding, Verdict
from sekisho.core.errors import SekishoError
from sekisho.evidence.scope import NO_SCOPE, LeftOut, Scope, left_out
from sekisho.evidence.summary import KINDS, Row, rows
from sekisho.facts.answer import Answer
from sekisho.facts.wire import Packed
from sekisho.policy.host_policy import HostPolicy

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class HostRecord:
    """One host as it was seen.

    Attributes:
        name: the host's name in the site (or the machine's own name for ``--local``).
        raw: the raw facts as the host sent them, parsed or not yet; None when it gave none.
        policy: the expectations to judge by; None when there are none.
        reason: why there are no raw facts; None when there are.
        fingerprint: SHA-256 fingerprint of the host key it was reached with; None for local.
        collector: version and digest of the collector that read the facts; None without facts.
        milliseconds: how long it took.
        answer: what ties the facts to this audit; None without facts.
        findings: what its facts were judged to already, apart from this process; else None.

    """

    name: str
    raw: Mapping[str, Any] | Packed | None
    policy: HostPolicy | None = None
    reason: str | None = None
    fingerprint: str | None = None
    collector: str | None = None
    milliseconds: int = 0
    answer: Answer | None = None
    findings: tuple[Finding, ...] | None = None

    @property
    def signed(self) -> bool:
        """Whether the host gave its facts with a signature (not whether it holds)."""
        return self.answer is not None and self.answer.signature is not None

    @property
    def role(self) -> str | None:
        """The host's role, when there is a policy to say it."""
        return self.policy.role.value if self.policy is not None else None

    def as_facts(self, probes: Sequence[str]) -> HostFacts:
        """Return the parsed facts for judging; a host without raw facts is unreachable."""
        policy = self.policy.as_json() if self.policy is not None else None
        if self.raw is None or self.reason is not None:
            why = self.reason if self.reason is not None else "the host sent no facts"
            return HostFacts(
                host=self.name, role=self.role, facts={}, policy=policy, unreachable=why
            )
        raw = self.raw.value() if isinstance(self.raw, Packed) else self.raw
        return HostFacts(
            host=self.name,
            role=self.role,
            facts=facts_from_raw(raw, probes),
            policy=policy,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the host's line of the report."""
        return {
            "name": self.name,
            "role": self.role,
            "has_policy": self.policy is not None,
            "policy_serial": self.policy.serial if self.policy is not None else None,
            "answered": self.raw is not None and self.reason is None,
            "reason": self.reason,
            "fingerprint": self.fingerprint,
            "collector": self.collector,
            "milliseconds": self.milliseconds,
            "signed": self.signed,
        }


@dataclass(frozen=True, slots=True)
class AuditRun:
    """Everything an audit's report is made of, besides the catalogue."""

    mode: str  # local | ssh
    site: str
    profile: str | None
    started: str  # RFC 3339, UTC
    finished: str
    tool: str
    hosts: tuple[HostRecord, ...]
    kinds: tuple[str, ...] = KINDS
    flow_modes: tuple[str, ...] = ()
    site_problems: tuple[str, ...] = ()  # invariants the site model itself breaks
    solver: str | None = None  # what proved; None: what needs a proof is "could not tell"
    nonce: str = ""  # random, 64 hex digits; every host's own is derived from it
    scope: Scope = NO_SCOPE

    @property
    def unlisted(self) -> tuple[str, ...]:
        """Lines whose ciphers are outside the default list, by the policies the run judges by."""
        policies = [host.policy for host in self.hosts if host.policy is not None]
        return tuple(sorted({f"{one.name}: {one.ciphers}" for p in policies for one in p.tunnels}))


@dataclass(frozen=True, slots=True)
class Judged:
    """An audit judged: its rows, its findings and the exit code."""

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    exit_code: int


def left_out_of(catalogue: Catalogue, run: AuditRun, judged: Judged) -> LeftOut:
    """Return which hosts, items, checks and evidence there were that this audit did not judge.

    An item whose kinds of evidence were all left out is left out with them.
    """
    machine = "machine" in run.kinds
    return left_out(
        run.scope,
        hosts=(host.name for host in run.hosts),
        items=(row.item.id for row in judged.rows),
        checks=(check.id for check in catalogue.checks if machine),
        evidence=run.kinds,
    )


def needed_probes(catalogue: Catalogue) -> tuple[str, ...]:
    """Return the names of the probes the catalogue's checks need, sorted."""
    return tuple(sorted({a.probe for check in catalogue.checks for a in check.asserts}))


class NoSolverError(SekishoError):
    """The run was judged with a solver, and there is none here."""


class OverBudgetError(SekishoError):
    """A host's facts could not be read and judged within their limits of time and memory."""


#: Judges one host, by a catalogue and with a solver.
HostJudge = Callable[[Catalogue, HostRecord, str | None], tuple[Finding, ...]]


def _prover(solver: str | None) -> Prover | None:
    if solver is None:
        return None
    try:
        from sekisho.prover.prove import prove_way  # noqa: PLC0415 - z3, where it is needed
    except ImportError:
        raise NoSolverError(f"judged with {solver}, and here is no solver (z3-solver)") from None
    return prove_way


def judge_host(catalogue: Catalogue, host: HostRecord, solver: str | None) -> tuple[Finding, ...]:
    """Judge every check on one host, whose facts are parsed here.

    Raises `NoSolverError`, and `WireError` for packed facts that are none.
    """
    facts = host.as_facts(needed_probes(catalogue))
    return tuple(judge_all(catalogue, [facts], _prover(solver)))


def judge_run(catalogue: Catalogue, run: AuditRun) -> Judged:
    """Judge every check on every host of the run that is not judged yet.

    Raises `NoSolverError` when the run had a solver and there is none to judge it alike.
    """
    findings = [
        finding
        for host in run.hosts
        for finding in (
            judge_host(catalogue, host, run.solver) if host.findings is None else host.findings
        )
    ]
    if "machine" not in run.kinds:
        findings = []
    table = rows(catalogue, findings, profile=run.profile, kinds=run.kinds)
    return Judged(
        rows=tuple(table),
        findings=tuple(findings),
        exit_code=1 if run.site_problems else exit_code(row.verdict for row in table),
    )


def as_json(catalogue: Catalogue, run: AuditRun, judged: Judged) -> dict[str, Any]:
    """Return the report as plain JSON values."""
    by_check = Counter(finding.verdict for finding in judged.findings)
    by_item = Counter(row.verdict for row in judged.rows)
    return {
        "schema": SCHEMA,
        "kind": "sekisho-audit",
        "tool": run.tool,
        "mode": run.mode,
        "site": run.site,
        "profile": run.profile,
        "flow_modes": list(run.flow_modes),
        "site_problems": list(run.site_problems),
        # Not in the report of a site without one: an older bundle is judged to the same bytes.
        **({"unlisted_ciphers": list(run.unlisted)} if run.unlisted else {}),
        "kinds": list(run.kinds),
        "started": run.started,
        "finished": run.finished,
        "catalogue": catalogue.digest,
        "nonce": run.nonce,
        "scope": run.scope.as_json(),
        "left_out": left_out_of(catalogue, run, judged).as_json(),
        "hosts": [host.as_json() for host in run.hosts],
        "items": [row.as_json() for row in judged.rows],
        "counts": {
            "items": {verdict.value: by_item.get(verdict, 0) for verdict in Verdict},
            "findings": {verdict.value: by_check.get(verdict, 0) for verdict in Verdict},
        },
        "findings": [finding.as_json() for finding in judged.findings],
        "exit_code": judged.exit_code,
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
