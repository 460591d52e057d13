"""Who did it, and how heavy it is: the rules' findings into detections. Pure, bounded memory.

What a package's installation or the playbooks change is still recorded, as a notice. The playbooks
are known by how they come (an administrator's Ansible or Mitogen); an administrator could dress up
as them, which is why such changes are recorded all the same and named with the person.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sekisho.activity.detect import (
    BY_KEY,
    BY_TYPE,
    Found,
    Seen,
    odd_program,
    root_by_stranger,
)
from sekisho.activity.events import Command, Syscall, cwd_of, name_of, paths_of
from sekisho.activity.join import Event
from sekisho.activity.records import UNSET, decode
from sekisho.activity.watched import INSTALLERS, KINDS, LOGIN_HELPERS, NOTICE

MAX_PROCESSES = 8192
MAX_SOURCES = 1024
#: So many failed log-ins of one source or account within so long are a burst.
BURST = 5
BURST_MS = 60_000
#: A process that repeats itself within so long says nothing new.
REPEAT_MS = 10_000
#: systemd does what a person asked it for within so long (a unit may take its time to stop).
CONTROL_MS = 100_000
_DRAFT = re.compile(r"/\.sekisho-[a-z0-9_]{8}$")
_CONTROL_TOOLS = ("/systemctl", "/service", "/deb-systemd-invoke", "/invoke-rc.d")
_PLAYBOOK_MARKS = ("(mitogen:", "mitogen:", "/.ansible/tmp/", "AnsiballZ_")


@dataclass(frozen=True, slots=True)
class Detection:
    """Something that is not expected. ``when`` in milliseconds since the epoch."""

    event: str
    when: int
    id: str
    severity: str
    who: str
    auid: int
    what: str
    subject: str
    source: str  # person, playbook, package or system
    exe: str
    terminal: str
    session: int
    pid: int

    def data(self) -> dict[str, Any]:
        """Return the journal's form of it."""
        kind = KINDS[self.id.partition(".")[2]]
        return {
            "event": self.event,
            "when": self.when,
            "id": self.id,
            "title": {"en": kind.en, "ja": kind.ja},
            "severity": self.severity,
            "who": self.who,
            "auid": self.auid,
            "what": self.what,
            "subject": self.subject,
            "source": self.source,
            "exe": self.exe,
            "terminal": self.terminal,
            "session": self.session,
            "pid": self.pid,
        }


class _Process(NamedTuple):
    ppid: int
    session: int
    mark: str  # "", package, playbook or login (what lets the person in)
    own: bool  # it, or an ancestor, ran as the person and not as root


