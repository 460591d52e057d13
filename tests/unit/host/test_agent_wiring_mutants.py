"""Each statement of the agent's wiring is needed: without it a test of the assembly fails.

Of every module named in `WIRING` the statements of the functions named there are taken out one by
one, and so is each entry of a table. What is left is imported in the place of the real module, and
`test_agent_assembly` runs on it until one of its tests fails.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import inspect
import itertools
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import test_agent_assembly

from assemblyworld import AGENT, EndlessError, World

pytestmark = [pytest.mark.process, pytest.mark.slow]

CPU_S, TEST_S = 10.0, 60.0  # a test of the assembly takes less than a second of either
PROTOCOL = tuple(
    f"*Part.{name}"
    for name in ("NAME", "CHECKS", "EVERY_S", "of", "watch", "apply", "reload", "looks", "close")
)
#: Module → what of it wires: names, with * for any.
WIRING = {
    "main": ("Agent.*",),
    "table": ("PARTS", "checks", "labels"),
    "part": ("Part.*", "Common.*"),
    "reporter": ("Book.up", "Book.looked", "Book.parts"),
    "loop": ("Loop.once",),  # the rest is `test_service_loop`'s
    "parts.health": ("HealthPart.*",),
    "parts.journal": ("JournalPart.*",),
    "parts.metrics": ("MetricsPart.*",),
    "parts.activity": PROTOCOL,
    "parts.devices": PROTOCOL,
    "parts.exceptions": PROTOCOL,
    "parts.files": PROTOCOL,
    "parts.intake": (*PROTOCOL, "IntakePart.look"),
    "parts.lines": PROTOCOL,
    "parts.listeners": PROTOCOL,
    "parts.modules": PROTOCOL,
    "parts.network": (*PROTOCOL, "NetworkPart.look"),
    "parts.policy": (*PROTOCOL, "PolicyPart.look"),
    "parts.rules": PROTOCOL,
}
#: What may be taken out unnoticed, and why.
EQUIVALENT = {
    "part.Part.of": "every part has its own; the parent's says so to the type checker",
    "part.Part.of: raise NotImplementedError": "the same",
    "part.Part.look": "every part has its own, or names others in `looks`",
}


@dataclass(frozen=True)
class Mutant:
    """A module with one thing taken out."""

    module: str
    name: str
    tree: ast.Module


def sources() -> dict[str, str]:
    """Return the wiring modules' texts."""
    found = {}
    for name in WIRING:
        path = importlib.import_module(f"{AGENT}.{name}").__file__
        assert path is not None
        found[name] = Path(path).read_text(encoding="utf-8")
    return found


def places(module: str, tree: ast.Module) -> Iterator[tuple[str, list[Any], int]]:
    """Yield what can be taken out: its name, and the list and index it stands at."""
    for scope, body, at in scopes(tree):
        if any(fnmatchcase(scope, wanted) for wanted in WIRING[module]):
            if "." in scope:  # a class without it has its parent's, or none
                yield f"{module}.{scope}", body, at
            value = body[at].value if isinstance(body[at], ast.AnnAssign) else body[at]
            for node in ast.walk(value):
                for what, held, index in (*_statements(node), *_entries(node, body[at])):
                    yield f"{module}.{scope}: {what}", held, index


def _statements(node: ast.AST) -> Iterator[tuple[str, list[Any], int]]:
    for field in ("body", "orelse", "finalbody"):
        body = getattr(node, field, None)
        for index, one in enumerate(body if isinstance(body, list) else ()):
            text = isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
            if not text and not isinstance(one, ast.Pass | ast.Nonlocal):
                yield ast.unparse(one).splitlines()[0], body, index


def _entries(node: ast.AST, owner: ast.AST) -> Iterator[tuple[str, list[Any], int]]:
    """Yield the rows of a table: of names in a module, of tuples in a function."""
    if isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Load):
        rows = all(isinstance(one, ast.Tuple) for one in node.elts)
        if rows or not isinstance(owner, ast.FunctionDef):
            for index, one in enumerate(node.elts):
                yield f"entry {ast.unparse(one)}", node.elts, index


