"""Every regular expression of the tree, found by itself, and texts made to cost it the most.

A pattern backtracks when one text can be split in many ways. So from each pattern texts are made
that it takes, and in each of them every short stretch is repeated many times, with an end that the
pattern does not take. Debian's Python has no engine without backtracking: the cost is measured.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import re._constants as sre
import re._parser as sre_parser
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

METHODS = ("match", "search", "fullmatch", "findall", "finditer", "sub", "split")
SHORT = (24, 32, 48, 64, 96, 192, 512, 2048, 8192)
SMALL, BIG = 8 * 1024, 32 * 1024
#: Below this a measurement is noise; the square of it would be seen all the same.
FLOOR_S = 0.004
MOST = 6.0
MAX_SAMPLES = 12
_CATEGORY = {
    sre.CATEGORY_DIGIT: "7", sre.CATEGORY_SPACE: " ", sre.CATEGORY_WORD: "a",
    sre.CATEGORY_NOT_DIGIT: "a", sre.CATEGORY_NOT_SPACE: "a", sre.CATEGORY_NOT_WORD: "-",
}  # fmt: skip


@dataclass(frozen=True)
class Use:
    """One pattern and a way in which the tree uses it."""

    where: str
    pattern: re.Pattern[Any]
    method: str


def uses(root: Path) -> list[Use]:
    """Return every use of a regular expression in the package: named patterns, and literals."""
    found: dict[tuple[Any, ...], Use] = {}
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not any("re" in names for names in _imported(tree)):
            continue
        name = "sekisho." + ".".join(path.relative_to(root).with_suffix("").parts)
        held = vars(importlib.import_module(name))
        for node in ast.walk(tree):
            for use in _use(node, name, held):
                key = (use.pattern.pattern, use.pattern.flags, use.method)
                found.setdefault(key, use)
    return list(found.values())


def _imported(tree: ast.Module) -> Iterator[list[str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # A pattern that another module made is a pattern of this one as well.
            yield ["re" for alias in node.names if alias.name.isupper()]


def _use(node: ast.AST, module: str, held: dict[str, Any]) -> Iterator[Use]:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return
    if node.func.attr not in METHODS or not isinstance(node.func.value, ast.Name):
        return
    where = f"{module}:{node.lineno}"
    owner = held.get(node.func.value.id)
    if isinstance(owner, re.Pattern):
        yield Use(where, owner, node.func.attr)
    elif owner is re and isinstance(node.args[0], ast.Constant):
        flags = [
            one
            for one in node.args[1:]
            if {name.id for name in ast.walk(one) if isinstance(name, ast.Name)} == {"re"}
        ]
        flags += [one.value for one in node.keywords if one.arg == "flags"]
        value = eval(ast.unparse(flags[0]), {"re": re}) if flags else 0  # noqa: S307 - own code
        yield Use(where, re.compile(node.args[0].value, value), node.func.attr)


def _samples(tree: Any, groups: dict[int, str]) -> list[str]:
    """Return texts that a parsed pattern takes, one for each of its branches."""
    found = [""]
    for op, value in tree:
        found = [
            head + tail
            for head, tail in itertools.islice(
                itertools.product(found, _of(op, value, groups)), MAX_SAMPLES
            )
        ]
    return found


def _of(op: Any, value: Any, groups: dict[int, str]) -> list[str]:  # noqa: PLR0911 - one a kind
    if op is sre.LITERAL:
        return [chr(value)]
    if op is sre.NOT_LITERAL:
        return ["a" if value != ord("a") else "b"]
    if op is sre.ANY:
        return ["x"]
    if op is sre.IN:
        return [_member(value)]
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, most, inner = value
        told = _samples(inner, groups)
        return [one * min(max(least, 2), most) for one in told] + ([""] if least == 0 else [])
    if op is sre.SUBPATTERN:
        told = _samples(value[3], groups)
        groups[value[0]] = told[0]
        return told
    if op is sre.ATOMIC_GROUP:
        return _samples(value, groups)
    if op is sre.BRANCH:
        return [text for branch in value[1] for text in _samples(branch, groups)]
    if op is sre.GROUPREF:
        return [groups.get(value, "")]
    return [""]  # places and assertions take nothing


def _member(members: Any) -> str:
    wanted = [chr(c) for c in (*range(97, 123), *range(48, 58), *range(1, 256))]
    return next((c for c in wanted if _holds(members, c)), "a")


def _holds(members: Any, char: str) -> bool:
    inverted = members[0][0] is sre.NEGATE
    for op, value in members[1:] if inverted else members:
        if (
            (op is sre.LITERAL and ord(char) == value)
            or (op is sre.RANGE and value[0] <= ord(char) <= value[1])
            or (op is sre.CATEGORY and _CATEGORY.get(value) == char)
        ):
            return not inverted
    return inverted


def _unlike(parsed: Any) -> Iterator[str]:
    """Yield one character of each kind that the pattern can tell apart."""
    sets: list[Any] = [[(sre.CATEGORY, category)] for category in _CATEGORY]
    sets += list(_sets(parsed))
    seen = set()
    for char in [*map(chr, range(256)), "\u2028"]:
        kind = (char == "\n", *(_holds(members, char) for members in sets))
        if kind not in seen:
            seen.add(kind)
            yield char


def _sets(node: Any) -> Iterator[Any]:
    if isinstance(node, tuple) and len(node) == 2 and node[0] in (sre.LITERAL, sre.NOT_LITERAL):
        yield [(sre.LITERAL, node[1])]
    elif isinstance(node, tuple) and len(node) == 2 and node[0] is sre.IN:
        yield node[1]
    elif isinstance(node, (list, tuple, sre_parser.SubPattern)):
        for part in node:
            yield from _sets(part)


def pumped(pattern: re.Pattern[Any]) -> Iterator[tuple[str, Callable[[int], str]]]:
    """Yield (what it is, text by its size) that may cost the pattern most."""
    raw = pattern.pattern
    source = raw.decode("latin-1") if isinstance(raw, bytes) else raw
    parsed = sre_parser.parse(source, pattern.flags)
    samples = dict.fromkeys(_samples(parsed, {}))
    for char in dict.fromkeys([*_unlike(parsed), *"".join(samples)]):
        yield repr(char), lambda size, char=char: char * size  # type: ignore[misc]
    for sample in samples:
        for end in dict.fromkeys(("\x00", "\n!", sample[-1:])):
            for start in range(len(sample)):
                for length in (1, 2, 3, 8, len(sample)):
                    unit, rest = sample[start : start + length], sample[start + length :]
                    if len(unit) == length or length == len(sample):
                        # A text that is taken up to here, one that is taken but for its end.
                        for after in (end, rest + end):
                            yield (
                                f"{sample!r}[{start}:+{length}]{after!r}",
                                partial(_pumped, sample[:start], unit, after),
                            )


def _pumped(front: str, unit: str, after: str, size: int) -> str:
    return front + unit * (size // len(unit)) + after


def seconds(use: Use, text: str, rounds: int = 1) -> float:
    """Return the processor time of one use, the least of some rounds."""
    held: Any = text.encode("utf-8") if isinstance(use.pattern.pattern, bytes) else text
    call = getattr(use.pattern, use.method)
    least = float("inf")
    for _ in range(rounds):
        before = time.process_time()
        found = call(held[:0], held) if use.method == "sub" else call(held)
        if use.method == "finditer":
            for _match in found:
                pass
        least = min(least, time.process_time() - before)
    return least


def costly(use: Use) -> Iterator[str]:
    """Yield the texts whose fourfold costs more than `MOST` times as much.

    Each begins short: a pattern that doubles its ways with each letter would never answer.
    """
    for what, text in pumped(use.pattern):
        for size in (*SHORT, BIG):
            # A stall of the machine is no cost of the pattern: what looks costly is asked again.
            if (took := seconds(use, text(size))) > MOST * FLOOR_S and (
                took := seconds(use, text(size), 2)
            ) > MOST * FLOOR_S:
                break
        else:
            continue
        if size != BIG:
            yield f"{what}: {took * 1000:.0f} ms for {size} characters"
            continue
        least, most = max(seconds(use, text(SMALL), 3), FLOOR_S), min(took, seconds(use, text(BIG)))
        if most > MOST * least:
            yield f"{what}: {least * 1000:.1f} ms, fourfold {most * 1000:.1f} ms"
