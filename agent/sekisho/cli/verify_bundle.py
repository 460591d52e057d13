"""`sekisho verify` for an evidence bundle: is it whole, whose is it, does judging again agree."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path

from sekisho import __version__
from sekisho.edge.bundle_io import read_bundle, read_public_key
from sekisho.edge.judging import bundle_judge
from sekisho.errors import printable
from sekisho.evidence.bundle import MANIFEST
from sekisho.evidence.verification import Verdicts, verify

TOOL = f"sekisho {__version__}"


def is_bundle(path: Path) -> bool:
    """Return whether ``path`` looks like an evidence bundle (and not like a journal)."""
    return path.is_dir() and ((path / MANIFEST).exists() or (path / "findings.json").exists())


def verify_bundle(path: Path, key: Path | None = None, *, json: bool = False) -> int:
    """Verify the bundle in folder ``path`` and print what was found.

    Args:
        path: the folder `sekisho audit --out` wrote.
        key: the signer's public key (PEM), got from the signer and not from the bundle.
        json: print JSON instead of text.

    Returns:
        0 whole and judged alike, 1 changed, 2 could not tell. What the audit itself said of the
        hosts is printed and does not change the exit code.

    Raises:
        SekishoError: no folder, or a key that cannot be read.

    """
    trusted = read_public_key(key) if key is not None else None
    found = verify(read_bundle(path), key=trusted, tool=TOOL, judging=bundle_judge)
    if json:
        sys.stdout.write(jsonlib.dumps(as_json(found), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(render(found, path) + "\n")
    return found.exit_code


def as_json(found: Verdicts) -> dict[str, object]:
    """Return the result as plain JSON values."""
    return {
        "schema": 1,
        "kind": "sekisho-verify-bundle",
        "broken": found.broken,
        "unknown": found.unknown,
        "notes": found.notes,
        "signed_by": found.signed_by,
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
    lines = [f"Evidence bundle 証拠  {printable(str(path), 200)}"]
    run = found.run
    if run is not None:
        answered = sum(1 for host in run.hosts if host.reason is None)
        lines.append(
            f"  {printable(run.site or 'local', 80)}, {printable(run.finished, 40)}, "
            f"{answered} of {len(run.hosts)} hosts answered, by {printable(run.tool, 60)}"
        )
    lines.extend(f"  CHANGED 改変  {line}" for line in found.broken)
    lines.extend(f"  could not tell 判定不能  {line}" for line in found.unknown)
    lines.append(f"  signature 署名: {found.signed_by or 'none 無し'}")
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
    return "\n".join(lines)
