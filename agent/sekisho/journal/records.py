"""The journal's record: one canonical JSON line, numbered and chained by SHA-256.

A line is the canonical JSON of the record and a newline. Its ``hash`` is the SHA-256 of the
canonical JSON of the record without ``hash``; ``prev`` is the hash of the record before, or the
genesis of the host. Nothing here reads a clock or a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable

KIND = re.compile(r"[a-z0-9.-]{1,64}", re.ASCII)
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
BOOT = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)

MAX_DATA = 64 * 1024  # bytes of canonical JSON in one record's data
MAX_LINE = MAX_DATA + 1024  # the envelope takes less than 600 bytes
MAX_DEPTH = 32
INT_LOW, INT_HIGH = -(2**63), 2**64 - 1  # signed kernel values and unsigned 64-bit ids
SEAL = "seal"
RESERVED = "journal."

_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_KEYS = {"n", "t", "host", "boot", "kind", "data", "prev", "hash"}


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal.

    Attributes:
        n: number, from 1, without gaps.
        t: Unix time in milliseconds as the host's clock had it (may step back).
        host: the host that wrote it.
        boot: id of the boot it was written in.
        kind: what happened, ``[a-z0-9.-]{1,64}``.
        data: the particulars, JSON without floats.
        prev: hash of record n-1, hex; the genesis of the host for n = 1.
        hash: SHA-256 of everything above, hex.

    """

    n: int
    t: int
    host: str
    boot: str
    kind: str
    data: dict[str, Any]
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Who writes: the host and its boot id, checked once."""

    host: str
    boot: str

    def __post_init__(self) -> None:
        for key, value, form in (("host", self.host, HOST), ("boot", self.boot, BOOT)):
            if not form.fullmatch(value):
                raise SekishoError(
                    "the journal cannot be written under this name",
                    (Problem("journal", key, printable(value), form.pattern),),
                )


def genesis(host: str) -> str:
    """Return what the first record of ``host`` has as ``prev``, hex."""
    return hashlib.sha256(b"sekisho-journal/1\0" + host.encode()).hexdigest()


def tame(value: Any) -> Any:
    r"""Return ``value`` with lone surrogates (bytes that were no UTF-8) written as ``\udcXX`` text.

    A hostile file name must neither stop the journal nor make a line no JSON tool can read.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {tame(key): tame(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [tame(inner) for inner in value]
    return value


def check_value(value: Any, depth: int = 0) -> None:  # noqa: C901 - one case per JSON type
    """Refuse what has no safe canonical form: floats, huge integers, deep nesting, odd keys.

    Raises:
        ValueError: says what was found, in words for the reader.

    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nesting deeper than {MAX_DEPTH}")
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not INT_LOW <= value <= INT_HIGH:
            raise ValueError("an integer beyond 64 bits")
    elif kind is dict:
        for key, inner in value.items():
            if type(key) is not str:
                raise ValueError(f"a key of type {type(key).__name__}, not text")
            check_value(inner, depth + 1)
    elif kind is list or kind is tuple:
        for inner in value:
            check_value(inner, depth + 1)
    elif isinstance(value, int):  # a subclass, such as an enum
        check_value(int(value), depth)
    elif not isinstance(value, str):
        raise ValueError(f"a value of type {type(value).__name__}")


def encode_data(data: dict[str, Any]) -> bytes:
    """Return the canonical bytes of a record's data, at most ``MAX_DATA`` of them.

    Raises:
        SekishoError: data is no JSON object, too deep, too large, or holds floats.

    """
    try:
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__}")  # noqa: TRY004, TRY301 - same
        check_value(data)
        text = _ENCODER.encode(data)  # canonical() without a second walk for floats
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            raw = canonical(tame(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise SekishoError(
            "the event was not journalled",
            (Problem("event", "data", printable(str(error)), "a JSON object without floats"),),
        ) from error
    if len(raw) > MAX_DATA:
        raise SekishoError(
            "the event was not journalled",
            (Problem("event", "data", f"{len(raw)} bytes", f"at most {MAX_DATA} bytes"),),
        )
    return raw


def check_kind(kind: str) -> str:
    """Return ``kind`` when it is one; SekishoError otherwise."""
    if not isinstance(kind, str) or not KIND.fullmatch(kind):
        raise SekishoError(
            "the event was not journalled",
            (Problem("event", "kind", printable(kind), KIND.pattern),),
        )
    return kind


def make_line(  # noqa: PLR0913, PLR0917 - a record's fields, on the hot path
    origin: Origin, n: int, t: int, kind: str, data: bytes, prev: str
) -> tuple[bytes, str]:
    """Return the line of a record (with newline) and its hash.

    ``data`` is canonical already (``encode_data``), so that the line is put together from bytes:
    keys in code point order are boot, data, hash, host, kind, n, prev, t.
    """
    left = b'{"boot":"%s","data":%s,' % (origin.boot.encode(), data)
    right = b'"host":"%s","kind":"%s","n":%d,"prev":"%s","t":%d}' % (
        origin.host.encode(),
        kind.encode(),
        n,
        prev.encode(),
        t,
    )
    digest = hashlib.sha256(left)
    digest.update(right)
    name = digest.hexdigest()
    return b'%s"hash":"%s",%s\n' % (left, name.encode(), right), name


_RIGHT = re.compile(
    rb',"hash":"(?P<hash>[0-9a-f]{64})",(?="host":"(?P<host>[^"]{1,64})","kind":"(?P<kind>[^"]{1,64})",'
    rb'"n":(?P<n>[0-9]{1,20}),"prev":"(?P<prev>[0-9a-f]{64})","t":-?[0-9]{1,20}\}\n\Z)'
)
_RIGHT_MAX = 480  # bytes: more than the envelope after data can take


@dataclass(frozen=True, slots=True)
class Link:
    """What chaining needs of a line: number, host, kind, and the two hashes (its own proven)."""

    n: int
    host: str
    kind: str
    prev: str
    hash: str


def skim_line(line: bytes) -> Link | None:
    """Return the link of a line whose own hash holds, None otherwise; ten times parse_line's speed.

    The envelope after ``data`` is read from the end of the line, where no quoted text of ``data``
    can look like it. For the writer's own recovery; a verifier uses ``parse_line``.
    """
    if len(line) > MAX_LINE:
        return None
    found = _RIGHT.search(line, max(0, len(line) - _RIGHT_MAX))
    if found is None:
        return None
    digest = hashlib.sha256(line[: found.start() + 1])
    digest.update(line[found.end() : -1])
    name = found["hash"].decode()
    if digest.hexdigest() != name:
        return None
    return Link(
        int(found["n"]),
        found["host"].decode("utf-8", "replace"),
        found["kind"].decode("utf-8", "replace"),
        found["prev"].decode(),
        name,
    )


def _no_float(text: str) -> Any:
    raise ValueError(f"a float: {text[:40]}")


def parse_line(line: bytes) -> Record:
    """Return the record of one line, its own hash proven.

    Raises:
        ValueError: not the canonical form of a record, or the hash is not that of its content.

    """
    if not line.endswith(b"\n"):
        raise ValueError("the line is cut: no newline at its end")
    if len(line) > MAX_LINE:
        raise ValueError(f"the line is longer than {MAX_LINE} bytes")
    try:
        value = json.loads(
            line[:-1].decode("utf-8"), parse_float=_no_float, parse_constant=_no_float
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {printable(str(error), 80)}") from error
    if not isinstance(value, dict) or value.keys() != _KEYS:
        raise ValueError("not the keys of a record")
    record = _checked(value)
    if canonical(value) != line[:-1]:
        raise ValueError("not the canonical form")
    del value["hash"]
    if hashlib.sha256(canonical(value)).hexdigest() != record.hash:
        raise ValueError("the hash is not that of the content")
    return record


def _checked(value: dict[str, Any]) -> Record:
    n, t = value["n"], value["t"]
    for key, number in (("n", n), ("t", t)):
        if type(number) is not int or not INT_LOW <= number <= INT_HIGH:
            raise ValueError(f"{key} is no 64-bit integer")
    if n < 1:
        raise ValueError("n below 1")
    forms = (("host", HOST), ("boot", BOOT), ("kind", KIND), ("prev", HEX64), ("hash", HEX64))
    for key, form in forms:
        if not isinstance(value[key], str) or not form.fullmatch(value[key]):
            raise ValueError(f"{key} is not in its form")
    if not isinstance(value["data"], dict):
        raise ValueError("data is no object")  # noqa: TRY004 - one error type for the caller
    check_value(value["data"])
    return Record(**value)
