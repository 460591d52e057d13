"""An evidence bundle: everything an audit saw and used, so that anybody can judge it again. Pure.

A bundle is a folder of canonical JSON files, a report, a manifest with the SHA-256 of every file,
and a signature over the manifest:

    MANIFEST.json        names, digests and sizes of all other files; site, time, tool, nonce and
                         catalogue's digest, each the same as in the files
    MANIFEST.sig         ECDSA P-384 / SHA-384 over MANIFEST.json (DER); missing: unsigned
    signer.pub.pem       the public key of the signer (who he is, the reader must know)
    run.json             mode, site, times, tool, nonce; the scope: every host, item and check
                         there was, what was asked for; and every host: reason or fingerprint
    catalogue.json       the compiled catalogue that was judged by
    policies/HOST.json   the expectations of each host
    facts/HOST.json      the raw facts of each host, as it sent them, with its nonce and signature
    findings.json        the report: items, counts, findings
    report.html          the same for people
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.catalogue.model import Catalogue
from sekisho.core.canonical import canonical, digest, speaks
from sekisho.core.errors import SekishoError
from sekisho.core.languages import LANGUAGES
from sekisho.core.strict_json import strict_json
from sekisho.evidence.html import render
from sekisho.evidence.report import AuditRun, HostRecord, Judged, as_json, judge_run
from sekisho.evidence.scope import scope_from_json
from sekisho.evidence.summary import KINDS
from sekisho.facts.answer import Answer, answer_from_json
from sekisho.facts.wire import Packed
from sekisho.policy.host_policy import HostPolicy

SCHEMA = 2
KIND = "sekisho-evidence"
MANIFEST = "MANIFEST.json"
SIGNATURE = "MANIFEST.sig"
SIGNER = "signer.pub.pem"
REPORT = "report.html"
FIXED = ("catalogue.json", "findings.json", REPORT, "run.json")
HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_FACTS_HEAD, _FACTS_HOST = b'{"answer":', b',"host":%s,"raw":'
_FACTS_TAIL = b',"schema":%d}' % SCHEMA
_FACTS_MOST = 8 * 1024  # bytes before the facts: an answer takes at most 1.6 KiB
FILE_NAME = re.compile(r"(facts|policies)/(" + HOST_NAME.pattern + r")\.json")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle ready to write: every file but the signature, and the manifest to sign."""

    name: str
    files: Mapping[str, bytes]
    manifest: bytes


def make_bundle(  # noqa: PLR0913 - a bundle has these inputs
    catalogue: Catalogue,
    compiled: bytes,
    run: AuditRun,
    judged: Judged,
    *,
    signer: bytes | None = None,
    language: str = "en",
) -> Bundle:
    """Return the bundle of an audit.

    Args:
        catalogue: the catalogue judged by.
        compiled: its compiled form; `parse_catalogue` of it gives ``catalogue`` again.
        run: the hosts with their raw facts and policies.
        judged: what `judge_run(catalogue, run)` gave.
        signer: the signer's public key (PEM) when the manifest is going to be signed.
        language: the language the report shows first, ``en`` or ``ja``; it holds both.

    """
    files: dict[str, bytes] = {
        "run.json": canonical(run_as_json(run)),
        "catalogue.json": compiled,
        "findings.json": canonical(as_json(catalogue, run, judged)),
    }
    for host in run.hosts:
        if host.raw is not None:
            files[f"facts/{host.name}.json"] = facts_file(host)
        if host.policy is not None:
            files[f"policies/{host.name}.json"] = host.policy.as_bytes()
    evidence = evidence_digest(files)
    files[REPORT] = render(catalogue, run, judged, evidence=evidence, first=language).encode()
    if signer is not None:
        files[SIGNER] = signer
    return Bundle(name=bundle_name(run), files=files, manifest=manifest_of(run, files))


