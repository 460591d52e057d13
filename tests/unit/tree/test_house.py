"""The house's own rules: pure rooms have no way to touch the machine, and the guards bite.

Which room may import which is `.importlinter`'s; `make lint` checks it.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

#: Rooms and modules with effects. Every other module of the package is pure.
EFFECTS = (
    "host",
    "control",
    "local",
    "cli",
    "core/build.py",
    "core/files.py",
    "core/safe_files.py",
)
#: What pure modules may import beside each other: nothing that reads a file, clock or environment.
ALLOWED = {
    "__future__", "base64", "binascii", "collections", "collections.abc", "contextlib",
    "cryptography", "dataclasses", "datetime", "decimal", "enum", "fnmatch", "functools", "hashlib",
    "hmac", "html", "io", "ipaddress", "itertools", "jinja2", "json", "markupsafe", "posixpath",
    "re", "shlex", "struct", "sys", "types", "typing", "unicodedata", "yaml", "z3", "zlib",
}  # fmt: skip
#: module → what it alone may import, too.
ALSO = {
    "probes/registry.py": {"importlib", "pkgutil", "sekisho"},  # finds the probes
    "catalogue/patterns.py": {"warnings", "re._constants", "re._parser"},  # parses patterns
}
#: What of an allowed module would be an effect all the same.
_CALLS = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint"}
_METHODS = {
    ("datetime", "now"), ("datetime", "today"), ("datetime", "utcnow"), ("date", "today"),
    ("io", "open"), ("io", "open_code"), ("io", "FileIO"), ("yaml", "load"),
}  # fmt: skip
_SYS = {"byteorder", "maxsize"}


def pure_modules(repository: Path) -> dict[str, Path]:
    root = repository / "agent/sekisho"
    return {
        name: path
        for path in sorted(root.rglob("*.py"))
        if not (name := path.relative_to(root).as_posix()).startswith(EFFECTS)
        and name not in {"__init__.py", "__main__.py"}
    }


def effects(tree: ast.AST, more: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Return what of a module is, or could be, an effect."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [one.name for one in names if not _may(one.name, more)]
            case ast.ImportFrom(module=str(module)) if not _may(module, more):
                found.append(module)
            case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
                found.append(f"{name}()")
            case ast.Attribute(value=ast.Name(id=owner), attr=attr):
                if (owner, attr) in _METHODS or (owner == "sys" and attr not in _SYS):
                    found.append(f"{owner}.{attr}")
    return found


def _may(module: str, more: set[str]) -> bool:
    top = module.partition(".")[0]
    return (
        module in more
        or module in ALLOWED
        or top in {"cryptography", "jinja2", "z3"}
        or (module.startswith("sekisho."))
    )


def test_pure_rooms_have_no_effects(repository: Path) -> None:
    modules = pure_modules(repository)
    assert len(modules) > 120, "the pure rooms were not found"
    wrong = {
        name: found
        for name, path in modules.items()
        if (found := effects(ast.parse(path.read_text(encoding="utf-8")), ALSO.get(name, set())))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "text",
    [
        "from pathlib import Path", "import os", "from os import environ", "import time",
        "from datetime import datetime\nx = datetime.now()", "x = open('/etc/passwd')",
        "import sys\nx = sys.stdin", "x = __import__('os')", "from importlib import resources",
        "import io\nx = io.open('a')", "import socket", "def f():\n    import subprocess",
    ],
)  # fmt: skip
def test_the_gate_finds_each_effect(text: str) -> None:
    assert effects(ast.parse(text))


def test_modules_stay_readable(repository: Path) -> None:
    long = {
        str(path.relative_to(repository)): lines
        for path in sorted((repository / "agent/sekisho").rglob("*.py"))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert long == {}


def test_the_guard_refuses_programs() -> None:
    with pytest.raises(AssertionError, match="mark the test"):
        subprocess.run(["true"], check=True)


def test_the_guard_refuses_writes_outside() -> None:
    with pytest.raises(AssertionError, match="outside the test's own folder"):
        Path("/etc/sekisho-guard-test").write_text("no", encoding="utf-8")
    assert not Path("/etc/sekisho-guard-test").exists()
