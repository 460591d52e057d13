"""A machine's udev database (``udevadm info --export-db``) as records. Pure.

One record per device: ``P:`` its place, then lines of one letter (``E:`` property, ``N:`` node …),
then an empty line. Recordings with ``A:`` (sysfs attribute) and ``H:`` (raw bytes) are read too.
A device's own strings may hold line ends, and real dumps do: a line that is none of these, a key
told twice or a place told twice makes the record garbled, and whoever judges it must deny.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sekisho.core.errors import Problem, SekishoError, printable

MAX_BYTES = 32 * 1024 * 1024
MAX_PATH = 1024  # characters; the deepest real ones have some 200
MAX_RECORDS = 200_000
_LINE = re.compile(r"[A-Z]:( |\Z)", re.ASCII)


@dataclass(slots=True)
class Record:
    """One device of a dump.

    Attributes:
        path: its place under /sys, as the kernel writes it.
        fields: property → value.
        attributes: sysfs attribute → text, where the dump holds them.
        descriptors: raw USB descriptors in hex, or None.
        garbled: why the record cannot be trusted, or "".

    """

    path: str
    fields: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    descriptors: str | None = None
    garbled: str = ""

    @property
    def name(self) -> str:
        """The kernel's name: the last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def subsystem(self) -> str:
        """The kernel's subsystem, or ""."""
        return self.fields.get("SUBSYSTEM", "")


@dataclass(frozen=True, slots=True)
class Dump:
    """A whole database: path → record, in the dump's order, and how many lines fit nowhere."""

    records: dict[str, Record]
    stray: int


def parse_export_db(raw: bytes, where: str) -> Dump:
    """Return the records of a dump. Any bytes are read; what is no dump at all is refused.

    Raises:
        SekishoError: too large, too many records, or no record in it. ``where`` names the file.

    """
    if len(raw) > MAX_BYTES:
        raise _refuse(where, f"more than {MAX_BYTES} bytes", "one machine's database")
    records: dict[str, Record] = {}
    stray = 0
    current: Record | None = None
    for line in _lines(raw):
        if not line:
            current = None
        elif line.startswith("P: "):
            current = _start(line[3:], records, where)
        elif current is not None and _LINE.match(line):
            _take(current, line[0], line[3:])
        else:
            stray += 1
            if current is not None:
                current.garbled = current.garbled or "a line that is no part of a record"
    if not records:
        got = f"no device in it (it begins {printable(raw[:40].decode('utf-8', 'replace'))!r})"
        raise _refuse(where, got, "a udev database")
    return Dump(records, stray)


def _lines(raw: bytes) -> list[str]:
    """Return the lines; only a line feed ends one, since a device's own strings hold the others."""
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "backslashreplace")
    if "\r\n" in text and text.count("\r\n") == text.count("\n"):
        text = text.replace("\r\n", "\n")  # came by way of another system
    return text.split("\n")


def _refuse(where: str, got: str, expected: str) -> SekishoError:
    return SekishoError(
        "the dump was not read",
        (Problem(where, "", got, expected, "6-iii-c", "write it with `udevadm info --export-db`"),),
    )


def _start(path: str, records: dict[str, Record], where: str) -> Record:
    if len(path) > MAX_PATH:
        raise _refuse(where, f"a path of {len(path)} characters", f"at most {MAX_PATH}")
    known = records.get(path)
    if known is not None:
        known.garbled = "its place is told twice"
        return known
    if len(records) >= MAX_RECORDS:
        raise _refuse(where, f"more than {MAX_RECORDS} records", "one machine's database")
    record = records[path] = Record(path)
    if not path.startswith("/"):
        record.garbled = "its place is no path"
    return record


def _take(record: Record, letter: str, rest: str) -> None:
    """Put one line into its record."""
    key, equals, value = rest.partition("=")
    if letter == "E":
        if not equals:
            record.garbled = record.garbled or "a property without a value"
        elif record.fields.setdefault(key, value) != value:
            record.garbled = record.garbled or f"{printable(key, 40)} is told twice"
        elif key == "DEVPATH" and value != record.path:
            record.garbled = record.garbled or "its place and its path differ"
    elif letter == "A" and equals:
        if record.attributes.setdefault(key, _plain(value)) != _plain(value):
            record.garbled = record.garbled or f"{printable(key, 40)} is told twice"
    elif letter == "H" and key == "descriptors":
        if record.descriptors not in (None, value):
            record.garbled = record.garbled or "its descriptors are told twice"
        record.descriptors = value


def _plain(value: str) -> str:
    r"""Return an attribute without the line end that recordings write as ``\n``."""
    end = len(value)
    while value.endswith(r"\n", 0, end):
        end -= 2
    return value[:end]