def evidence_digest(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 over a bundle's evidence: every file but report, manifest and signature.

    It stands on every sheet of a printed report. Anybody can make it by hand: it is the digest of
    what ``sha256sum`` prints for these files in byte order of their names
    (`sekisho.evidence.page.BY_HAND`).
    """
    lines = [
        f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        for name, data in sorted(files.items())
        if name not in (REPORT, SIGNER, SIGNATURE, MANIFEST)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def facts_file(host: HostRecord) -> bytes:
    """Return the canonical JSON of ``facts/HOST.json``; packed facts are not parsed for it."""
    plain = host.raw.plain() if isinstance(host.raw, Packed) else canonical(host.raw)
    answer = canonical(None if host.answer is None else host.answer.as_json())
    return b"".join((_FACTS_HEAD, answer, _FACTS_HOST % canonical(host.name), plain, _FACTS_TAIL))


def facts_of(host: str, data: bytes) -> tuple[Packed, Answer | None]:
    """Return the raw facts in ``facts/HOST.json``, not parsed yet, and how they came.

    Raises `BadBundleError` when they are not this host's. What precedes the facts is bounded; that
    they are canonical is seen where they are parsed.
    """
    where = f"facts/{host}.json"
    middle = _FACTS_HOST % canonical(host)
    at = data.find(middle, 0, _FACTS_MOST)
    if at < 0 or not (data.startswith(_FACTS_HEAD) and data.endswith(_FACTS_TAIL)):
        raise BadBundleError(
            f"{where}: not as it was written: they are not the facts of {host}, schema {SCHEMA}"
        )
    packed = Packed.of(data[at + len(middle) : -len(_FACTS_TAIL)])
    told = data[len(_FACTS_HEAD) : at]
    try:
        value = strict_json(told, size=_FACTS_MOST, surrogates=True, form=True)
        return packed, None if value is None else answer_from_json(value)
    except (ValueError, TypeError) as bad:
        raise BadBundleError(f"{where}: not as it was written: {bad}") from None


def bundle_name(run: AuditRun) -> str:
    """Return the folder's name: ``evidence-<site>-<UTC time>``."""
    site = run.site or (run.hosts[0].name if run.hosts else "local")
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", site)[:64]
    return f"evidence-{safe}-{run.finished.replace(':', '').replace('-', '')}"


def manifest_of(run: AuditRun, files: Mapping[str, bytes]) -> bytes:
    """Return the manifest over ``files``."""
    return canonical(
        {
            "schema": SCHEMA,
            "kind": KIND,
            "site": run.site,
            "created": run.finished,
            "tool": run.tool,
            "nonce": run.nonce,
            "catalogue": catalogue_digest(files["catalogue.json"]),
            "files": {
                name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                for name, data in files.items()
            },
        }
    )


#: Keys of the manifest; what is not a file is the same as in `run.json` and `findings.json`.
MANIFEST_KEYS = frozenset(
    {"schema", "kind", "site", "created", "tool", "nonce", "catalogue", "files"}
)


def catalogue_digest(compiled: bytes) -> str:
    """Return the digest of a compiled catalogue, as reports show it; "" when it is none."""
    try:
        value = json.loads(compiled)
        return digest({"items": value["items"], "checks": value["checks"]})
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def run_as_json(run: AuditRun) -> dict[str, Any]:
    """Return the run without facts and policies (they have files of their own)."""
    return {
        "schema": SCHEMA,
        "mode": run.mode,
        "site": run.site,
        "profile": run.profile,
        "started": run.started,
        "finished": run.finished,
        "tool": run.tool,
        "kinds": list(run.kinds),
        "flow_modes": list(run.flow_modes),
        "site_problems": list(run.site_problems),
        "solver": run.solver,
        "nonce": run.nonce,
        "scope": run.scope.as_json(),
        "hosts": [
            {
                "name": host.name,
                "reason": host.reason,
                "fingerprint": host.fingerprint,
                "collector": host.collector,
                "milliseconds": host.milliseconds,
                "facts": host.raw is not None,
                "policy": host.policy is not None,
            }
            for host in run.hosts
        ],
    }


MODES = ("local", "ssh")
_RUN_KEYS = {
    "schema", "mode", "site", "profile", "started", "finished", "tool", "kinds", "flow_modes",
    "site_problems", "solver", "nonce", "scope", "hosts",
}  # fmt: skip
_HOST_KEYS = {
    "name", "reason", "fingerprint", "collector", "milliseconds", "facts", "policy",
}  # fmt: skip


class BadBundleError(Exception):
    """A bundle's file does not hold what it should; the message says what."""


def run_from_json(raw: Any, facts: Mapping[str, bytes], policies: Mapping[str, Any]) -> AuditRun:
    """Return the run of a bundle; raise `BadBundleError` for anything missing or odd.

    Args:
        raw: the value of ``run.json``.
        facts: host → the content of ``facts/HOST.json``.
        policies: host → value of ``policies/HOST.json``.

    """
    value = _mapping(raw, "run.json")
    if not speaks(value.get("schema"), SCHEMA):
        raise BadBundleError(
            f"run.json has schema {value.get('schema')!r}; this tool knows {SCHEMA}"
        )
    if value.keys() != _RUN_KEYS:
        odd = sorted(value.keys() ^ _RUN_KEYS)
        raise BadBundleError(f"run.json: missing or unknown: {', '.join(odd)}")
    hosts = [
        _host(_mapping(entry, "run.json: host"), facts, policies)
        for entry in _list(value["hosts"], "run.json: hosts")
    ]
    names = [host.name for host in hosts]
    if len(set(names)) != len(names):
        raise BadBundleError("run.json names a host twice")
    for kind, there in (("facts", facts), ("policies", policies)):
        for name in sorted(set(there) - set(names)):
            raise BadBundleError(f"{kind}/{name}.json belongs to no host of run.json")
    kinds = _texts(value["kinds"], "run.json: kinds")
    if not kinds or not set(kinds) <= set(KINDS) or len(set(kinds)) != len(kinds):
        raise BadBundleError("run.json: kinds are not known")
    mode = _text(value["mode"], "run.json: mode")
    if mode not in MODES:
        raise BadBundleError(f"run.json: mode is {mode!r}, not one of {', '.join(MODES)}")
    try:
        scope = scope_from_json(value["scope"])
    except ValueError as bad:
        raise BadBundleError(f"run.json: {bad}") from None
    return AuditRun(
        mode=mode,
        site=_text(value["site"], "run.json: site"),
        profile=_text_or_none(value["profile"], "run.json: profile"),
        started=_text(value["started"], "run.json: started"),
        finished=_text(value["finished"], "run.json: finished"),
        tool=_text(value["tool"], "run.json: tool"),
        hosts=tuple(hosts),
        kinds=kinds,
        flow_modes=_texts(value["flow_modes"], "run.json: flow_modes"),
        site_problems=_texts(value["site_problems"], "run.json: site_problems"),
        solver=_text_or_none(value["solver"], "run.json: solver"),
        nonce=_text(value["nonce"], "run.json: nonce"),
        scope=scope,
    )


def _policy(value: dict[str, Any], host: str) -> HostPolicy:
    where = f"policies/{host}.json"
    try:
        policy = HostPolicy.parse(value, where)
    except SekishoError as bad:
        raise BadBundleError(bad.problems[0].line()) from None
    if policy.host != host:
        raise BadBundleError(f"{where} is the policy of {policy.host!r}")
    return policy


def _host(
    entry: dict[str, Any], facts: Mapping[str, bytes], policies: Mapping[str, Any]
) -> HostRecord:
    if entry.keys() != _HOST_KEYS:
        odd = sorted(entry.keys() ^ _HOST_KEYS)
        raise BadBundleError(f"run.json: host: missing or unknown: {', '.join(odd)}")
    name = _text(entry["name"], "run.json: host name")
    if not HOST_NAME.fullmatch(name):
        raise BadBundleError("run.json has a host whose name is none")
    raw, answer = None, None
    if _flag(entry["facts"], "run.json: facts"):
        if name not in facts:
            raise BadBundleError(f"facts/{name}.json is missing or no object")
        raw, answer = facts_of(name, facts[name])
    elif name in facts:
        raise BadBundleError(f"facts/{name}.json is there, run.json says there are none")
    policy = None
    if _flag(entry["policy"], "run.json: policy"):
        policy = _policy(_mapping(policies.get(name), f"policies/{name}.json"), name)
    elif name in policies:
        raise BadBundleError(f"policies/{name}.json is there, run.json says there is none")
    took = entry["milliseconds"]
    if type(took) is not int or not 0 <= took < 2**53:
        raise BadBundleError("run.json: milliseconds is no number")
    return HostRecord(
        name=name,
        raw=raw,
        policy=policy,
        reason=_text_or_none(entry["reason"], "run.json: reason"),
        fingerprint=_text_or_none(entry["fingerprint"], "run.json: fingerprint"),
        collector=_text_or_none(entry["collector"], "run.json: collector"),
        milliseconds=took,
        answer=answer,
    )


def rejudge(
    catalogue: Catalogue, run: AuditRun, files: Mapping[str, bytes]
) -> tuple[Judged, bytes, tuple[bytes, ...]]:
    """Judge a bundle's run again; ``files`` are the bundle's.

    Returns:
        the judgement, ``findings.json``, and ``report.html`` as it is with each language first.

    """
    judged = judge_run(catalogue, run)
    findings = canonical(as_json(catalogue, run, judged))
    evidence = evidence_digest({**files, "findings.json": findings})
    reports = tuple(
        render(catalogue, run, judged, evidence=evidence, first=language).encode()
        for language in LANGUAGES
    )
    return judged, findings, reports


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadBundleError(f"{what} is missing or no object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadBundleError(f"{what} is missing or no list")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadBundleError(f"{what} is missing or no text")
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    return tuple(_text(one, what) for one in _list(value, what))


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise BadBundleError(f"{what} is neither true nor false")
    return value


def _text_or_none(value: Any, what: str) -> str | None:
    return None if value is None else _text(value, what)
