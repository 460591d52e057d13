"""`sekisho verify` for an evidence bundle: is it whole, whose is it, does judging again agree."""

from __future__ import annotations

import datetime as dt
import json as jsonlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from sekisho.catalogue.compiled import Sources
from sekisho.control.bundle.files import read_bundle, read_host_keys, read_signer
from sekisho.control.catalogue_files import load_sources
from sekisho.control.judging.hosts import bundle_judge
from sekisho.core.build import tool_name
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import write_atomic
from sekisho.evidence.bundle import MANIFEST
from sekisho.evidence.law_text import MAX_BYTES, LawText, read_law_text
from sekisho.evidence.verification import MIN_DIGEST, Trust, Verdicts, verify

_DIGEST = re.compile(rf"[0-9a-f]{{{MIN_DIGEST},64}}", re.ASCII)
_NAMED = 12


@dataclass(frozen=True, slots=True)
class Wish:
    """A report to write: where, which language at first, and the official text to set in it."""

    path: Path
    language: str
    law_text: Path | None = None


def is_bundle(path: Path) -> bool:
    """Return whether ``path`` looks like an evidence bundle (and not like a journal)."""
    return path.is_dir() and ((path / MANIFEST).exists() or (path / "findings.json").exists())


def verify_bundle(  # noqa: PLR0913 - the options of a command
    path: Path,
    key: Path | None = None,
    *,
    json: bool = False,
    accept: str | None = None,
    host_keys: Path | None = None,
    wish: Wish | None = None,
) -> int:
    """Verify the bundle in folder ``path`` and print what was found.

    Args:
        path: the folder `sekisho audit --out` wrote.
        key: the signer's public key (PEM), got from the signer and not from the bundle.
        json: print JSON instead of text.
        accept: digest of a catalogue to accept although it is not this tool's own.
        host_keys: folder of the hosts' public keys, ``HOST.pub.pem``.
        wish: the report to write of what was evaluated again, if any.

    Returns:
        0 whole, signed by ``key`` and judged alike, 1 changed, 2 could not tell. What the audit
        itself said of the hosts is printed and does not change the exit code.

    Raises:
        SekishoError: no folder, or a key or digest that cannot be used.

    """
    if accept is not None and not _DIGEST.fullmatch(accept):
        expected = f"{MIN_DIGEST} to 64 hex digits, as `sekisho verify` and the report show them"
        raise SekishoError(
            "no digest of a catalogue",
            (Problem("--catalogue", "", printable(accept), expected),),
        )
    trust = Trust(
        key=read_signer(key) if key is not None else None,
        catalogue=_own_catalogue(),
        accept=accept,
        host_keys=read_host_keys(host_keys) if host_keys is not None else None,
        now=dt.datetime.now(dt.UTC),
    )
    law = _law_text(wish.law_text) if wish is not None and wish.law_text is not None else None
    found = verify(read_bundle(path), trust=trust, tool=tool_name(), judging=bundle_judge)
    if wish is not None:
        _write_report(found, wish, law)
    if json:
        sys.stdout.write(jsonlib.dumps(as_json(found)) + "\n")
    else:
        sys.stdout.write(render(found, path) + "\n")
    return found.exit_code