def scopes(tree: ast.Module) -> Iterator[tuple[str, list[Any], int]]:
    """Yield functions and values of a module and its classes: name, and where they stand."""
    for node in tree.body:
        owner, head = (node, f"{node.name}.") if isinstance(node, ast.ClassDef) else (tree, "")
        for index, one in enumerate(owner.body):
            if owner is tree and one is not node:
                continue
            if isinstance(one, ast.FunctionDef):
                yield f"{head}{one.name}", owner.body, index
            elif isinstance(one, ast.Assign | ast.AnnAssign) and one.value is not None:
                target = one.targets[0] if isinstance(one, ast.Assign) else one.target
                yield f"{head}{ast.unparse(target)}", owner.body, index


def mutants() -> list[Mutant]:
    """Return every module with one thing taken out."""
    found, names = [], set()
    for module, text in sources().items():
        whole = ast.parse(text)
        count = len(list(places(module, whole)))
        for number in range(count):
            tree = copy.deepcopy(whole)
            name, where, index = next(itertools.islice(places(module, tree), number, None))
            where[index : index + 1] = [ast.Pass()] if isinstance(where[index], ast.stmt) else []
            while name in names:
                name += " (again)"
            names.add(name)
            found.append(Mutant(module, name, ast.fix_missing_locations(tree)))
    return found


@contextlib.contextmanager
def instead(mutant: Mutant | None) -> Iterator[None]:
    """Import the agent's modules anew, one of them as the mutant says."""
    held = {name: one for name, one in sys.modules.items() if f"{name}.".startswith(f"{AGENT}.")}
    host, package = importlib.import_module("sekisho.host"), importlib.import_module(AGENT)
    _forget()
    try:
        if mutant is not None:
            name = f"{AGENT}.{mutant.module}"
            above, _, leaf = name.rpartition(".")
            sys.modules[name] = module = ModuleType(name)
            setattr(importlib.import_module(above), leaf, module)
            exec(compile(mutant.tree, f"<{mutant.module} mutated>", "exec"), module.__dict__)  # noqa: S102 - our own source, less a line
        yield
    finally:
        _forget()
        sys.modules.update(held)
        host.agent = package  # type: ignore[attr-defined]


def _forget() -> None:
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{AGENT}.")]:
        del sys.modules[name]


def trials() -> list[tuple[str, Callable[[World], None]]]:
    """Return the assembly's tests, each with one set of its parameters."""
    found = []
    for name, test in vars(test_agent_assembly).items():
        if not name.startswith("test_"):
            continue
        marks = [one for one in getattr(test, "pytestmark", []) if one.name == "parametrize"]
        assert len(marks) <= 1, f"{name}: one list of parameters at most"
        assert set(inspect.signature(test).parameters) == {"world", *(m.args[0] for m in marks)}
        key, values = marks[0].args if marks else ("", [None])
        for value in values:
            given = {key: value} if key else {}
            found.append((f"{name}[{value}]", lambda world, t=test, g=given: t(world, **g)))
    return found


def fails(trial: Callable[[World], None]) -> str:
    """Run one test and return why it failed; "" when it did not."""

    def late(_number: int, _frame: Any) -> None:
        raise EndlessError("it does not end")

    root = Path(tempfile.mkdtemp(prefix="asm", dir="/dev/shm"))
    before = [(number, signal.signal(number, late)) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, CPU_S, 1.0)
    signal.setitimer(signal.ITIMER_REAL, TEST_S, 1.0)
    try:
        trial(World(root))
    except (Exception, EndlessError, pytest.fail.Exception) as why:  # noqa: BLE001 - any failure is one
        return repr(why)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)
        shutil.rmtree(root, ignore_errors=True)
    return ""


def survivors(found: list[Mutant]) -> list[str]:
    """Return the mutants that no test notices."""
    order, alive = trials(), []
    for mutant in found:
        why = ""
        for trial in list(order):
            with contextlib.suppress(Exception):
                # A module that cannot even be imported fails every test.
                why = "it cannot be imported"
                with instead(mutant):
                    why = fails(trial[1])
            if why:
                order.remove(trial)
                order.insert(0, trial)  # who noticed this one notices its neighbour as well
                break
        if not why:
            alive.append(mutant.name)
    return alive


def test_imported_anew_and_whole_every_test_of_the_assembly_passes() -> None:
    with instead(None):
        assert [(name, why) for name, trial in trials() if (why := fails(trial))] == []


def test_no_statement_of_the_wiring_can_be_taken_out_unnoticed() -> None:
    found = mutants()
    assert len(found) > 50, "the wiring was not found"
    assert set(EQUIVALENT) <= {mutant.name for mutant in found}, "a mutant that is no more"
    assert sorted(survivors(found)) == sorted(EQUIVALENT)
