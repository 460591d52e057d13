"""What in a bundle must agree with what: manifest, run, times, hosts, nonces, signatures. Pure.

Digests show that files are those of the manifest; these comparisons show that the files speak of
one and the same audit. A contradiction is ``broken``; what only a key, a clock or another tool can
decide is ``unknown``.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sekisho.core.errors import printable
from sekisho.core.keys import BadKeyError, fingerprint_of
from sekisho.evidence.bundle import MANIFEST, MANIFEST_KEYS
from sekisho.evidence.report import AuditRun, HostRecord
from sekisho.facts.answer import NONCE, host_nonce, signed_well
from sekisho.facts.wire import WireError, facts_digest

#: Clocks of auditor, hosts and reader may differ by so much.
TOLERANCE = dt.timedelta(minutes=5)
#: No audit takes longer; within a longer one old answers would look like its own.
LONGEST = dt.timedelta(days=1)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_NAMED = 20  # hosts in one line


@dataclass(slots=True)
class Problems:
    """What verifying finds.

    Attributes:
        broken: what is not as it was written, or contradicts itself; not to be relied on.
        unknown: what cannot be determined.
        notes: what a reader should know.

    """

    broken: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def bind_manifest(manifest: Mapping[str, Any], run: AuditRun, catalogue: str) -> list[str]:
    """Return where the manifest and ``run.json`` (and the catalogue's digest) differ."""
    odd = sorted(manifest.keys() ^ MANIFEST_KEYS)
    found = [f"{MANIFEST}: missing or unknown: {printable(', '.join(odd), 200)}"] if odd else []
    for key, there in (
        ("site", run.site),
        ("created", run.finished),
        ("tool", run.tool),
        ("nonce", run.nonce),
        ("catalogue", catalogue),
    ):
        if key in manifest and manifest[key] != there:
            found.append(
                f"{MANIFEST}: {key} is {printable(manifest[key], 80)}, "
                f"in the files it is {printable(there, 80)}"
            )
    return found


def bind_hosts(run: AuditRun) -> list[str]:
    """Return where the hosts and policies of a run are not those its scope asks for."""
    found = [] if run.hosts else ["run.json names no host: nothing was judged"]
    there, asked = {host.name for host in run.hosts}, set(run.scope.expected_hosts())
    if missing := sorted(asked - there):
        found.append(f"run.json: hosts that were asked for are missing: {_list(missing)}")
    if extra := sorted(there - asked):
        found.append(f"run.json: hosts that were not asked for: {_list(extra)}")
    found += [
        f"policies/{host.name}.json is of site {printable(host.policy.site, 80)}, "
        f"the run of {printable(run.site, 80)}"
        for host in run.hosts
        if host.policy is not None and host.policy.site != run.site
    ]
    found += [
        f"{host.name}: facts and a reason why there are none"
        for host in run.hosts
        if host.raw is not None and host.reason is not None
    ]
    return found


def bind_times(run: AuditRun, now: dt.datetime | None, found: Problems) -> None:
    """Judge the order of the run's times; ``now`` is the reader's clock, None when he has none."""
    started, finished = _time(run.started), _time(run.finished)
    for name, text, moment in (
        ("started", run.started, started),
        ("finished", run.finished, finished),
    ):
        if moment is None:
            found.broken.append(
                f"run.json: {name} is {printable(text, 40)}, not a time like 2026-11-22T02:00:00Z"
            )
    if started is None or finished is None:
        return
    if finished < started:
        found.broken.append(f"run.json: finished {run.finished} before it started {run.started}")
    elif finished - started > LONGEST:
        found.unknown.append(
            f"the audit took from {run.started} to {run.finished}: within so long a time an old "
            "answer cannot be told from its own"
        )
    if now is not None and finished > now + TOLERANCE:
        found.unknown.append(
            f"the audit finished {run.finished}, after this machine's clock "
            f"({now.strftime('%Y-%m-%dT%H:%M:%SZ')}): one of them is wrong"
        )


def bind_answers(run: AuditRun, host_keys: Mapping[str, bytes] | None, found: Problems) -> None:
    """Judge that each host's facts were asked for by this audit, and its signature over them.

    Args:
        run: the audit.
        host_keys: the hosts' public keys the reader trusts (PEM, by host); with them facts without
            a signature by these keys are ``unknown``.
        found: where to say it.

    """
    if not NONCE.fullmatch(run.nonce):
        found.broken.append("run.json: nonce is not 64 hex digits")
    answered = [host for host in run.hosts if host.raw is not None]
    unsigned: list[str] = []
    for host in answered:
        if host.answer is None or host.answer.nonce != host_nonce(run.nonce, host.name):
            found.broken.append(
                f"{host.name}: these facts were not asked for by this audit (another nonce): they "
                "are of another audit or another host"
            )
        elif not host.signed:
            unsigned.append(host.name)
        elif not signed_well(host.answer, host.collector or "", _digest(host)):
            found.broken.append(f"{host.name}: the host's signature is not over these facts")
        else:
            _signed_then(run, host, found)
            if host_keys is not None:
                _signed_by(host, host_keys, found)
    if unsigned and host_keys is not None:
        found.unknown.append(f"facts without a signature of the host: {_list(unsigned)}")
    elif unsigned and run.mode == "ssh":
        found.notes.append(
            "facts without a signature of the host, so that only the signer of the bundle says "
            f"they are of this audit: {_list(unsigned)}"
        )
    collectors = {host.collector or "?" for host in answered}
    if others := sorted(collectors - {run.tool}):
        found.notes.append(f"facts read by another build of the collector: {_list(others)}")


def _digest(host: HostRecord) -> str:
    try:
        return "" if host.raw is None else facts_digest(host.raw)
    except WireError:
        return ""  # too large to be anybody's


def _signed_then(run: AuditRun, host: HostRecord, found: Problems) -> None:
    """Judge the host's own clock: an answer kept from another day is signed with its day."""
    started, finished = _time(run.started), _time(run.finished)
    if host.answer is None or host.answer.at is None or started is None or finished is None:
        return
    try:
        at = dt.datetime.fromtimestamp(host.answer.at / 1000, tz=dt.UTC)
    except (OverflowError, ValueError, OSError):
        at = dt.datetime.max.replace(tzinfo=dt.UTC)
    if not started - TOLERANCE <= at <= finished + TOLERANCE:
        found.unknown.append(
            f"{host.name}: the host signed these facts at {at:%Y-%m-%dT%H:%M:%SZ}, outside this "
            "audit: an old answer, or its clock is wrong"
        )


def _signed_by(host: HostRecord, host_keys: Mapping[str, bytes], found: Problems) -> None:
    trusted = host_keys.get(host.name)
    if trusted is None:
        found.unknown.append(f"{host.name}: no key of this host among the host keys given")
        return
    signer = (host.answer.key or "").encode() if host.answer is not None else b""
    try:
        same, known = fingerprint_of(signer) == fingerprint_of(trusted), fingerprint_of(trusted)
    except BadKeyError as bad:
        found.unknown.append(f"{host.name}: the host key given cannot be used: {bad}")
        return
    if not same:
        found.broken.append(f"{host.name}: facts signed by another key than the host's {known}")


def _time(text: str) -> dt.datetime | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        return None


def _list(names: list[str]) -> str:
    told = ", ".join(printable(name, 80) for name in names[:_NAMED])
    return told + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
