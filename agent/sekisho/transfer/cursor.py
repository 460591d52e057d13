"""Reads canonical JSON of one fixed form from a stream, token by token, in bounded memory.

A general JSON reader builds every list and number a hostile sender wrote before anybody looks at
them: 32 MiB of brackets become gigabytes. Here only what the form allows at this place is read, and
the first other byte ends it.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from sekisho.core.errors import Problem, SekishoError, printable

WINDOW = 256 * 1024  # bytes read at a time
#: No token is longer: a path of 4,096 bytes, each a quotation mark, is 8,192 as written.
TOKEN = 16 * 1024

_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]{0,18})", re.ASCII)
# Possessive: nothing to try again, and no memory per character.
_STRING = re.compile(rb'"((?:[^"\\\x00-\x1f]++|\\")*+)"')


def refuse(where: str, got: object, expected: str) -> SekishoError:
    """Return the error for one wrong value of a manifest."""
    problem = Problem("manifest", where, printable(got), expected)
    return SekishoError("the manifest is refused", (problem,))


class Cursor:
    """A place in a stream of at most ``limit`` bytes. Each method takes one token or refuses."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self._held, self._at, self._before = b"", 0, 0
        self._ended = False

    def _fill(self) -> None:
        """Have the longest token in memory, or all that is left."""
        while not self._ended and len(self._held) - self._at < TOKEN:
            more = self._stream.read(WINDOW)
            self._before += self._at
            self._held, self._at = self._held[self._at :] + more, 0
            self._ended = not more
            if self._before + len(self._held) > self._limit:
                raise refuse("", f"more than {self._limit} bytes", f"at most {self._limit} bytes")

    def _wrong(self, where: str, expected: str) -> SekishoError:
        byte = self._before + self._at
        seen = self._held[self._at : self._at + 40]
        got = f"{printable(seen.decode('utf-8', 'replace'))} (byte {byte})" if seen else "the end"
        return refuse(where, got, expected)

    def literal(self, text: bytes, where: str = "") -> None:
        """Take exactly ``text``."""
        if not self.maybe(text):
            expected = f"{text.decode('ascii')} (canonical JSON, these keys only, no key twice)"
            raise self._wrong(where, expected)

    def maybe(self, text: bytes) -> bool:
        """Take ``text`` if it is next; return whether it was."""
        self._fill()
        if not self._held.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def integer(self, where: str, low: int, high: int) -> int:
        """Take an integer from ``low`` to ``high``."""
        self._fill()
        found = _INTEGER.match(self._held, self._at)
        number = int(found[0]) if found else None
        if found is None or number is None or not low <= number <= high or found[0] == b"-0":
            raise self._wrong(where, f"an integer from {low} to {high}")
        self._at = found.end()
        return number

    def string(self, where: str, limit: int) -> str:
        """Take a string of at most ``limit`` bytes; of escapes only the quotation mark's."""
        self._fill()
        found = _STRING.match(self._held, self._at, min(len(self._held), self._at + TOKEN))
        try:
            text = found[1].replace(b'\\"', b'"').decode("utf-8") if found else None
        except UnicodeDecodeError:
            text = None
        if found is None or text is None or found.end() - self._at > 2 * limit + 2:
            raise self._wrong(where, f"a string of at most {limit} bytes in plain UTF-8")
        self._at = found.end()
        return text

    def text(self, where: str, form: re.Pattern[str]) -> str:
        """Take a string of this form."""
        self._fill()
        end = self._held.find(b'"', self._at + 1, self._at + 256)
        if not self._held.startswith(b'"', self._at) or end < 0:
            raise self._wrong(where, form.pattern)
        text = self._held[self._at + 1 : end].decode("ascii", "replace")
        if not form.fullmatch(text):
            raise self._wrong(where, form.pattern)
        self._at = end + 1
        return text

    def end(self) -> None:
        """Insist that nothing follows."""
        self._fill()
        if self._at < len(self._held):
            raise self._wrong("", "the end")