def _law_text(path: Path) -> LawText:
    """Return the official text a reader brings; a `SekishoError` says what is wrong with it."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as bad:
        raise SekishoError(
            "cannot read the official text",
            (Problem(str(path), "", bad.strerror or "unreadable", "a file of UTF-8 text"),),
        ) from None
    return read_law_text(path.name, data, load_sources().items)


def _write_report(found: Verdicts, wish: Wish, law: LawText | None) -> None:
    """Write the report of a bundle that holds; of one that does not, say that there is none."""
    if found.broken or found.catalogue is None or found.run is None or found.judged is None:
        sys.stderr.write(f"no report is written to {wish.path}: the bundle does not hold, or ")
        sys.stderr.write("could not be evaluated again\n")
        return
    from sekisho.evidence.html import render as render_report  # noqa: PLC0415 - Jinja2

    page = render_report(
        found.catalogue,
        found.run,
        found.judged,
        evidence=found.evidence or "",
        first=wish.language,
        law=law,
        checked=_checked(found),
    )
    try:
        write_atomic(wish.path, page.encode(), mode=0o644)
    except OSError as bad:
        raise SekishoError(
            "cannot write the report",
            (Problem(str(wish.path), "", bad.strerror or str(bad), "a file that can be written"),),
        ) from None
    sys.stderr.write(f"report 報告書: {wish.path}\n")


def _checked(found: Verdicts) -> dict[str, str]:
    if not found.vouched:
        return {"en": "the signature is not verified", "ja": "署名は検証していない"}
    words = ("whole", "完全") if found.exit_code == 0 else ("could not tell", "判定不能")
    return {
        "en": f"{words[0]}, signed by {found.signed_by}",
        "ja": f"{words[1]}（署名者の鍵：{found.signed_by}）",
    }


def _own_catalogue() -> Sources | None:
    try:
        return load_sources()
    except SekishoError:
        return None  # said as "could not tell": there is nothing to compare with


def as_json(found: Verdicts) -> dict[str, object]:
    """Return the result as plain JSON values."""
    run = found.run
    return {
        "schema": 2,
        "kind": "sekisho-verify-bundle",
        "broken": found.broken,
        "unknown": found.unknown,
        "notes": found.notes,
        "evidence": found.evidence,
        "signed_by": found.signed_by,
        "signed_by_given_key": found.vouched,
        "catalogue": {
            "digest": found.digest,
            "accepted": found.accepted,
            "same": None if found.difference is None else not found.difference,
            "difference": None if found.difference is None else found.difference.as_json(),
        },
        "run": None
        if run is None
        else {
            "site": run.site,
            "started": run.started,
            "finished": run.finished,
            "tool": run.tool,
            "hosts": [host.as_json() for host in run.hosts],
            "scope": run.scope.as_json(),
            "evidence": list(run.kinds),
        },
        "left_out": None if found.left_out is None else found.left_out.as_json(),
        "judged": None
        if found.judged is None
        else {
            "items": {row.item.id: row.verdict.value for row in found.judged.rows},
            "exit_code": found.judged.exit_code,
        },
        "exit_code": found.exit_code,
    }


def render(found: Verdicts, path: Path) -> str:
    """Return the result for a terminal."""
    lines = [f"Evidence bundle 証拠一式  {printable(str(path), 200)}"]
    run = found.run
    if run is not None:
        answered = sum(1 for host in run.hosts if host.reason is None)
        signed = sum(host.signed for host in run.hosts)
        lines.append(
            f"  {printable(run.site or 'local', 80)}, {printable(run.started, 40)} to "
            f"{printable(run.finished, 40)}, by {printable(run.tool, 80)}"
        )
        lines.append(
            f"  scope 範囲: {answered} of {len(run.hosts)} hosts answered, {signed} signed; the "
            f"site has {len(run.scope.hosts)}; evidence: {', '.join(run.kinds)}"
        )
    if found.left_out is not None and run is not None:
        for what, told in found.left_out.lines(run.scope, _NAMED):
            lines.append(f"  LEFT OUT 除外  {what} {printable(told, 2000)}")
    lines.extend(f"  CHANGED 改変  {line}" for line in found.broken)
    lines.extend(f"  could not tell 判定不能  {line}" for line in found.unknown)
    if found.signed_by is None:
        lines.append("  signature 署名: none なし")
    else:
        whose = "the key given" if found.vouched else "not vouched for"
        lines.append(f"  signature 署名: {found.signed_by} ({whose})")
    if found.evidence is not None:
        lines.append(f"  evidence 証拠一式 (SHA-256): {found.evidence}")
    lines.extend(f"  note 注意: {line}" for line in found.notes)
    if found.judged is not None and not found.broken:
        counts = sorted({row.verdict.value for row in found.judged.rows})
        told = ", ".join(
            f"{sum(row.verdict.value == verdict for row in found.judged.rows)} {verdict}"
            for verdict in counts
        )
        lines.append(f"  judged again 再判定: alike; items: {told}")
    word = {0: "whole 完全", 1: "CHANGED 改変あり", 2: "could not tell 判定不能"}[found.exit_code]
    lines.append(f"  verdict 判定: {word}")
    if found.exit_code == 2 and found.difference and not found.accepted:
        lines.append(
            "  -> only if somebody you trust published this catalogue: "
            f"--catalogue {(found.digest or '')[:MIN_DIGEST]}"
        )
    return "\n".join(lines)
