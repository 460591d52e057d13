"""Checking a bundle offline: is every file there and whole, who signed, does judging agree? Pure.

Steps, in this order, each naming what it finds:
1. the manifest is ours, of a version we know, and names only files a bundle may hold;
2. every file it names is there with its size and digest, and there is no other;
3. the signature is the signer's (a key given by the reader counts; the bundle's own only tells
   who says so);
4. the facts are judged again by the bundle's own catalogue and policies, and give the very same
   findings and report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sekisho.canonical import canonical, speaks
from sekisho.catalogue.compiled import from_json
from sekisho.catalogue.model import Catalogue
from sekisho.catalogue.parse import parse_catalogue
from sekisho.errors import SekishoError, printable
from sekisho.evidence.bundle import (
    FILE_NAME,
    FIXED,
    KIND,
    MANIFEST,
    SCHEMA,
    SIGNATURE,
    SIGNER,
    BadBundleError,
    rejudge,
    run_from_json,
)
from sekisho.evidence.report import (
    AuditRun,
    HostJudge,
    HostRecord,
    Judged,
    NoSolverError,
    OverBudgetError,
    judge_host,
)
from sekisho.evidence.signing import BadKeyError, fingerprint_of, signature_is_good
from sekisho.evidence.wire import WireError, strict_json
from sekisho.probes.registry import registry

MAX_LISTED = 50


#: Gives, by a compiled catalogue and the solver's name, what judges one host.
Judging = Callable[[bytes, str | None], AbstractContextManager[HostJudge]]


@contextmanager
def judged_here(_catalogue: bytes, _solver: str | None) -> Iterator[HostJudge]:
    """Judge in this process, within the bounds of what is parsed."""
    yield judge_host


@dataclass(frozen=True, slots=True)
class Stored:
    """What lies in a bundle's folder: files by name, and what could not be taken as a file."""

    files: Mapping[str, bytes]
    refused: tuple[str, ...] = ()


@dataclass(slots=True)
class Verdicts:
    """What verifying found.

    Attributes:
        broken: what is not as it was written; the bundle must not be relied on.
        unknown: what could not be told (another version).
        notes: what a reader should know (unsigned, whose key).
        catalogue, run, judged: the audit, judged again, when it could be.

    """

    broken: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    signed_by: str | None = None
    catalogue: Catalogue | None = None
    run: AuditRun | None = None
    judged: Judged | None = None

    @property
    def exit_code(self) -> int:
        """Return 0 whole, 1 broken, 2 could not tell."""
        if self.broken:
            return 1
        return 2 if self.unknown or self.judged is None else 0


def verify(
    stored: Stored,
    *,
    key: bytes | None = None,
    tool: str = "",
    judging: Judging = judged_here,
) -> Verdicts:
    """Check a bundle.

    Args:
        stored: its files.
        key: public key (PEM) the reader trusts; with it an unsigned bundle is broken.
        tool: this tool's name and version, to tell a changed judge from a changed bundle.
        judging: by catalogue and solver gives what parses and judges one host's facts; a
            command's does it in processes with limits.

    """
    found = Verdicts()
    found.broken += [f"{printable(name, 300)}" for name in stored.refused]
    manifest = _manifest(stored, found)
    if manifest is None:
        return found
    _files(stored, manifest, found)
    _signature(stored, key, found)
    if not found.broken:
        _judge_again(stored, found, tool, judging)
    return found


def _manifest(stored: Stored, found: Verdicts) -> dict[str, Any] | None:
    data = stored.files.get(MANIFEST)
    if data is None:
        found.broken.append(
            f"{MANIFEST} is missing: this is no evidence bundle, or not a whole one"
        )
        return None
    try:
        value = _canonical_value(data)
    except ValueError as bad:
        found.broken.append(f"{MANIFEST} is not as it was written: {printable(str(bad))}")
        return None
    if not isinstance(value, dict) or value.get("kind") != KIND:
        found.broken.append(f"{MANIFEST} is not the manifest of an evidence bundle")
        return None
    if not speaks(value.get("schema"), SCHEMA):
        found.unknown.append(
            f"the bundle has version {printable(value.get('schema'), 40)}; this tool knows {SCHEMA}"
        )
        return None
    files = value.get("files")
    if not isinstance(files, dict) or not files:
        found.broken.append(f"{MANIFEST} names no files")
        return None
    return value


def _files(stored: Stored, manifest: dict[str, Any], found: Verdicts) -> None:
    told: dict[str, Any] = manifest["files"]
    problems: list[str] = []
    for name in sorted(told):
        if name not in FIXED and name != SIGNER and not FILE_NAME.fullmatch(name):
            problems.append(f"{printable(name)}: a bundle holds no such file")
            continue
        entry, data = told[name], stored.files.get(name)
        if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
            problems.append(f"{name}: the manifest's entry is garbled")
        elif data is None:
            problems.append(f"{name}: missing")
        elif len(data) != entry["bytes"]:
            problems.append(f"{name}: changed ({len(data)} bytes, written were {entry['bytes']})")
        elif hashlib.sha256(data).hexdigest() != entry["sha256"]:
            problems.append(f"{name}: changed (digest differs)")
    problems += [f"{name}: missing from the manifest" for name in FIXED if name not in told]
    problems += [
        f"{printable(name)}: not in the manifest"
        for name in sorted(set(stored.files) - set(told) - {MANIFEST, SIGNATURE})
    ]
    found.broken += problems[:MAX_LISTED]
    if len(problems) > MAX_LISTED:
        found.broken.append(f"and {len(problems) - MAX_LISTED} more files")


