"""One line of the audit log into a `Record`; fields are parsed only when somebody asks. Pure.

Sources: audit.log as auditd writes it (``log_format`` RAW or ENRICHED), kernel
``audit_log_untrustedstring``: a string with a control character, a blank, a quote or a byte above
0x7e is written as upper-case hex without quotes; everything else stands in double quotes. What
follows 0x1D was added by auditd (ENRICHED) and never overrules what the kernel said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

#: A longer line is not an audit record (the kernel's largest is 8,970 bytes, auditd's 16 KiB).
MAX_LINE = 64 * 1024
#: auid and ses of a process that nobody logged in to start.
UNSET = 4294967295
#: No field that an entry repeats is larger, and JSON holds no more (RFC 8259, 6).
MAX_NUMBER = 2**53 - 1
SEPARATOR = b"\x1d"

HEAD = re.compile(
    rb"(?:node=[^ \n]{1,255} )?type=([A-Za-z0-9_\[\]]{1,40}) "
    rb"msg=audit\(([0-9]{1,11})\.([0-9]{3}):([0-9]{1,10})\)(?::[ ]?|[ ])"  # old auditd: no colon
)
#: The same, over many lines at once: type, id, seconds, milliseconds, serial, body.
LINES = re.compile(
    rb"^(?:node=[^ \n]{1,255} )?type=([A-Za-z0-9_\[\]]{1,40}) "
    rb"msg=audit\((([0-9]{1,11})\.([0-9]{3}):([0-9]{1,10}))\)(?::[ ]?|[ ])(.*)\n",
    re.MULTILINE,
)
# A value is quoted, braced (auditd's SADDR={ … }), or runs to the next blank. A name begins after a
# blank: tried at every byte, a long word without "=" would cost the square of its length.
_FIELD = re.compile(rb"""(?<![^ ])([A-Za-z0-9_.\-]++(?:\[[0-9]+\])?)=("[^"]*"|\{[^{}]*\}|[^ ]*)""")
# After a blank, which the kernel leaves in no string of a user's: `msg='` may be a program's name.
_USER_MESSAGE = re.compile(rb"(.*?)(?<![^ ])msg='(.*)'([^']*)", re.DOTALL)
_HEX = re.compile(rb"(?:[0-9A-Fa-f]{2})+")
_ARGUMENT = re.compile(r"a[0-9]+(\[[0-9]+\])?")
_DECIMAL = re.compile(rb"-?[0-9]{1,20}")
_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,16}")

#: Fields that the kernel or libaudit may write as hex.
ENCODED = frozenset(
    (
        *("acct", "acct_name", "cgroup", "cmd", "comm", "cwd", "data", "device", "dir", "exe"),
        *("file", "grp", "icomm", "key", "kernel", "ocomm", "old-disk", "new-disk", "path"),
        *("proctitle", "name", "new_group", "op_name", "root_dir", "sw", "vm", "watch", "unit"),
    )
)


class RecordError(ValueError):
    """A line that is no audit record; the message says what is wrong with it."""


def decode(raw: bytes) -> str:
    r"""Return bytes as text: what is not UTF-8 becomes ``\xNN``."""
    return raw.decode("utf-8", "backslashreplace")


def unquote(raw: bytes) -> bytes | None:
    """Return the bytes an encodable value stands for; None for ``(null)`` and ``?``."""
    if raw[:1] == b'"':
        return raw[1:-1] if raw[-1:] == b'"' and len(raw) > 1 else raw[1:]
    if raw in (b"(null)", b"?", b""):
        return None
    if _HEX.fullmatch(raw):
        return bytes.fromhex(raw.decode("ascii"))
    return raw


@lru_cache(4096)
def _short_text(raw: bytes) -> str:
    value = unquote(raw)
    return "" if value is None else decode(value)


def text_of(raw: bytes) -> str:
    """Return an encodable value as text; the same few programs and folders come all the time."""
    return _short_text(raw) if len(raw) < 256 else _short_text.__wrapped__(raw)


def parse_fields(body: bytes) -> dict[str, bytes]:
    """Return the raw values by name; of a name that comes twice the first counts.

    The text of a ``msg='…'`` (written by a program, not by the kernel) comes after the kernel's
    own fields and cannot overrule them.
    """
    found: dict[str, bytes] = {}
    inner = _USER_MESSAGE.fullmatch(body) if b"msg='" in body else None
    for part in (body,) if inner is None else (inner[1], inner[3], inner[2]):
        for name, value in _FIELD.findall(part):
            found.setdefault(name.decode("ascii"), value)
    return found


class Record:
    """One audit record.

    Attributes:
        type: name of the record's type (``SYSCALL``).
        ms: the kernel's time of the event, milliseconds since the epoch.
        serial: the kernel's number of the event (32 bits, restarts with every boot).
        body: what follows the head, as bytes, without what auditd added.
        tail: what auditd added after 0x1D (ENRICHED), or b"".

    """

    __slots__ = ("_fields", "body", "ms", "serial", "tail", "type")

    def __init__(self, type_: str, ms: int, serial: int, body: bytes) -> None:
        self.type = type_
        self.ms = ms
        self.serial = serial
        self.body, _, self.tail = body.partition(SEPARATOR)
        self._fields: dict[str, bytes] | None = None

    @property
    def fields(self) -> Mapping[str, bytes]:
        """The raw values by name, parsed at the first look."""
        if self._fields is None:
            self._fields = parse_fields(self.body)
        return self._fields

    def data(self, name: str) -> bytes | None:
        """Return a value as the bytes it stands for; None when it is not there or null."""
        raw = self.fields.get(name)
        if raw is None:
            return None
        if name in ENCODED or (self.type == "EXECVE" and _ARGUMENT.fullmatch(name)):
            return unquote(raw)
        return None if raw == b"(null)" else raw.strip(b'"')

    def text(self, name: str) -> str | None:
        """Return a value as text that can be printed; None when it is not there or null."""
        value = self.data(name)
        return None if value is None else decode(value)

    def number(self, name: str, base: int = 10) -> int | None:
        """Return a value as a number, ``base`` 10 or 16; None when it is not there or is none."""
        raw = self.fields.get(name)
        if raw is None:
            return None
        form = _DECIMAL if base == 10 else _HEXADECIMAL
        value = int(raw, base) if form.fullmatch(raw) else None
        return None if value is None or (base == 10 and abs(value) > MAX_NUMBER) else value

    @property
    def enriched(self) -> dict[str, str]:
        """What auditd added, for a reader; nothing is ever decided by it."""
        return {name: decode(value.strip(b'"')) for name, value in parse_fields(self.tail).items()}


def parse_line(line: bytes) -> Record:
    """Return the record of one line (with or without its newline); raise `RecordError`."""
    if len(line) > MAX_LINE:
        raise RecordError(f"a line of {len(line)} bytes, at most {MAX_LINE} are a record")
    line = line.rstrip(b"\r\n")
    head = HEAD.match(line)
    if head is None:
        raise RecordError("no type= and msg=audit(time:serial): at its start")
    serial = int(head[4])
    if serial > UNSET:
        raise RecordError(f"serial {serial} has more than 32 bits")
    return Record(
        head[1].decode("ascii"), int(head[2]) * 1000 + int(head[3]), serial, line[head.end() :]
    )
