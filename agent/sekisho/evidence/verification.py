"""Checking a bundle offline: is every file there and whole, who signed, does judging agree? Pure.

Steps, in this order, each naming what it finds:
1. the manifest is ours, of a version we know, and names only files a bundle may hold;
2. every file it names is there with its size and digest, and there is no other;
3. the signature is by the key the reader gave; the bundle's own key proves nothing;
4. manifest, run, times, hosts, nonces and the hosts' signatures speak of one audit;
5. the catalogue is this tool's own, or one the reader accepts by its digest;
6. the facts are judged again by the bundle's own catalogue and policies, and give the very same
   findings and report. No regular expression runs that is not this tool's.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.catalogue.compiled import Sources, from_json
from sekisho.catalogue.model import Catalogue
from sekisho.catalogue.parse import parse_catalogue
from sekisho.core.canonical import speaks
from sekisho.core.errors import SekishoError, printable
from sekisho.core.keys import BadKeyError, fingerprint_of, signature_is_good
from sekisho.evidence.binding import (
    Problems,
    bind_answers,
    bind_hosts,
    bind_manifest,
    bind_times,
)
from sekisho.evidence.bundle import (
    FILE_NAME,
    FIXED,
    KIND,
    MANIFEST,
    SCHEMA,
    SIGNATURE,
    SIGNER,
    BadBundleError,
    catalogue_digest,
    evidence_digest,
    rejudge,
    run_from_json,
)
from sekisho.evidence.differences import differences
from sekisho.evidence.host_judging import Judging, host_by_host, judged_here
from sekisho.evidence.own_catalogue import Difference, compare_catalogues, strange_patterns
from sekisho.evidence.report import (
    AuditRun,
    Judged,
    NoSolverError,
    OverBudgetError,
    left_out_of,
)
from sekisho.evidence.scope import LeftOut
from sekisho.evidence.stored_json import MAX_BYTES, canonical_value, value_of
from sekisho.probes.registry import registry

MAX_LISTED = 50
#: Digits of a catalogue's digest by which a reader may accept it.
MIN_DIGEST = 32


@dataclass(frozen=True, slots=True)
class Stored:
    """What lies in a bundle's folder: files by name, and what could not be taken as a file."""

    files: Mapping[str, bytes]
    refused: tuple[str, ...] = ()


@dataclass(slots=True)
class Verdicts(Problems):
    """What verifying found, beside what it says (see `Problems`).

    Attributes:
        signed_by: fingerprint of the key that signed; by itself it vouches for nothing.
        vouched: whether that is the key the reader gave.
        digest: of the bundle's catalogue.
        evidence: digest of its files but the report, which stands on every sheet of that.
        difference: how the two differ; None when they could not be compared.
        accepted: whether the reader accepts the bundle's catalogue by its digest.
        catalogue, run, judged: the audit, judged again, when it could be.
        left_out: hosts, items and checks that there were and that were not judged.

    """

    signed_by: str | None = None
    vouched: bool = False
    digest: str | None = None
    evidence: str | None = None
    difference: Difference | None = None
    accepted: bool = False
    catalogue: Catalogue | None = None
    run: AuditRun | None = None
    judged: Judged | None = None
    left_out: LeftOut | None = None

    @property
    def exit_code(self) -> int:
        """Return 0 whole and vouched for, 1 broken, 2 could not tell."""
        if self.broken:
            return 1
        return 2 if self.unknown or self.judged is None or not self.vouched else 0


@dataclass(frozen=True, slots=True)
class Trust:
    """What the reader of a bundle brings along; whatever is missing makes it "could not tell".

    Attributes:
        key: the signer's public key (PEM), got from the signer.
        catalogue: this tool's own catalogue.
        accept: digest of another catalogue the reader accepts, hex, `MIN_DIGEST` digits or more.
        host_keys: the hosts' public keys (PEM, by host), to hold their signatures against; None:
            the hosts' signatures are held against the keys the answers themselves name.
        now: the reader's clock; None: nothing is said of times to come.

    """

    key: bytes | None = None
    catalogue: Sources | None = None
    accept: str | None = None
    host_keys: Mapping[str, bytes] | None = None
    now: dt.datetime | None = None


def verify(
    stored: Stored,
    *,
    key: bytes | None = None,
    tool: str = "",
    trust: Trust | None = None,
    judging: Judging = judged_here,
) -> Verdicts:
    """Check a bundle.

    Args:
        stored: its files.
        key: the signer's public key, for a reader who brings nothing else.
        tool: this tool's name and version, to tell a changed judge from a changed bundle.
        trust: all that the reader brings.
        judging: by catalogue and solver gives what parses and judges one host's facts; a
            command's does it in processes with limits.

    """
    trust = trust if trust is not None else Trust(key=key)
    found = Verdicts()
    theirs = _open(stored, trust, found)
    if theirs is not None and found.run is not None and _catalogue(found.run, theirs, trust, found):
        _judge_again(stored, found.run, theirs, tool, judging, found)
    return found


def read_facts(stored: Stored, *, key: bytes, now: dt.datetime | None = None) -> Verdicts:
    """Check a bundle as `verify` does, without judging it again: for readers of its facts."""
    found = Verdicts()
    _open(stored, Trust(key=key, now=now), found)
    return found


def _open(stored: Stored, trust: Trust, found: Verdicts) -> Sources | None:
    found.broken += [f"{printable(name, 300)}" for name in stored.refused]
    manifest = _manifest(stored, found)
    if manifest is None:
        return None
    _files(stored, manifest, found)
    found.evidence = evidence_digest(stored.files)
    _signature(stored, trust.key, found)
    return None if found.broken else _content(stored, manifest, trust, found)


