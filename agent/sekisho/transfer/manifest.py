"""The manifest of a delivery: which files, in which parts, with which digests. Parsed once.

Canonical JSON: ``{"v":1, "delivery", "sequence", "from", "to", "created", "files": [{"path",
"size", "sha256", "parts": [{"index", "size", "sha256"}]}], "total"}``. Parts are numbered through
the whole delivery from 0; the parts of a file in their order are the file. ``sha256`` of a file of
several parts is null: their digests cover every byte of it, and can be taken side by side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sekisho.canonical import canonical
from sekisho.errors import Problem, SekishoError, printable
from sekisho.transfer.names import check_path, check_together

DELIVERY = re.compile(r"[0-9a-f]{32}", re.ASCII)
HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
PARTY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

MAX_MANIFEST = 32 * 1024 * 1024  # bytes
MAX_FILES = 100_000
MAX_PART = 1024**3  # bytes
MAX_TOTAL = 2**50  # bytes
MAX_SEQUENCE = 2**53
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file: number in the delivery, place in its file (bytes), SHA-256 in hex."""

    index: int
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the delivery: relative path, size in bytes, SHA-256 in hex, its parts in order.

    ``sha256`` is None for a file of several parts.
    """

    path: str
    size: int
    sha256: str | None
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a delivery consists of.

    Attributes:
        delivery: 32 hex digits, new for every delivery.
        sequence: number of the delivery between these two, from 1; a gap is a missing delivery.
        sender: who sends (``from``).
        recipient: who is to have it (``to``).
        created: Unix time in milliseconds.
        files: the files.
        total: sum of their sizes in bytes.

    """

    delivery: str
    sequence: int
    sender: str
    recipient: str
    created: int
    files: tuple[Entry, ...]
    total: int

    def parts(self) -> Iterator[tuple[Entry, Part]]:
        """Yield every part with its file, in order of index."""
        for entry in self.files:
            for part in entry.parts:
                yield entry, part

    def part_count(self) -> int:
        """Return how many parts there are."""
        return sum(len(entry.parts) for entry in self.files)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return canonical(
            {
                "v": 1,
                "delivery": self.delivery,
                "sequence": self.sequence,
                "from": self.sender,
                "to": self.recipient,
                "created": self.created,
                "total": self.total,
                "files": [
                    {
                        "path": entry.path,
                        "size": entry.size,
                        "sha256": entry.sha256,
                        "parts": [
                            {"index": part.index, "size": part.size, "sha256": part.sha256}
                            for part in entry.parts
                        ],
                    }
                    for entry in self.files
                ],
            }
        )


def refuse(key: str, got: object, expected: str) -> SekishoError:
    """Return the error for one wrong value of a manifest."""
    problem = Problem("manifest", key, printable(got), expected)
    return SekishoError("the manifest is refused", (problem,))


def _object(value: Any, keys: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        got = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise refuse(where, got, f"an object with {', '.join(sorted(keys))}")
    return value


def _integer(value: Any, where: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise refuse(where, value, f"an integer from {low} to {high}")
    return value


def _text(value: Any, where: str, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise refuse(where, value, form.pattern)
    return value


def _list(value: Any, where: str, limit: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > limit:
        got = f"{len(value)} items" if isinstance(value, list) else type(value).__name__
        raise refuse(where, got, f"a list of at most {limit}")
    return value


def parse_manifest(raw: bytes) -> Manifest:
    """Return the manifest of ``raw``, every name, number and sum checked.

    Raises:
        SekishoError: names the key, what stood there and what should.

    """
    if len(raw) > MAX_MANIFEST:
        raise refuse("", f"{len(raw)} bytes", f"at most {MAX_MANIFEST} bytes")
    try:
        value = json.loads(raw.decode("utf-8"))
        whole = canonical(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise refuse("", str(error), "JSON without floats") from error
    if whole != raw:
        raise refuse("", "another form", "canonical JSON, no key twice")
    keys = {"v", "delivery", "sequence", "from", "to", "created", "files", "total"}
    top = _object(value, keys, "")
    _integer(top["v"], "v", 1, 1)
    files: list[Entry] = []
    index = 0
    for number, item in enumerate(_list(top["files"], "files", MAX_FILES)):
        entry = _entry(item, f"files[{number}]", index)
        index += len(entry.parts)
        files.append(entry)
    if not files:
        raise refuse("files", "none", "at least one file")
    check_together((entry.path for entry in files), "manifest")
    total = _integer(top["total"], "total", 0, MAX_TOTAL)
    if total != sum(entry.size for entry in files):
        raise refuse("total", total, "the sum of the files' sizes")
    return Manifest(
        delivery=_text(top["delivery"], "delivery", DELIVERY),
        sequence=_integer(top["sequence"], "sequence", 1, MAX_SEQUENCE),
        sender=_text(top["from"], "from", PARTY),
        recipient=_text(top["to"], "to", PARTY),
        created=_integer(top["created"], "created", 0, MAX_SEQUENCE),
        files=tuple(files),
        total=total,
    )


def _entry(value: Any, where: str, index: int) -> Entry:
    item = _object(value, {"path", "size", "sha256", "parts"}, where)
    path = check_path(item["path"], f"manifest {where}")
    size = _integer(item["size"], f"{where}.size", 0, MAX_TOTAL)
    sha256 = item["sha256"]
    if sha256 is not None:
        _text(sha256, f"{where}.sha256", HEX64)
    parts: list[Part] = []
    offset = 0
    for number, raw in enumerate(_list(item["parts"], f"{where}.parts", MAX_FILES)):
        place = f"{where}.parts[{number}]"
        piece = _object(raw, {"index", "size", "sha256"}, place)
        _integer(piece["index"], f"{place}.index", index + number, index + number)
        length = _integer(piece["size"], f"{place}.size", 1, MAX_PART)
        digest = _text(piece["sha256"], f"{place}.sha256", HEX64)
        parts.append(Part(index + number, offset, length, digest))
        offset += length
    if offset != size:
        raise refuse(f"{where}.parts", f"{offset} bytes", f"{size} bytes, the file's size")
    if sha256 != digest_of(parts):
        raise refuse(f"{where}.sha256", sha256, "the digest of its only part; null for several")
    return Entry(path, size, sha256, tuple(parts))


def digest_of(parts: Sequence[Part]) -> str | None:
    """Return what stands as ``sha256`` of a file with these parts."""
    if len(parts) > 1:
        return None
    return parts[0].sha256 if parts else EMPTY


def spans(size: int, part_size: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the parts a file of ``size`` bytes is cut into."""
    if not 1 <= part_size <= MAX_PART:
        raise refuse("part size", part_size, f"1 to {MAX_PART} bytes")
    return [(start, min(part_size, size - start)) for start in range(0, size, part_size)]
