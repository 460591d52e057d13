"""Texts that make a reader work, and how much processor time it takes for them.

Each reader is given its own well-formed outcome with one part of it made huge: one byte, one
separator, one of its own words or lines again and again, the same lines numbered, more files.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sekisho.probes.model import Probe, Run

SMALL, BIG, HUGE = 64 * 1024, 256 * 1024, 1024 * 1024
#: Below this a measurement is noise; six times of it is still nothing.
FLOOR_S = 0.008
MOST = 6.0
#: What the readers split, quote and nest by, beside the single bytes, each of which is tried.
SEPARATORS = (
    "\n",
    " ",
    "\t",
    "=",
    ":",
    ",",
    ";",
    "#",
    "/",
    "-",
    "'",
    '"',
    "\\",
    "(",
    "[",
    "{",
    "\x00",
)
UNITS = (
    *("\u2028", "a=", "a:", "a,", "a ", "a\n", "1 ", "1.", "/a", "\\\n", " =", "a=b\n", '["'),
    *("()", "[]", "{}", '{"":', "[],", "{},", "deb [ ", "a\t"),
)
_WORD = re.compile(r"[^\s,:;=\"'{}\[\]()]{1,40}")


def seconds(call: Callable[[], Any], rounds: int = 1) -> float:
    """Return the processor time of a call, the least of some rounds; what it raises is its own."""
    least = float("inf")
    gc.disable()  # when it runs is not the reader's doing
    try:
        for _ in range(rounds):
            before = time.process_time()
            with contextlib.suppress(Exception):  # a refusal is as good as an answer here
                call()
            least = min(least, time.process_time() - before)
    finally:
        gc.enable()
    return least


def too_much(small: Callable[[], Any], big: Callable[[], Any]) -> str:
    """Return how a call's cost grew from 64 to 256 KiB when that is too much, or nothing."""
    if (most := seconds(big)) <= MOST * FLOOR_S:
        return ""
    if most <= MOST * max(least := seconds(small), FLOOR_S):
        return ""
    least, most = max(min(least, seconds(small, 3)), FLOOR_S), min(most, seconds(big, 3))
    return f"{least * 1000:.0f} ms, fourfold {most * 1000:.0f} ms" if most > MOST * least else ""


def repeated(unit: str, size: int) -> str:
    """Return ``unit`` again and again, ``size`` characters in all."""
    return (unit * (size // len(unit) + 1))[:size]


def texts(seed: str, size: int) -> Iterator[tuple[str, str]]:
    """Yield (what it is, text): single bytes, separators, the seed's own lines and words."""
    for value in range(256):
        yield f"byte {value:#04x}", chr(value) * size
    for unit in UNITS:
        yield f"all {unit!r}", repeated(unit, size)
    lines = [line for line in dict.fromkeys(seed.split("\n")) if line][:2]
    for line in lines:
        line = line[:200]  # noqa: PLW2901 - the front of it is enough
        yield f"line {line[:40]!r}", seed + "\n" + repeated(line + "\n", size)
        yield f"numbered {line[:40]!r}", seed + "\n" + _numbered(line, size)
        words = list(_WORD.finditer(line))
        for word in (words[0], words[-1]) if words else ():
            start, end = word.span()
            stretched = line[:start] + repeated(word[0][0], size) + line[end:]
            yield f"stretched {word[0]!r} of {line[:40]!r}", seed + "\n" + stretched
            again = line[:end] + repeated(" " + word[0], size) + line[end:]
            yield f"again {word[0]!r} of {line[:40]!r}", seed + "\n" + again
        middle = len(line) // 2
        for unit in (" ", '"'):
            yield f"{unit!r} in {line[:40]!r}", line[:middle] + repeated(unit, size) + line[middle:]


def _numbered(line: str, size: int) -> str:
    """Return a line many times, each with other numbers and another first word."""
    found: list[str] = []
    total = number = 0
    while total < size:
        number += 1
        text = re.sub(r"[0-9]{1,9}", lambda got, n=number: str((int(got[0]) + n) % 10**9), line)
        text = re.sub(r"[A-Za-z]{3,}", lambda got, n=number: f"{got[0]}{n}", text, count=1)
        found.append(text)
        total += len(text) + 1
    return "\n".join(found)


def outcomes(
    probe: Probe, seed: Mapping[str, Any], label: str, size: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (what it is, outcome) of a probe with one operation's part made huge."""
    held = seed[label]
    if isinstance(probe.operations[label], Run):
        for what, text in texts(held.get("stdout", ""), size):
            yield what, {**seed, label: {"rc": 0, "truncated": False, **held, "stdout": text}}
        return
    files: dict[str, Any] = held["files"]
    for path in _own_readers(probe.operations[label].globs, files):
        for what, text in texts(files[path]["text"], size):
            entry = {**files[path], "text": text}
            yield f"{path}: {what}", {**seed, label: {"files": {**files, path: entry}}}
    for path in list(files)[:3]:
        for what, more in _more_files(path, files[path], size):
            yield what, {**seed, label: {"files": {**files, **more}}}


def whole(
    probe: Probe, seed: Mapping[str, Any], label: str, unit: str, size: int
) -> dict[str, Any]:
    """Return an outcome with one operation's output, or its first file, all of ``unit``."""
    held, text = seed[label], repeated(unit, size)
    if isinstance(probe.operations[label], Run):
        return {**seed, label: {"rc": 0, "truncated": False, **held, "stdout": text}}
    files: dict[str, Any] = held["files"]
    path = next(iter(_own_readers(probe.operations[label].globs, files)), None)
    more = {} if path is None else {path: {**files[path], "text": text}}
    return {**seed, label: {"files": files | more}}


def _own_readers(globs: tuple[str, ...], files: Mapping[str, Any]) -> list[str]:
    """Return one file with content for each glob: a name of its own has a reader of its own."""
    found = [
        next((p for p in files if files[p].get("text") and fnmatch.fnmatchcase(p, glob)), None)
        for glob in globs
    ]
    return [path for path in dict.fromkeys(found) if path is not None][:2]


def _more_files(path: str, entry: Any, size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    folder, _, name = path.rpartition("/")
    for what, pattern in (("files", "{0}/x{2}{1}"), ("folders", "{0}{2}/{1}")):
        # What an entry takes on the wire besides its name and text is about as much.
        each = len(path) + 80 + len(entry.get("text") or "")
        found = {pattern.format(folder, name, n): entry for n in range(size // each)}
        yield f"{what} {path}", found


def everything(seed: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return an outcome with each of its operations made huge at once: files, and their lines."""
    whole: dict[str, Any] = copy.deepcopy(dict(seed))
    each = size // len(whole)
    for held in whole.values():
        if "files" in held:
            for path, entry in list(held["files"].items())[:2]:
                for _, more in _more_files(path, entry, each // 4):
                    held["files"] |= more
        else:
            lines = [line for line in held.get("stdout", "").split("\n") if line]
            held["stdout"] = "\n".join(_numbered(line, each // len(lines)) for line in lines)
    return whole