def _manifest(stored: Stored, found: Verdicts) -> dict[str, Any] | None:
    data = stored.files.get(MANIFEST)
    if data is None:
        found.broken.append(
            f"{MANIFEST} is missing: this is no evidence bundle, or not a whole one"
        )
        return None
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")  # noqa: TRY301 - one place to say it
        value = canonical_value(data)
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
            problems.append(
                f"{name}: changed ({len(data)} bytes, written were {printable(entry['bytes'], 30)})"
            )
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
            found.unknown.append(
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
        found.unknown.append(
            "signed by a key that comes with the bundle itself, so by anybody: give the signer's "
            "own with --key"
        )
    elif own is not None and not _same_key(own, trusted):
        found.broken.append(f"{SIGNER}: names another key than the one that signed")
    else:
        found.vouched = True


def _same_key(one: bytes, other: bytes) -> bool:
    try:
        return fingerprint_of(one) == fingerprint_of(other)
    except BadKeyError:
        return False


def _content(
    stored: Stored, manifest: dict[str, Any], trust: Trust, found: Verdicts
) -> Sources | None:
    """Read the files and hold them against each other; return the bundle's catalogue."""
    try:
        run, theirs = _read(stored)
    except BadBundleError as bad:
        found.broken.append(printable(str(bad), 300))
        return None
    except SekishoError as bad:
        found.unknown.append(_unreadable(bad))
        return None
    found.run = run
    found.digest = catalogue_digest(stored.files["catalogue.json"])
    found.broken += bind_manifest(manifest, run, found.digest)
    found.broken += bind_hosts(run)
    bind_times(run, trust.now, found)
    bind_answers(run, trust.host_keys, found)
    return theirs


def _unreadable(bad: SekishoError) -> str:
    return "this tool cannot read the bundle's catalogue: " + printable(bad.diagnostics(), 600)


def _read(stored: Stored) -> tuple[AuditRun, Sources]:
    facts: dict[str, bytes] = {}
    policies: dict[str, Any] = {}
    for name, data in stored.files.items():
        if match := FILE_NAME.fullmatch(name):
            if match[1] == "facts":
                facts[match[2]] = data  # parsed where it is judged, within limits
            else:
                policies[match[2]] = value_of(name, data)
    run = run_from_json(value_of("run.json", stored.files["run.json"]), facts, policies)
    value_of("catalogue.json", stored.files["catalogue.json"])
    return run, from_json(stored.files["catalogue.json"], "catalogue.json")


def _catalogue(run: AuditRun, theirs: Sources, trust: Trust, found: Verdicts) -> bool:
    """Compare the bundle's catalogue with ours; return whether it may be judged by."""
    if trust.catalogue is None:
        found.unknown.append("this tool has no catalogue of its own to compare the bundle's with")
        own = Sources(items={}, checks={})
    else:
        own = trust.catalogue
        try:
            found.difference = compare_catalogues(own, theirs, run.scope)
        except SekishoError as bad:
            found.unknown.append(
                "this tool's own catalogue cannot be read: " + printable(bad.diagnostics(), 600)
            )
            return False
    found.accepted = _accepted(trust.accept, found.digest)
    if found.difference:
        lines = "; ".join(found.difference.lines())
        told = f"the bundle's catalogue ({found.digest}) is not this tool's own: {lines}"
        (found.notes if found.accepted else found.unknown).append(printable(told, 4000))
    if strange := strange_patterns(own, theirs):
        found.unknown.append(
            "not judged again: regular expressions that this tool does not have, in "
            + printable(", ".join(strange), 1000)
        )
        return False
    return True


def _accepted(told: str | None, digest: str | None) -> bool:
    return bool(told and digest and len(told) >= MIN_DIGEST and digest.startswith(told))


def _judge_again(  # noqa: PLR0913, PLR0917 - a judgement has these inputs
    stored: Stored,
    run: AuditRun,
    theirs: Sources,
    tool: str,
    judging: Judging,
    found: Verdicts,
) -> None:
    try:
        catalogue = parse_catalogue(
            {name: load() for name, load in theirs.items.items()},
            {name: load() for name, load in theirs.checks.items()},
            frozenset(registry()),
        )
    except SekishoError as bad:
        found.unknown.append(_unreadable(bad))
        return
    try:
        run = host_by_host(catalogue, run, stored.files["catalogue.json"], judging)
        judged, findings, reports = rejudge(catalogue, run, stored.files)
    except BadBundleError as bad:
        found.broken.append(printable(str(bad), 300))
        return
    except (NoSolverError, OverBudgetError) as bad:
        found.unknown.append(printable(bad.message, 300))
        return
    except Exception as crash:  # noqa: BLE001 - a crashed judge must not look clean
        found.unknown.append(
            f"judging again failed: {type(crash).__name__}: {printable(str(crash), 200)}"
        )
        return
    found.catalogue, found.judged = catalogue, judged
    found.left_out = left_out_of(catalogue, run, judged)
    if findings != stored.files["findings.json"]:
        found.broken += differences(findings, stored.files["findings.json"], run.tool, tool)
    elif stored.files["report.html"] not in reports:
        if run.tool == tool:
            found.broken.append("report.html: does not say what the findings say")
        else:
            found.unknown.append(
                f"report.html was written by {printable(run.tool, 80)} and cannot be compared by "
                f"{printable(tool, 80)}: read findings.json, or verify with the build that wrote it"
            )
