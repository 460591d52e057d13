"""The parts of a delivery in a file of records of one size: any of them is one short read.

A manifest of 32 MiB is in memory while it is judged and never again: what is kept in memory for a
delivery on its way does not depend on what its sender wrote into it but by one byte a part.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError
from sekisho.transfer.manifest import Manifest

_RECORD = struct.Struct(">QII?32s")  # offset, size, number of the file, only part of it, digest


@dataclass(frozen=True, slots=True)
class Piece:
    """A part: place and size in bytes, number of its file, whether it is the whole file."""

    offset: int
    size: int
    file: int
    whole_file: bool
    sha256: str


def index_bytes(manifest: Manifest) -> bytes:
    """Return the index of a manifest's parts."""
    return b"".join(
        _RECORD.pack(
            part.offset, part.size, number, len(entry.parts) == 1, bytes.fromhex(part.sha256)
        )
        for number, entry in enumerate(manifest.files)
        for part in entry.parts
    )


def count_parts(path: Path) -> int:
    """Return how many parts an index has; SekishoError when it is none, OSError when not there."""
    size = path.stat().st_size
    if size % _RECORD.size:
        problem = Problem(str(path), "", f"{size} bytes", f"records of {_RECORD.size} bytes")
        raise SekishoError("the parts of a delivery cannot be read", (problem,))
    return size // _RECORD.size


def read_piece(path: Path, index: int) -> Piece:
    """Return one part of an index; SekishoError when it is cut short."""
    with path.open("rb") as stream:
        stream.seek(index * _RECORD.size)
        raw = stream.read(_RECORD.size)
    if len(raw) != _RECORD.size:
        problem = Problem(str(path), f"part {index}", f"{len(raw)} bytes", "a whole record")
        raise SekishoError("the parts of a delivery cannot be read", (problem,))
    offset, size, number, single, digest = _RECORD.unpack(raw)
    return Piece(offset, size, number, bool(single), digest.hex())


def held_bytes(path: Path, held: bytearray) -> int:
    """Return the sum of the sizes of the parts that are held (a byte that is not 0)."""
    with path.open("rb") as stream:
        return sum(
            _RECORD.unpack(raw)[1]
            for mark, raw in zip(held, iter(lambda: stream.read(_RECORD.size), b""), strict=False)
            if mark
        )