class Detector:
    """Applies the rules to events; knows the processes that people started, and recent log-ins."""

    def __init__(self, *, people: Mapping[int, str], administrators: Collection[str]) -> None:
        self.people = people
        self.administrators = frozenset(administrators)
        self._processes: OrderedDict[int, _Process] = OrderedDict()
        self._failures: OrderedDict[str, deque[int]] = OrderedDict()
        self._strangers: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._said: OrderedDict[tuple[str, str, int], int] = OrderedDict()
        self._controls: deque[tuple[int, Command]] = deque(maxlen=64)

    def command(self, command: Command) -> list[Detection]:
        """Return the detections of a command, and remember its process."""
        if not command.success:
            return []
        process = self._remember(command)
        found = [odd_program(command)]
        stranger = root_by_stranger(command, self.administrators)
        # Before the person has a process of its own, root is PAM's and systemd's, letting it in.
        if not process.own and (process.mark == "login" or not command.terminal):
            stranger = None
        if stranger is not None and (command.auid, command.session) not in self._strangers:
            self._strangers[command.auid, command.session] = None
            _bound(self._strangers, MAX_SOURCES)
            found.append(stranger)
        if not any(found):
            return []
        source = self._source(command)
        return [
            self._detection(
                one,
                event=command.event,
                when=command.when,
                source=source,
                who=command.who,
                call=command,
            )
            for one in found
            if one is not None
        ]

    def event(self, event: Event, call: Syscall | None) -> list[Detection]:
        """Return the detections of an event that is no command."""
        rules = []
        for type_ in event.types:
            rule = BY_TYPE.get(type_)
            if rule is not None and rule not in rules:
                rules.append(rule)
        if call is not None:
            rules += [BY_KEY[key] for key in call.keys if key in BY_KEY]
        if not rules:
            return []
        seen = Seen(event, call, tuple(paths_of(event)), cwd_of(event))
        actor: Syscall | Command | None = call if call is not None else _actor(event)
        found: dict[str, Found] = {}
        for rule in rules:
            one = rule(seen)
            if one is not None and not self._repeated(one, event.ms, actor):
                found.setdefault(one.slug, one)
        if not found:
            return []
        if event.types[0] == b"SERVICE_STOP":
            actor = self._who_controlled(event) or actor
        source = self._source(actor)
        if source == "playbook":  # its file appears under this name first, then under its own
            found = {slug: one for slug, one in found.items() if not _DRAFT.search(one.subject)}
        who = name_of(None if actor is None else actor.auid, self.people)
        return [
            self._detection(
                one, event=decode(event.id), when=event.ms, source=source, who=who, call=actor
            )
            for one in found.values()
        ]

    def _repeated(self, found: Found, ms: int, actor: Syscall | Command | None) -> bool:
        """Return whether the same process said the same thing a moment ago."""
        if not found.once or actor is None:
            return False
        key = (found.slug, found.once, actor.pid)
        before = self._said.pop(key, None)
        self._said[key] = ms
        _bound(self._said, MAX_SOURCES)
        return before is not None and abs(ms - before) < REPEAT_MS

    def _who_controlled(self, event: Event) -> Command | None:
        """Return the command of the person who asked systemd for this, if one did just now."""
        unit = event.records()[0].text("unit") or "?"
        for ms, command in reversed(self._controls):
            if abs(event.ms - ms) > CONTROL_MS:
                return None
            if any(_unit(argument) == _unit(unit) for argument in command.argv[1:]):
                return command
        return None

    def failed_login(self, event: Event, account: str, address: str) -> list[Detection]:
        """Take note of a failed log-in; return a detection when they come in a row."""
        detections = []
        for source in {f"account {account}" if account else "", f"address {address}"}:
            if source in ("", "address "):
                continue
            times = self._failures.setdefault(source, deque(maxlen=BURST))
            self._failures.move_to_end(source)
            _bound(self._failures, MAX_SOURCES)
            times.append(event.ms)
            if len(times) == BURST and times[-1] - times[0] <= BURST_MS:
                times.clear()
                found = Found(
                    "login-failures",
                    source,
                    f"{BURST} log-ins failed within {BURST_MS // 1000} s: {source}",
                )
                detections.append(
                    self._detection(
                        found,
                        event=decode(event.id),
                        when=event.ms,
                        source="system",
                        who=account or "?",
                        call=None,
                    )
                )
        return detections

    def _detection(  # noqa: PLR0913 - one value per field of the entry, all by name
        self,
        found: Found,
        *,
        event: str,
        when: int,
        source: str,
        who: str,
        call: Syscall | Command | None,
    ) -> Detection:
        kind = KINDS[found.slug]
        severity = found.severity or kind.severity
        if kind.excusable and source in ("package", "playbook"):
            severity = NOTICE
        return Detection(
            event=event,
            when=when,
            id=f"6-iv-b.{found.slug}",
            severity=severity,
            who=who,
            auid=UNSET if call is None else call.auid,
            what=found.what[:1024],
            subject=found.subject[:1024],
            source=source,
            exe="" if call is None else call.exe,
            terminal="" if call is None else call.terminal,
            session=UNSET if call is None else call.session,
            pid=0 if call is None else call.pid,
        )

    def _remember(self, command: Command) -> _Process:
        mark = ""
        if command.exe in INSTALLERS or command.script in INSTALLERS:
            mark = "package"
        elif (
            "python" in command.exe
            and command.who in self.administrators
            and any(sign in argument for argument in command.argv[:4] for sign in _PLAYBOOK_MARKS)
        ):
            mark = "playbook"
        if command.exe.endswith(_CONTROL_TOOLS) or (command.script or "").endswith(_CONTROL_TOOLS):
            self._controls.append((command.when, command))
        before = self._processes.pop(command.pid, None)
        parent = self._processes.get(command.ppid)
        own = command.uid != 0
        for known in (before, parent):
            if known is not None and known.session == command.session:
                own = own or known.own
                mark = mark or (known.mark if known.mark == "login" else "")
        if not mark and not own and command.exe in LOGIN_HELPERS:
            mark = "login"
        process = _Process(command.ppid, command.session, mark, own)
        self._processes[command.pid] = process
        if len(self._processes) > MAX_PROCESSES:
            self._processes.popitem(last=False)
        return process

    def _source(self, actor: Syscall | Command | None) -> str:
        """Return on whose behalf a process acts, as far as its known ancestors tell."""
        if actor is None:
            return "system"
        if actor.exe in INSTALLERS:
            return "package"
        pid, fallback = actor.pid, actor.ppid
        for _ in range(32):
            process = self._processes.get(pid)
            if process is None:
                # A child that started no program is not known; its parent may be.
                if fallback == pid or fallback not in self._processes:
                    break
                pid = fallback
                continue
            if process.mark in ("package", "playbook"):
                return process.mark
            pid = fallback = process.ppid
        return "system" if actor.auid == UNSET else "person"


def _unit(name: str) -> str:
    return name.removesuffix(".service")


def _actor(event: Event) -> Syscall | None:
    """Return who a program's own record speaks of: the kernel's fields at its start."""
    record = event.records()[0]
    pid, auid, uid = record.number("pid"), record.number("auid"), record.number("uid")
    if pid is None or auid is None:
        return None
    session = record.number("ses")
    return Syscall(
        arch=0,
        number=-1,
        success=None,
        exit=None,
        ppid=0,
        pid=pid,
        auid=auid,
        uid=-1 if uid is None else uid,
        euid=-1 if uid is None else uid,
        terminal=record.text("terminal") or "",
        session=UNSET if session is None else session,
        comm=record.text("comm") or "",
        exe=record.text("exe") or "",
        keys=(),
    )


def _bound(table: OrderedDict[Any, Any], limit: int) -> None:
    while len(table) > limit:
        table.popitem(last=False)
