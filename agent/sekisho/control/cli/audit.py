"""`sekisho audit`: judge this machine, or a whole site over SSH, against the catalogue."""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sekisho.catalogue.compiled import Sources, compile_catalogue
from sekisho.control.catalogue_files import load_sources, parse_sources
from sekisho.core.build import tool_name
from sekisho.core.canonical import digest
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.languages import LANGUAGES, language_of
from sekisho.evidence.report import (
    AuditRun,
    HostRecord,
    Judged,
    as_json,
    judge_run,
    needed_probes,
)
from sekisho.evidence.scope import NO_SCOPE, Scope
from sekisho.evidence.summary import KINDS
from sekisho.policy.host_policy import MAX_BYTES, HostPolicy

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

LOCAL_POLICY = Path("/etc/sekisho/policy.json")
MAX_POLICY_BYTES = 8 * 1024 * 1024

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def audit(  # noqa: PLR0913 - the options of a command
    context: typer.Context,
    *,
    local: Annotated[bool, typer.Option("--local", help="Judge this machine.")] = False,
    inventory: Annotated[
        Path | None, typer.Option("-i", "--inventory", help="Judge the site of this inventory.")
    ] = None,
    host: Annotated[list[str] | None, typer.Option(help="Only this host (repeatable).")] = None,
    item: Annotated[
        list[str] | None, typer.Option(help="Only this item, such as 6-iv-a (repeatable).")
    ] = None,
    check: Annotated[list[str] | None, typer.Option(help="Only this check (repeatable).")] = None,
    evidence: Annotated[
        list[str] | None,
        typer.Option(help="Only this kind of evidence: machine, exercise, attested (repeatable)."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="With --local: the policy to judge by (JSON).")
    ] = None,
    user: Annotated[str, typer.Option(help="Account on the hosts.")] = "auditor",
    key: Annotated[
        Path | None, typer.Option(help="The auditor's SSH key; default <inventory>/keys/auditor.")
    ] = None,
    known_hosts: Annotated[
        Path | None,
        typer.Option(help="Pinned host keys; default <inventory>/keys/known_hosts."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds one host may take.")
    ] = 300,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Hosts asked at once.")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="Write an evidence bundle below this folder.")
    ] = None,
    sign_key: Annotated[
        Path | None, typer.Option(help="Sign the bundle with this P-384 key (see keygen).")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    lang: Annotated[
        str | None,
        typer.Option(help="Language of the table and of the report at first: ja or en."),
    ] = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours.")] = False,
) -> int:
    """Judge machines against Article 6 and print the gap table.

    Exit code: 0 compliant, 1 breach found, 2 could not tell, 3 usage or configuration.
    """
    if context.invoked_subcommand is not None:
        return 0
    if local == (inventory is not None):
        raise SekishoError("say either --local or -i INVENTORY")
    kinds = _kinds(evidence)
    language = language_told(lang)
    whole = load_sources()
    items, checks = (tuple(dict.fromkeys(named or ())) for named in (item, check))
    sources = whole.only(items, checks) if items or checks else whole
    scope = Scope(
        items=tuple(whole.items),
        checks=tuple(whole.checks),
        only_items=items,
        only_checks=checks,
    )
    catalogue = parse_sources(sources)
    signer = _signer(sign_key, out)
    if inventory is None:
        run = local_run(needed_probes(catalogue), policy, kinds, scope)
    else:
        from sekisho.control.cli.audit_progress import Progress  # noqa: PLC0415
        from sekisho.control.cli.audit_site import SiteOptions, site_run  # noqa: PLC0415 - Paramiko
        from sekisho.control.cli.flows_input import solver  # noqa: PLC0415
        from sekisho.control.judging.hosts import Judging  # noqa: PLC0415 - a process of its own

        options = SiteOptions(
            inventory=inventory,
            hosts=tuple(host or ()),
            user=user,
            key=key or inventory / "keys" / "auditor",
            known_hosts=known_hosts or inventory / "keys" / "known_hosts",
            timeout=timeout,
            jobs=jobs,
        )
        with (
            Judging(compile_catalogue(sources), solver()) as judging,
            Progress(show=sys.stderr.isatty(), color=not no_color) as progress,
        ):
            run = site_run(
                options,
                needed_probes(catalogue),
                kinds,
                tool_name(),
                progress,
                scope=scope,
                judging=judging,
            )
    if any(host.policy is not None for host in run.hosts):
        from sekisho.control.cli.flows_input import solver  # noqa: PLC0415 - nothing configured, no proof

        run = replace(run, solver=solver())
    judged = judge_run(catalogue, run)
    if json_:
        told = json.dumps(as_json(catalogue, run, judged), ensure_ascii=False, indent=1)
        sys.stdout.write(told + "\n")
    else:
        from sekisho.cli.output import console  # noqa: PLC0415 - rich is slow
        from sekisho.control.cli.audit_table import print_report  # noqa: PLC0415 - rich is slow

        print_report(console(color=not no_color), catalogue, run, judged, language)
    if out is not None:
        where = write_evidence(sources, run, judged, out=out, signer=signer, language=language)
        unsigned = (
            ""
            if signer is not None
            else " (unsigned 署名なし: `sekisho verify` cannot tell who made it; --sign-key)"
        )
        sys.stderr.write(f"evidence bundle 証拠一式: {where}{unsigned}\n")
    return judged.exit_code


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="Where the new private key goes (0600).")],
) -> int:
    """Make a P-384 key for signing evidence; its public half goes to PATH.pub.pem."""
    from sekisho.control.bundle.files import read_public_key, write_keypair  # noqa: PLC0415
    from sekisho.core.keys import fingerprint_of  # noqa: PLC0415

    public = write_keypair(path)
    sys.stdout.write(f"{public}\n{fingerprint_of(read_public_key(public))}\n")
    return 0


