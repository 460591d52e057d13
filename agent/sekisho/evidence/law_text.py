"""The official text of the items, as a reader brings it: a strict reader. Pure.

Sekisho holds no text of the law. Whoever reads a report beside the text brings it as a file, in one
of two forms. Plain UTF-8 text: a heading in brackets, then the text of that item:

    [第六条第三号ハ]
    …

or one JSON object, from item to text: ``{"6-iii-c": "…"}``. Headings and keys are an item in any
of its forms: ``6-iii-c``, ``6(iii)(c)``, ``第六条第三号ハ``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.languages import item_of
from sekisho.core.strict_json import strict_json
from sekisho.core.text import lines_of

MAX_BYTES = 1024 * 1024
MAX_ITEMS = 200
MAX_TEXT = 20_000  # characters of one item
MAX_LINE = 2000  # and of one line of it
_JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
_FORM = "an item such as 6-iii-c, 6(iii)(c) or 第六条第三号ハ"


@dataclass(frozen=True, slots=True)
class LawText:
    """The text of items.

    Attributes:
        name: the file's name, without its folders.
        digest: SHA-256 of the file.
        items: text by item id.

    """

    name: str
    digest: str
    items: Mapping[str, str]

    @staticmethod
    def language_of(text: str) -> str:
        """Return the language a text is written in, as far as its letters tell."""
        return "ja" if _JAPANESE.search(text) else "en"


def read_law_text(name: str, data: bytes, known: Iterable[str]) -> LawText:
    """Return the text of items in a file's content.

    Args:
        name: the file's name, for messages and for the report.
        data: its content.
        known: ids of the items there are.

    Raises:
        SekishoError: not UTF-8, too large, no item, an unknown or repeated one, or no text.

    """
    try:
        items = _items(data, frozenset(known))
    except _BadLawTextError as bad:
        problem = Problem(
            printable(name),
            bad.where,
            bad.got,
            bad.expected,
            hint="docs/audit.md, Reading a report",
        )
        raise SekishoError("cannot read the official text", (problem,)) from None
    return LawText(name=name, digest=hashlib.sha256(data).hexdigest(), items=items)


class _BadLawTextError(Exception):
    def __init__(self, where: str, got: str, expected: str) -> None:
        super().__init__(where, got, expected)
        self.where, self.got, self.expected = where, got, expected


def _items(data: bytes, known: frozenset[str]) -> dict[str, str]:
    if len(data) > MAX_BYTES:
        raise _BadLawTextError("", f"{len(data)} bytes", f"at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        raise _BadLawTextError("", f"byte {bad.start} is not UTF-8", "UTF-8 text") from None
    pairs = _from_json(data) if text.lstrip()[:1] == "{" else _from_text(text)
    found: dict[str, str] = {}
    for where, heading, body in pairs:
        try:
            item = item_of(heading)
        except ValueError:
            raise _BadLawTextError(where, printable(heading, 60), _FORM) from None
        if item not in known:
            raise _BadLawTextError(where, printable(heading, 60), "an item of the catalogue")
        if item in found:
            raise _BadLawTextError(where, f"{item} again", "each item once")
        found[item] = _body(where, body)
        if len(found) > MAX_ITEMS:
            raise _BadLawTextError(where, f"more than {MAX_ITEMS} items", "fewer")
    if not found:
        raise _BadLawTextError("", "no item", f"a line [ITEM], {_FORM}, and its text below it")
    return found


def _body(where: str, text: str) -> str:
    lines = [line.replace("\u3000", " ").rstrip() for line in lines_of(text)]
    body = "\n".join(lines).strip("\n")
    if not body.strip():
        raise _BadLawTextError(where, "no text", "the text of the item")
    if len(body) > MAX_TEXT:
        raise _BadLawTextError(where, f"{len(body)} characters", f"at most {MAX_TEXT}")
    if any(len(line) > MAX_LINE for line in lines):
        raise _BadLawTextError(where, "a longer line", f"lines of at most {MAX_LINE} characters")
    odd = next((c for c in body if c != "\n" and not c.isprintable()), None)
    if odd is not None:
        raise _BadLawTextError(where, f"U+{ord(odd):04X}", "printable characters and newlines")
    return body


def _from_json(data: bytes) -> list[tuple[str, str, str]]:
    try:
        value = strict_json(data.removeprefix(b"\xef\xbb\xbf"), size=MAX_BYTES)
    except ValueError as bad:
        raise _BadLawTextError("", printable(str(bad)), "one JSON object, item to text") from None
    if not isinstance(value, dict):
        raise _BadLawTextError("", type(value).__name__, "one JSON object, item to text")
    pairs = []
    for heading, body in value.items():
        if not isinstance(body, str):
            where = printable(heading, 60)
            raise _BadLawTextError(where, type(body).__name__, "the text of the item")
        pairs.append((printable(heading, 60), heading, body))
    return pairs


def _from_text(text: str) -> list[tuple[str, str, str]]:
    pairs: list[tuple[str, str, list[str]]] = []
    for number, line in enumerate(lines_of(text.replace("\r\n", "\n")), 1):
        if line.startswith("[") and line.rstrip().endswith("]"):
            pairs.append((f"line {number}", line.rstrip()[1:-1].strip(), []))
        elif pairs:
            pairs[-1][2].append(line)
        elif line.strip() and not line.startswith("#"):
            raise _BadLawTextError(f"line {number}", printable(line, 60), f"a line [ITEM], {_FORM}")
    return [(where, heading, "\n".join(body)) for where, heading, body in pairs]