def _signature(stored: Stored, key: bytes | None, found: Verdicts) -> None:
    signature, own = stored.files.get(SIGNATURE), stored.files.get(SIGNER)
    if signature is None:
        if key is not None:
            found.broken.append(f"{SIGNATURE}: missing; a signature by the given key was expected")
        elif own is not None:
            found.broken.append(f"{SIGNATURE}: missing, although the bundle names a signer")
        else:
            found.notes.append(
                "unsigned: whoever held this folder could have rewritten all of it consistently"
            )
        return
    trusted = key if key is not None else own
    if trusted is None:
        found.broken.append(f"{SIGNER}: missing; give the signer's public key with --key")
        return
    try:
        good = signature_is_good(stored.files[MANIFEST], signature, trusted)
        found.signed_by = fingerprint_of(trusted)
    except BadKeyError as bad:
        found.broken.append(f"the signer's key cannot be used: {bad}")
        return
    if not good:
        found.broken.append(f"{SIGNATURE}: not a signature of {MANIFEST} by {found.signed_by}")
    elif key is None:
        found.notes.append(
            "the signer's key comes from the bundle itself: compare its fingerprint with the "
            "auditor, or give his key with --key"
        )


def _canonical_value(data: bytes) -> Any:
    value = strict_json(data)
    try:
        if canonical(value) != data:
            raise ValueError("not in canonical form")
    except (TypeError, RecursionError) as bad:
        raise ValueError(str(bad)) from None
    return value


def _judge_again(  # noqa: C901 - one arm a refusal
    stored: Stored, found: Verdicts, tool: str, judging: Judging
) -> None:
    facts: dict[str, bytes] = {}
    policies: dict[str, Any] = {}
    try:
        for name, data in stored.files.items():
            if match := FILE_NAME.fullmatch(name):
                if match[1] == "facts":
                    facts[match[2]] = data
                else:
                    policies[match[2]] = _value_of(name, data)
        run = run_from_json(_value_of("run.json", stored.files["run.json"]), facts, policies)
        _value_of("catalogue.json", stored.files["catalogue.json"])
        sources = from_json(stored.files["catalogue.json"], "catalogue.json")
        catalogue = parse_catalogue(
            {name: load() for name, load in sources.items.items()},
            {name: load() for name, load in sources.checks.items()},
            frozenset(registry()),
        )
    except BadBundleError as bad:
        found.broken.append(printable(str(bad), 300))
        return
    except SekishoError as bad:
        found.unknown.append(
            "this tool cannot read the bundle's catalogue: " + printable(bad.diagnostics(), 600)
        )
        return
    try:
        run = _host_by_host(catalogue, run, stored.files["catalogue.json"], judging)
        judged, findings, report = rejudge(catalogue, run)
    except BadBundleError as bad:
        found.broken.append(printable(str(bad), 300))
        return
    except (NoSolverError, OverBudgetError) as bad:
        found.unknown.append(printable(bad.message, 300))
        return
    found.catalogue, found.run, found.judged = catalogue, run, judged
    if findings != stored.files["findings.json"]:
        found.broken += _differences(findings, stored.files["findings.json"], run, tool)
    elif report != stored.files["report.html"]:
        if run.tool == tool:
            found.broken.append("report.html: does not say what the findings say")
        else:
            found.notes.append(
                f"report.html was written by {printable(run.tool, 60)} and cannot be compared; "
                "its findings can and agree"
            )


def _host_by_host(
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


def _value_of(name: str, data: bytes) -> Any:
    try:
        return _canonical_value(data)
    except ValueError as bad:
        raise BadBundleError(f"{name}: not as it was written: {printable(str(bad))}") from None


def _differences(ours: bytes, theirs: bytes, run: AuditRun, tool: str) -> list[str]:
    found = ["findings.json: judging the facts again gives other findings"]
    try:
        told = _canonical_value(theirs)
        mine = _canonical_value(ours)
        old = {(f["host"], f["check"]): f for f in told["findings"]}
        new = {(f["host"], f["check"]): f for f in mine["findings"]}
    except (ValueError, TypeError, KeyError) as bad:
        return [f"findings.json: not as it was written: {printable(str(bad))}"]
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            host, check = key
            was, now = (printable(f.get(key, {}).get("verdict", "nothing"), 20) for f in (old, new))
            found.append(
                f"{printable(host, 70)}: {printable(check, 100)}: {was} written, {now} judged"
            )
    if len(found) == 1:
        parts = [key for key in sorted(set(told) | set(mine)) if told.get(key) != mine.get(key)]
        found.append(f"differing: {printable(', '.join(parts))}")
    if run.tool != tool:
        found.append(
            f"written by {printable(run.tool, 60)}, judged by {tool}: the judge may differ"
        )
    return [
        *found[:MAX_LISTED],
        *([f"and {len(found) - MAX_LISTED} more"] if len(found) > MAX_LISTED else []),
    ]
