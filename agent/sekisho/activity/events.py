"""What an event says: who made which call, and the command a person ran. Pure.

The person is the audit uid (auid): set once at log-in, kept over su and sudo, never the uid of the
moment. 4294967295 means that nobody logged in to start the process.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from sekisho.activity.arguments import parse_argv
from sekisho.activity.join import Event
from sekisho.activity.records import SEPARATOR, UNSET, Record, decode, text_of, unquote

_VALUE = rb'("[^"]*"|[^ ]*)'
# Fifteen digits: every number the kernel writes there, and none that JSON cannot hold.
_N, _X = rb"([0-9]{1,15})", rb"[0-9a-f]{1,16}"
_SYSCALL = re.compile(
    rb"arch=([0-9a-f]{8}) syscall=" + _N + rb"(?: per=[^ ]*)?"
    rb"(?: success=([a-z]+) exit=(-?[0-9]{1,15}))?"
    rb" a0=" + _X + rb" a1=" + _X + rb" a2=" + _X + rb" a3=" + _X + rb" items=[0-9]{1,15}"
    rb" ppid=" + _N + rb" pid=" + _N + rb" auid=" + _N + rb" uid=" + _N + rb" gid=[0-9]{1,15}"
    rb" euid=" + _N + rb" suid=[0-9]{1,15} fsuid=[0-9]{1,15} egid=[0-9]{1,15} sgid=[0-9]{1,15}"
    rb" fsgid=[0-9]{1,15} tty=" + _VALUE + rb" ses=" + _N + rb" comm=" + _VALUE + rb" exe=" + _VALUE
)
_KEY = re.compile(rb" key=" + _VALUE + rb"(?: |$)")
_PATH_FIELD = re.compile(rb" ?(item|name|inode|dev|mode|nametype)=" + _VALUE)

_MODE = re.compile(rb" mode=(0?[0-7]{1,11}) ")
_LOADER = b'item=1 name="/lib64/ld-linux-x86-64.so.2" '

_64_BIT = 0x80000000
#: execve and execveat by audit architecture (AUDIT_ARCH_X86_64, I386, AARCH64, ARM).
_EXEC_CALLS = {
    0xC000003E: frozenset((59, 322)),
    0x40000003: frozenset((11, 358)),
    0xC00000B7: frozenset((221, 281)),
    0x40000028: frozenset((11, 387)),
}


# Tuples, not dataclasses: made for every record, and three times as fast to make.
class Syscall(NamedTuple):
    """The SYSCALL record of an event. Ids are numbers; ``auid`` and ``session`` may be UNSET."""

    arch: int
    number: int
    success: bool | None
    exit: int | None
    ppid: int
    pid: int
    auid: int
    uid: int
    euid: int
    terminal: str
    session: int
    comm: str
    exe: str
    keys: tuple[str, ...]

    @property
    def bits(self) -> int:
        """Return 64 or 32: the architecture of the call, not of the machine."""
        return 64 if self.arch & _64_BIT else 32


class Path(NamedTuple):
    """One PATH record: a name as the program gave it, and what became of it."""

    item: int
    name: str
    inode: str
    mode: int
    nametype: str  # NORMAL PARENT CREATE DELETE UNKNOWN


class Command(NamedTuple):
    """A program that somebody started.

    Attributes:
        who: account of the person, ``uid:N`` for one the site does not know, ``system``.
        argv: the arguments; empty when the start failed before they were read.
        script: the file that was named, when another program (an interpreter) runs it.
        success: whether it was started.
        complete: False when records were missing or the text was cut.

    """

    event: str
    when: int
    who: str
    auid: int
    uid: int
    euid: int
    session: int
    terminal: str
    exe: str
    argv: tuple[str, ...]
    cwd: str
    success: bool
    arch: int
    script: str | None
    setuid: bool
    pid: int
    ppid: int
    complete: bool

    def data(self) -> dict[str, Any]:
        """Return the journal's form of it."""
        return {
            "event": self.event,
            "when": self.when,
            "who": self.who,
            "auid": self.auid,
            "uid": self.uid,
            "euid": self.euid,
            "session": self.session,
            "terminal": self.terminal,
            "exe": self.exe,
            "argv": list(self.argv),
            "cwd": self.cwd,
            "success": self.success,
            "arch": self.arch,
            "script": self.script,
            "pid": self.pid,
            "ppid": self.ppid,
            "complete": self.complete,
        }


def name_of(auid: int | None, people: Mapping[int, str]) -> str:
    """Return the account behind an audit uid."""
    if auid is None or auid == UNSET:
        return "system"
    return people.get(auid) or ("root" if auid == 0 else f"uid:{auid}")


def keys_of(body: bytes) -> tuple[str, ...]:
    """Return the keys of the rules that made the kernel record this (several: split at 0x01)."""
    last = body.rpartition(b" ")[2]  # the kernel's last field
    if last.startswith(b"key=") and len(last) < 256:
        return _keys(last[4:])
    return _slow_keys(body)


@lru_cache(256)
def _keys(raw: bytes) -> tuple[str, ...]:
    value = unquote(raw)
    return () if value is None else tuple(decode(part) for part in value.split(b"\x01"))


def _slow_keys(body: bytes) -> tuple[str, ...]:
    found = None
    for found in _KEY.finditer(body):  # noqa: B007 - the last one is the kernel's own
        pass
    return () if found is None else _keys.__wrapped__(found[1])


