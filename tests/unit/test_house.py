"""The house's own rules: imports point inward, and the guards bite."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

PURE = (
    "site", "catalogue", "probes", "flows", "devices", "terminals", "activity", "containment",
    "journal", "transfer", "evidence", "orders",
)  # fmt: skip
EFFECTS = {
    "subprocess", "socket", "time", "pyudev", "psutil", "nftables", "paramiko",
    "prometheus_client",
}  # fmt: skip
OUTER = {"edge", "service", "cli", "console"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(repository: Path) -> list[Path]:
    return sorted((repository / "agent/sekisho").rglob("*.py"))


def test_pure_rooms_import_no_effects(repository: Path) -> None:
    seen, wrong = 0, []
    for path in modules(repository):
        room = path.relative_to(repository / "agent/sekisho").parts[0]
        if room not in PURE:
            continue
        seen += 1
        for name in imports(path):
            parts = name.split(".")
            if parts[0] in EFFECTS or (parts[0] == "sekisho" and set(parts[1:2]) & OUTER):
                wrong.append(f"{path.relative_to(repository)} imports {name}")
    assert seen > 20, "no pure room was looked at"
    assert wrong == []


def test_the_edge_does_not_import_cli_or_service(repository: Path) -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in (repository / "agent/sekisho/edge").glob("*.py")
        for name in imports(path)
        if name.startswith(("sekisho.cli", "sekisho.service", "sekisho.console"))
    ]
    assert wrong == []


def test_modules_stay_readable(repository: Path) -> None:
    long = {
        str(path.relative_to(repository)): lines
        for path in modules(repository)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}


def test_the_guard_refuses_programs() -> None:
    with pytest.raises(AssertionError, match="mark the test"):
        subprocess.run(["true"], check=True)


def test_the_guard_refuses_writes_outside() -> None:
    with pytest.raises(AssertionError, match="outside the test's own folder"):
        Path("/etc/sekisho-guard-test").write_text("no", encoding="utf-8")
    assert not Path("/etc/sekisho-guard-test").exists()
