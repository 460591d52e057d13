"""A whole site's audit: expectations from the site model, facts over SSH."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sekisho.compile.policy import compile_host
from sekisho.control.inventory.read import read_inventory
from sekisho.control.judging.hosts import JudgedResponse, Judging, read_here
from sekisho.control.ssh.audit import Access, Reply, Target, audit_hosts, load_key
from sekisho.control.ssh.pinned_keys import read_pinned
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.evidence.report import AuditRun, HostRecord
from sekisho.evidence.scope import NO_SCOPE, Scope
from sekisho.facts.answer import signed_well
from sekisho.policy.host_policy import HostPolicy
from sekisho.site.model import Site
from sekisho.site.parse import parse_site
from sekisho.site.rules.invariants import check

_NOT_ASKED = "not asked: none of the chosen items has a machine check"


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """What the command line said."""

    inventory: Path
    hosts: tuple[str, ...]
    user: str
    key: Path
    known_hosts: Path
    timeout: float
    jobs: int

    def shown(self) -> tuple[tuple[str, str | int], ...]:
        """Return what shaped the audit beside its scope, for the report; no path of the auditor."""
        took = round(self.timeout * 1000)
        return ("jobs", self.jobs), ("timeout_ms", took), ("user", printable(self.user, 100))


class Watcher(Protocol):
    """Who is told how far the audit is."""

    def begin(self, total: int) -> None:
        """Say how many hosts there are."""

    def done(self, reply: Reply) -> None:
        """Say that one host is done."""


def site_run(  # noqa: PLR0913 - clock, watcher and judging are the edges
    options: SiteOptions,
    probes: tuple[str, ...],
    kinds: tuple[str, ...],
    tool: str,
    watcher: Watcher,
    *,
    scope: Scope = NO_SCOPE,
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    judging: Judging | None = None,
) -> AuditRun:
    """Ask the site's hosts for their facts and return them with what is expected of each.

    ``scope`` says what of the catalogue was asked for; hosts and options are added here.

    Raises:
        SekishoError: the inventory, the key or the pinned host keys are not in order, or a host
            was named that the site does not have. What a host does never raises.

    """
    started = clock()
    site = parse_site(read_inventory(options.inventory))
    off = check(site, now=started.date())
    chosen = _chosen(site, options.hosts)
    if not chosen:
        raise SekishoError(
            "the site has no host to judge",
            (Problem(str(options.inventory), "", "no machine", "at least one machine"),),
        )
    policies = {name: compile_host(site, name, serial=0, issued=started) for name in chosen}
    access = Access(
        user=options.user,
        key=load_key(options.key),
        pinned=read_pinned(options.known_hosts),
        timeout=options.timeout,
    )
    targets = [Target(name, policies[name].management.address) for name in chosen]
    if probes:
        watcher.begin(len(targets))
        read = read_here if judging is None else judging.reader(policies)
        replies = audit_hosts(
            targets, probes, access, jobs=options.jobs, done=watcher.done, read=read
        )
    else:
        replies = [Reply(target, None, _NOT_ASKED, None, 0) for target in targets]
    return AuditRun(
        mode="ssh",
        site=site.name,
        profile=site.profile,
        started=_text(started),
        finished=_text(clock()),
        tool=tool,
        hosts=tuple(record(reply, policies[reply.target.name]) for reply in replies),
        kinds=kinds,
        flow_modes=tuple(sorted({flow.mode.value for p in policies.values() for flow in p.flows})),
        site_problems=tuple(printable(problem.line(), 400) for problem in off),
        nonce=access.nonce,
        scope=replace(
            scope,
            hosts=tuple(site.machines),
            only_hosts=tuple(dict.fromkeys(options.hosts)),
            options=options.shown(),
        ),
    )


def record(reply: Reply, policy: HostPolicy) -> HostRecord:
    """Return what is known of one host after it was asked."""
    response, reason = reply.response, reply.reason
    answer = response.answer if response is not None else None
    if (
        response is not None
        and answer is not None
        and answer.signature is not None
        and not signed_well(answer, response.collector, response.digest)
    ):
        response, reason = None, "the host's signature is not over the facts it sent"
    return HostRecord(
        name=reply.target.name,
        raw=response.raw if response is not None else None,
        policy=policy,
        reason=reason,
        fingerprint=reply.fingerprint,
        collector=response.collector if response is not None else None,
        milliseconds=reply.milliseconds,
        answer=answer if response is not None else None,
        findings=response.findings if isinstance(response, JudgedResponse) else None,
    )


def _chosen(site: Site, hosts: tuple[str, ...]) -> list[str]:
    unknown = [name for name in hosts if name not in site.machines]
    if unknown:
        raise SekishoError(
            "the site has no such host",
            tuple(
                Problem("--host", "", printable(name), f"one of {', '.join(site.machines)}")
                for name in unknown
            ),
        )
    return [name for name in site.machines if not hosts or name in hosts]


def _text(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
