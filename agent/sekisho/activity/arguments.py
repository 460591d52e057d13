"""The arguments of a command, out of its EXECVE records. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sekisho.activity.records import SEPARATOR, decode, text_of, unquote

#: Text of one command kept in its entry; the rest is cut, and the entry says so.
MAX_ARGV_CHARACTERS = 16 * 1024
MAX_ARGUMENTS = 4096

_ARGUMENT = re.compile(rb'(?:^| )a([0-9]+)(?:\[([0-9]+)\])?=("[^"]*"|[^ ]*)')


def parse_argv(bodies: Iterable[bytes]) -> tuple[tuple[str, ...], bool]:
    """Return the arguments of an event's EXECVE records, and whether they are all there.

    A long argument comes in pieces (``a1_len=… a1[0]=… a1[1]=…``) over several records.
    """
    bodies = list(bodies)
    if len(bodies) == 1 and len(bodies[0]) < MAX_ARGV_CHARACTERS:
        quick = _quick_argv(bodies[0])
        if quick is not None:
            return quick, True
    return _slow_argv(bodies)


def _quick_argv(body: bytes) -> tuple[str, ...] | None:
    """Read an ordinary record: the kernel writes no blank inside a value. None if it is not one."""
    count, *words = body.partition(SEPARATOR)[0].rstrip().split(b" ")
    if count != b"argc=%d" % len(words) or len(words) > len(_NAMES):
        return None
    argv = []
    for name, word in zip(_NAMES, words, strict=False):
        if not word.startswith(name):
            return None
        raw = word[len(name) :]
        if raw[:1] != b'"':
            argv.append(text_of(raw) if raw not in (b"(null)", b"?") else decode(raw))
        elif raw[-1:] == b'"' and len(raw) > 1:
            argv.append(raw[1:-1].decode("utf-8", "backslashreplace"))
        else:
            return None
    return tuple(argv)


_NAMES = tuple(b"a%d=" % number for number in range(256))


def _slow_argv(bodies: list[bytes]) -> tuple[tuple[str, ...], bool]:
    whole: dict[int, bytes] = {}
    pieces: dict[int, dict[int, bytes]] = {}
    declared: int | None = None
    for body in bodies:
        if declared is None and body.startswith(b"argc="):
            count = body[5:].split(b" ", 1)[0]
            declared = int(count) if count.isdigit() and len(count) < 10 else None
        for index, piece, raw in _ARGUMENT.findall(body.partition(SEPARATOR)[0]):
            if len(index) > 7 or len(piece) > 7:
                continue
            value = unquote(raw)
            if value is None:
                value = b"" if raw == b"" else raw
            if piece:
                pieces.setdefault(int(index), {})[int(piece)] = value
            else:
                whole.setdefault(int(index), value)
    complete = declared is not None
    for index, parts in pieces.items():
        complete = complete and sorted(parts) == list(range(len(parts)))
        whole.setdefault(index, b"".join(parts[piece] for piece in sorted(parts)))
    if sorted(whole) != list(range(declared or 0)):
        complete = False
    argv, cut = _cut(whole[index] for index in sorted(whole))
    return argv, complete and not cut


def _cut(values: Iterable[bytes]) -> tuple[tuple[str, ...], bool]:
    """Return arguments as text of a bounded size, and whether anything was left out."""
    argv: list[str] = []
    room = MAX_ARGV_CHARACTERS
    for value in values:
        text = decode(value[: MAX_ARGV_CHARACTERS + 1])
        if room < len(text) or len(argv) >= MAX_ARGUMENTS:
            argv.append(text[:room])
            return tuple(argv), True
        room -= len(text)
        argv.append(text)
    return tuple(argv), False
