"""The manifest of a delivery: which files, in which parts, with which digests. Parsed once.

Canonical JSON: ``{"v":1, "delivery", "sequence", "from", "to", "created", "files": [{"path",
"size", "sha256", "parts": [{"index", "size", "sha256"}]}], "total"}``. Parts are numbered through
the whole delivery from 0; the parts of a file in their order are the file. ``sha256`` of a file of
several parts is null: their digests cover every byte of it, and can be taken side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from sekisho.core.canonical import canonical
from sekisho.transfer.cursor import Cursor, refuse
from sekisho.transfer.names import MAX_PATH, Together, check_path

DELIVERY = re.compile(r"[0-9a-f]{32}", re.ASCII)
HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
PARTY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

MAX_MANIFEST = 32 * 1024 * 1024  # bytes
MAX_FILES = 100_000
MAX_PARTS = 200_000  # of all files: 50 TiB in the parts `sekisho send` makes
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


def parse_manifest(raw: bytes) -> Manifest:
    """Return the manifest of ``raw``; see `read_manifest`."""
    return read_manifest(io.BytesIO(raw))


def read_manifest(stream: BinaryIO) -> Manifest:
    """Return the manifest of a stream, every name, number and sum checked.

    Memory is taken for what was accepted so far, a few times its size at most; nothing is built of
    bytes that no manifest has.

    Raises:
        SekishoError: names the key, what stood there and what should.
        OSError: the stream cannot be read.

    """
    cursor = Cursor(stream, MAX_MANIFEST)
    created, delivery = _head(cursor)
    files: list[Entry] = []
    together = Together("manifest")
    index = 0
    while not files or cursor.maybe(b","):
        if len(files) == MAX_FILES:
            raise refuse("files", f"more than {MAX_FILES} files", f"1 to {MAX_FILES}")
        parts: list[Part] = []
        path, size, sha256 = _file(cursor, f"files[{len(files)}]", index, parts.append)
        index += len(parts)
        together.add(path)
        files.append(Entry(path, size, sha256, tuple(parts)))
    cursor.literal(b'],"from":', "files")
    sender = cursor.text("from", PARTY)
    cursor.literal(b',"sequence":')
    sequence = cursor.integer("sequence", 1, MAX_SEQUENCE)
    cursor.literal(b',"to":')
    recipient = cursor.text("to", PARTY)
    cursor.literal(b',"total":')
    total = cursor.integer("total", 0, MAX_TOTAL)
    if total != sum(entry.size for entry in files):
        raise refuse("total", total, "the sum of the files' sizes")
    cursor.literal(b',"v":1}')
    cursor.end()
    return Manifest(delivery, sequence, sender, recipient, created, tuple(files), total)


def each_file(stream: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Yield (path, first part, number of parts) of each file of a manifest accepted before.

    One file is in memory at a time, none of its parts.

    Raises:
        SekishoError: it is not the manifest that was accepted.
        OSError: the stream cannot be read.

    """
    cursor = Cursor(stream, MAX_MANIFEST)
    _head(cursor)
    number = index = 0
    while number == 0 or cursor.maybe(b","):
        first = index

        def count(_: Part) -> None:
            nonlocal index
            index += 1

        path, _, _ = _file(cursor, f"files[{number}]", first, count)
        yield path, first, index - first
        number += 1


def _head(cursor: Cursor) -> tuple[int, str]:
    cursor.literal(b'{"created":')
    created = cursor.integer("created", 0, MAX_SEQUENCE)
    cursor.literal(b',"delivery":')
    delivery = cursor.text("delivery", DELIVERY)
    cursor.literal(b',"files":[')
    return created, delivery


def _file(
    cursor: Cursor, where: str, index: int, take: Callable[[Part], None]
) -> tuple[str, int, str | None]:
    """Return path, size and digest of the next file; each of its parts goes to ``take``."""
    cursor.literal(b'{"parts":[', where)
    offset = count = 0
    expected: str | None = EMPTY
    while cursor.maybe(b",{" if count else b"{"):
        part = _part(cursor, f"{where}.parts[{count}]", index + count, offset)
        take(part)
        offset += part.size
        count += 1
        expected = part.sha256 if count == 1 else None
    cursor.literal(b'],"path":', where)
    path = check_path(cursor.string(f"{where}.path", MAX_PATH), f"manifest {where}")
    cursor.literal(b',"sha256":', where)
    sha256 = None if cursor.maybe(b"null") else cursor.text(f"{where}.sha256", HEX64)
    if sha256 != expected:
        raise refuse(f"{where}.sha256", sha256, "the digest of its only part; null for several")
    cursor.literal(b',"size":', where)
    size = cursor.integer(f"{where}.size", 0, MAX_TOTAL)
    if offset != size:
        raise refuse(f"{where}.parts", f"{offset} bytes", f"{size} bytes, the file's size")
    cursor.literal(b"}", where)
    return path, size, expected  # one object with the part's: half the memory


def _part(cursor: Cursor, where: str, index: int, offset: int) -> Part:
    if index >= MAX_PARTS:
        raise refuse(where, f"more than {MAX_PARTS} parts", f"at most {MAX_PARTS}; larger parts")
    cursor.literal(b'"index":', where)
    cursor.integer(f"{where}.index", index, index)
    cursor.literal(b',"sha256":', where)
    sha256 = cursor.text(f"{where}.sha256", HEX64)
    cursor.literal(b',"size":', where)
    size = cursor.integer(f"{where}.size", 1, MAX_PART)
    cursor.literal(b"}", where)
    return Part(index, offset, size, sha256)


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
