"""The manifest of a delivery: which files, in which parts, with which digests. Parsed once.

Canonical JSON: ``{"v":1, "delivery", "sequence", "from", "to", "created", "files": [{"path",
"size", "sha256", "parts": [{"index", "size", "sha256"}]}], "total"}``. Parts are numbered through
the whole delivery from 0; the parts of a file in their order are the file. ``sha256`` of a file of
several parts is null: their digests cover every byte of it, and can be taken side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from sekisho.canonical import canonical
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
    from_ = Cursor(stream, MAX_MANIFEST)
    from_.literal(b'{"created":')
    created = from_.integer("created", 0, MAX_SEQUENCE)
    from_.literal(b',"delivery":')
    delivery = from_.text("delivery", DELIVERY)
    from_.literal(b',"files":[')
    files: list[Entry] = []
    index = 0
    together = Together("manifest")
    while not files or from_.maybe(b","):
        where = f"files[{len(files)}]"
        if len(files) == MAX_FILES:
            raise refuse("files", f"more than {MAX_FILES} files", f"1 to {MAX_FILES}")
        entry = _entry(from_, where, index)
        index += len(entry.parts)
        together.add(entry.path)
        files.append(entry)
    from_.literal(b'],"from":', "files")
    sender = from_.text("from", PARTY)
    from_.literal(b',"sequence":')
    sequence = from_.integer("sequence", 1, MAX_SEQUENCE)
    from_.literal(b',"to":')
    recipient = from_.text("to", PARTY)
    from_.literal(b',"total":')
    total = from_.integer("total", 0, MAX_TOTAL)
    if total != sum(entry.size for entry in files):
        raise refuse("total", total, "the sum of the files' sizes")
    from_.literal(b',"v":1}')
    from_.end()
    return Manifest(delivery, sequence, sender, recipient, created, tuple(files), total)


def _entry(from_: Cursor, where: str, index: int) -> Entry:
    from_.literal(b'{"parts":[', where)
    parts: list[Part] = []
    offset = 0
    while from_.maybe(b"," if parts else b"{"):
        if parts:
            from_.literal(b"{", where)
        part = _part(from_, f"{where}.parts[{len(parts)}]", index + len(parts), offset)
        parts.append(part)
        offset += part.size
    from_.literal(b'],"path":', where)
    path = check_path(from_.string(f"{where}.path", MAX_PATH), f"manifest {where}")
    from_.literal(b',"sha256":', where)
    sha256 = None if from_.maybe(b"null") else from_.text(f"{where}.sha256", HEX64)
    if sha256 != digest_of(parts):
        raise refuse(f"{where}.sha256", sha256, "the digest of its only part; null for several")
    from_.literal(b',"size":', where)
    size = from_.integer(f"{where}.size", 0, MAX_TOTAL)
    if offset != size:
        raise refuse(f"{where}.parts", f"{offset} bytes", f"{size} bytes, the file's size")
    from_.literal(b"}", where)
    return Entry(path, size, parts[0].sha256 if len(parts) == 1 else sha256, tuple(parts))


def _part(from_: Cursor, where: str, index: int, offset: int) -> Part:
    if index >= MAX_PARTS:
        raise refuse(where, f"more than {MAX_PARTS} parts", f"at most {MAX_PARTS}; larger parts")
    from_.literal(b'"index":', where)
    from_.integer(f"{where}.index", index, index)
    from_.literal(b',"sha256":', where)
    sha256 = from_.text(f"{where}.sha256", HEX64)
    from_.literal(b',"size":', where)
    size = from_.integer(f"{where}.size", 1, MAX_PART)
    from_.literal(b"}", where)
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