def write_evidence(  # noqa: PLR0913 - a bundle has these inputs
    sources: Sources,
    run: AuditRun,
    judged: Judged,
    *,
    out: Path,
    signer: EllipticCurvePrivateKey | None,
    language: str = "en",
) -> Path:
    """Write the audit's evidence bundle below ``out`` and return its folder."""
    from sekisho.control.bundle.files import public_key_of, write_bundle  # noqa: PLC0415
    from sekisho.evidence.bundle import make_bundle  # noqa: PLC0415

    bundle = make_bundle(
        parse_sources(sources),
        compile_catalogue(sources),
        run,
        judged,
        signer=public_key_of(signer) if signer is not None else None,
        language=language,
    )
    return write_bundle(bundle, out, signer)


def _signer(sign_key: Path | None, out: Path | None) -> EllipticCurvePrivateKey | None:
    if sign_key is None:
        return None
    if out is None:
        raise SekishoError("--sign-key signs a bundle: say --out DIR too")
    from sekisho.control.bundle.files import read_signing_key  # noqa: PLC0415

    return read_signing_key(sign_key)


def language_told(told: str | None) -> str:
    """Return the language of ``--lang``, or that of the terminal."""
    if told is None:
        names = (os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
        return language_of(next(filter(None, names), ""))
    if told not in LANGUAGES:
        problem = Problem("--lang", "", printable(told), f"one of {', '.join(LANGUAGES)}")
        raise SekishoError("no such language", (problem,))
    return told


def _kinds(evidence: list[str] | None) -> tuple[str, ...]:
    wrong = tuple(
        Problem("--evidence", "", printable(kind), f"one of {', '.join(KINDS)}")
        for kind in evidence or ()
        if kind not in KINDS
    )
    if wrong:
        raise SekishoError("no such kind of evidence", wrong)
    return tuple(kind for kind in KINDS if not evidence or kind in evidence)


def local_run(
    probes: tuple[str, ...],
    policy: Path | None,
    kinds: tuple[str, ...],
    scope: Scope = NO_SCOPE,
) -> AuditRun:
    """Collect this machine's facts and return them as a run of one host."""
    from sekisho.evidence.bundle import HOST_NAME  # noqa: PLC0415
    from sekisho.facts.answer import host_nonce  # noqa: PLC0415
    from sekisho.local.collect import collect  # noqa: PLC0415 - a site's audit does not need it
    from sekisho.local.facts_key import answer_for  # noqa: PLC0415
    from sekisho.probes.registry import registry  # noqa: PLC0415

    known = registry()
    expectations = read_policy(policy)
    started = now_text()
    raw = collect(known[name] for name in probes)
    named = expectations.host if expectations else os.uname().nodename
    name = named if HOST_NAME.fullmatch(named) else "localhost"
    nonce = secrets.token_hex(32)
    host = HostRecord(
        name=name,
        raw=raw,
        policy=expectations,
        collector=tool_name(),
        milliseconds=int(raw["milliseconds"]),
        answer=answer_for(host_nonce(nonce, name), tool_name(), digest(raw)),
    )
    by = "none" if expectations is None else "this machine's" if policy is None else "given"
    return AuditRun(
        mode="local",
        site=expectations.site if expectations else "",
        profile=expectations.profile if expectations else None,
        started=started,
        finished=now_text(),
        tool=tool_name(),
        hosts=(host,),
        kinds=kinds,
        nonce=nonce,
        scope=replace(scope, hosts=(name,), options=(("policy", by),)),
    )


def read_policy(policy: Path | None) -> HostPolicy | None:
    """Return the policy told, or this machine's own, or None when nothing is configured.

    Raises:
        SekishoError: the policy that was told cannot be read, or any policy is refused.

    """
    path = LOCAL_POLICY if policy is None else policy
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as bad:
        if policy is None:  # nothing configured, or not ours to read: judged without
            return None
        problem = Problem(str(path), "", bad.strerror or "unreadable", "a host's policy")
        raise SekishoError("the site policy cannot be read", (problem,)) from None
    try:
        return HostPolicy.parse(data, str(path))
    except SekishoError as bad:
        raise SekishoError("the site policy cannot be read", bad.problems) from None


def now_text() -> str:
    """Return the time as the reports write it: RFC 3339, UTC, seconds."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
