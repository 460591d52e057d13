"""Evidence bundles for tests: a run made whole, written, signed, and forged again."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from sekisho.catalogue.compiled import Sources, compile_catalogue
from sekisho.control.catalogue_files import parse_sources
from sekisho.core.canonical import canonical, digest
from sekisho.core.keys import load_private, make_key, sign
from sekisho.evidence.bundle import MANIFEST, SIGNATURE, make_bundle
from sekisho.evidence.report import AuditRun, judge_run
from sekisho.evidence.scope import Scope
from sekisho.evidence.verification import Stored, Trust, Verdicts, verify
from sekisho.facts.answer import Answer, host_nonce, sign_answer

TOOL = "sekisho test"
NONCE = "5e" * 32
KEY_PEM, PUBLIC_PEM = make_key()
KEY = load_private(KEY_PEM)
_HOST_PEM, HOST_PUBLIC_PEM = make_key()  # one for all hosts
HOST_KEY = load_private(_HOST_PEM)


def whole(run: AuditRun, sources: Sources) -> AuditRun:
    """Return the run as an audit of all there is would have left it: nonce, scope, answers."""
    return replace(
        run,
        nonce=NONCE,
        scope=Scope(
            hosts=tuple(host.name for host in run.hosts),
            items=tuple(sources.items),
            checks=tuple(sources.checks),
        ),
        hosts=tuple(
            host
            if host.raw is None
            else replace(
                host,
                answer=answer(run.finished, host.name, run.tool, digest(host.raw)),
                collector=run.tool,
            )
            for host in run.hosts
        ),
    )


@cache
def answer(then: str, host: str, collector: str, facts: str, run: str = NONCE) -> Answer:
    """Return the host's signed answer; made once, because ECDSA differs every time."""
    at = int(dt.datetime.fromisoformat(then).timestamp() * 1000)
    return sign_answer(HOST_KEY, host_nonce(run, host), at, collector, facts)


def write(run: AuditRun, sources: Sources, *, signed: bool = True) -> dict[str, bytes]:
    """Return the files of the run's bundle, signed with `KEY`."""
    catalogue = parse_sources(sources)
    bundle = make_bundle(
        catalogue,
        compile_catalogue(sources),
        run,
        judge_run(catalogue, run),
        signer=PUBLIC_PEM if signed else None,
    )
    files = dict(bundle.files) | {MANIFEST: bundle.manifest}
    return files | ({SIGNATURE: sign(bundle.manifest, KEY)} if signed else {})


def seal(files: Mapping[str, bytes], *, signed: bool = True) -> dict[str, bytes]:
    """Return the files with a manifest that fits them, signed again: what their maker can do."""
    told = json.loads(files[MANIFEST])
    told["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
        if name not in (MANIFEST, SIGNATURE)
    }
    found = dict(files) | {MANIFEST: canonical(told)}
    found.pop(SIGNATURE, None)
    if signed:
        found[SIGNATURE] = sign(found[MANIFEST], KEY)
    return found


def check(files: Mapping[str, bytes], sources: Sources | None, **more: object) -> Verdicts:
    """Verify the files as a reader who trusts `KEY` and has ``sources`` as his own catalogue."""
    trust = replace(Trust(key=PUBLIC_PEM, catalogue=sources), **more)  # type: ignore[arg-type]
    return verify(Stored(files), trust=trust, tool=TOOL)