def parse_syscall(body: bytes) -> Syscall | None:
    """Return the values of a SYSCALL record's body; None when it is none."""
    body = body.partition(SEPARATOR)[0]
    found = _SYSCALL.match(body)
    if found is None:
        return _slow_syscall(body)
    (arch, number, success, exit_, ppid, pid, auid, uid, euid, tty, session, comm, exe) = (
        found.groups()
    )
    return Syscall(
        int(arch, 16),
        int(number),
        None if success is None else success == b"yes",
        None if exit_ is None else int(exit_),
        int(ppid),
        int(pid),
        int(auid),
        int(uid),
        int(euid),
        _terminal(tty),
        int(session),
        text_of(comm),
        text_of(exe),
        keys_of(body[found.end() :]),
    )


@lru_cache(1024)
def _terminal(raw: bytes) -> str:
    return "" if raw == b"(none)" else decode(raw.strip(b'"'))


def _slow_syscall(body: bytes) -> Syscall | None:
    """Read a SYSCALL record of an unusual form field by field."""
    record = Record("SYSCALL", 0, 0, body)
    numbers = {name: record.number(name) for name in ("syscall", "pid", "auid", "uid")}
    arch = record.number("arch", 16)
    number, pid, auid, uid = numbers.values()
    if arch is None or number is None or pid is None or auid is None or uid is None:
        return None
    success = record.text("success")
    euid, session, ppid = record.number("euid"), record.number("ses"), record.number("ppid")
    tty = record.text("tty")
    return Syscall(
        arch=arch,
        number=number,
        success=None if success is None else success == "yes",
        exit=record.number("exit"),
        ppid=0 if ppid is None else ppid,
        pid=pid,
        auid=auid,
        uid=uid,
        euid=uid if euid is None else euid,
        terminal="" if tty in (None, "(none)") else str(tty),
        session=UNSET if session is None else session,
        comm=record.text("comm") or "",
        exe=record.text("exe") or "",
        keys=keys_of(body),
    )


def parse_path(body: bytes) -> Path:
    """Return the values of a PATH record's body; absent ones are empty."""
    found: dict[bytes, bytes] = {}
    for name, value in _PATH_FIELD.findall(body.partition(SEPARATOR)[0]):
        found.setdefault(name, value)
    mode = found.get(b"mode", b"0")
    item = found.get(b"item", b"0")
    return Path(
        item=int(item) if item.isdigit() and len(item) < 10 else 0,
        name=text_of(found.get(b"name", b"")),
        inode=decode(found.get(b"dev", b"") + b":" + found.get(b"inode", b"")),
        mode=int(mode, 8) if re.fullmatch(rb"[0-7]{1,12}", mode) else 0,
        nametype=decode(found.get(b"nametype", b"").strip(b'"')),
    )


def paths_of(event: Event) -> list[Path]:
    """Return the PATH records of an event by their item number."""
    paths = [parse_path(body) for body in event.all(b"PATH")]
    paths.sort(key=lambda path: path.item)
    return paths


def cwd_of(event: Event) -> str:
    """Return the working directory of an event, or ""."""
    body = event.body(b"CWD")
    if body is None:
        return ""
    return text_of(body.partition(SEPARATOR)[0].strip().removeprefix(b"cwd="))


def resolve(name: str, cwd: str) -> str:
    """Return a name as an absolute path, its dots taken out (links are not followed)."""
    if not name:
        return ""
    path = posixpath.normpath(posixpath.join(cwd or "/", name))
    return path[1:] if path.startswith("//") else path


def is_exec(call: Syscall) -> bool:
    """Return whether the call starts a program."""
    return call.number in _EXEC_CALLS.get(call.arch, ())


def _script(paths: list[Path], exe: str) -> str | None:
    """Return the file that was named, when the kernel ran an interpreter for it."""
    # A link to the program is a second item of the same name.
    others = [path for path in paths[1:] if path.name != paths[0].name]
    if not others:
        return None
    interpreter = posixpath.basename(others[0].name)
    if interpreter.startswith(("ld-", "ld.", "ld64.")):
        return None
    return None if paths[0].name == exe else paths[0].name


def _program(event: Event, exe: str, *, started: bool) -> tuple[str | None, bool]:
    """Return the script's name, if one was named, and whether the program is set-user-id."""
    bodies = event.all(b"PATH")
    if started and len(bodies) == 2 and bodies[0].startswith(b"item=0 ") and _LOADER in bodies[1]:
        mode = _MODE.search(bodies[0])  # an ordinary program and its loader
        if mode is not None:
            return None, bool(int(mode[1], 8) & 0o4000)
    paths = paths_of(event)
    script = _script(paths, exe) if started else (paths[0].name if paths else None)
    return script, any(path.mode & 0o4000 for path in paths[:1])


def command_of(event: Event, call: Syscall, people: Mapping[int, str]) -> Command:
    """Return the command of an event whose call starts a program."""
    argv, whole = parse_argv(event.all(b"EXECVE"))
    started = call.success is not False
    script, setuid = _program(event, call.exe, started=started)
    return Command(  # in the order of its fields
        event.id.decode("ascii"),
        event.ms,
        people.get(call.auid) or name_of(call.auid, people),
        call.auid,
        call.uid,
        call.euid,
        call.session,
        call.terminal,
        call.exe,
        argv,
        cwd_of(event),
        started,
        call.bits,
        script,
        setuid,
        call.pid,
        call.ppid,
        event.complete and (whole or not started),
    )
