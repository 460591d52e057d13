"""Reading a journal's directory and the keys to judge it with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.journal.records import MAX_LINE
from sekisho.journal.seals import MAX_HEAD
from sekisho.journal.verification import Segment

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

MAX_KEY = 64 * 1024
SEGMENT = re.compile(r"[0-9]{20}\.jsonl", re.ASCII)
HEAD_FILE = "head.json"


def segment_paths(directory: Path) -> list[Path]:
    """Return the journal's segments in order."""
    return sorted(path for path in directory.iterdir() if SEGMENT.fullmatch(path.name))


def _lines(path: Path) -> Iterator[bytes]:
    """Yield lines; one longer than the journal's longest is passed over but its beginning."""
    with path.open("rb") as stream:
        while line := stream.readline(MAX_LINE + 1):
            yield line
            while not line.endswith(b"\n") and (line := stream.readline(MAX_LINE + 1)):
                pass


def segments(directory: Path) -> Iterator[Segment]:
    """Yield the segments of a journal in order, each to be read once.

    Raises:
        SekishoError: no directory, or nothing of a journal in it.

    """
    try:
        paths = segment_paths(directory)
    except OSError as error:
        raise _unreadable("the journal cannot be read", directory, str(error)) from error
    if not paths and not (directory / HEAD_FILE).exists():
        got = "no segment (20 digits and .jsonl)"
        raise _unreadable("there is no journal to verify", directory, got)
    for path in paths:
        yield Segment(path.name, _lines(path))


def _unreadable(what: str, path: Path, got: str) -> SekishoError:
    return SekishoError(what, (Problem(str(path), "", printable(got), "a readable file"),))


def read_small(path: Path, limit: int) -> bytes:
    """Return a file of at most ``limit`` bytes; SekishoError when it is larger or not readable."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
    except OSError as error:
        raise _unreadable("a file cannot be read", path, str(error)) from error
    if len(raw) > limit:
        raise _unreadable("a file is too large", path, f"more than {limit} bytes")
    return raw


def read_head(path: Path) -> bytes:
    """Return the bytes of a head file."""
    return read_small(path, MAX_HEAD)


def read_public_key(path: Path) -> EllipticCurvePublicKey:
    """Return the P-384 public key of a PEM file: a public key or a certificate."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - heavy
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - heavy
        load_pem_public_key,
    )
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415 - heavy

    raw = read_small(path, MAX_KEY)
    try:
        if b"BEGIN CERTIFICATE" in raw:
            key: object = load_pem_x509_certificate(raw).public_key()
        else:
            key = load_pem_public_key(raw)
    except ValueError as error:
        raise _unreadable("the key cannot be read", path, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _unreadable("the key is of another kind", path, "not a P-384 public key")
    return key


def read_private_key(path: Path) -> EllipticCurvePrivateKey:
    """Return the host's P-384 key from its PEM file (no passphrase)."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - heavy
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - heavy
        load_pem_private_key,
    )

    try:
        key = load_pem_private_key(read_small(path, MAX_KEY), password=None)
    except (ValueError, TypeError) as error:
        raise _unreadable("the host's key cannot be read", path, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _unreadable("the host's key is of another kind", path, "not a P-384 key")
    return key
