"""Audit facts: rules as loaded and on disk, the kernel's switches, the daemon's settings, files.

The kernel lists rules in its own words (``auditctl -l``): ``auid!=-1`` for ``auid!=unset``,
``a1&0xC00`` for ``a1&06000``, and the calls behind ``perm=`` spelt out. Both sides are brought to
one form before they are compared; see auditctl(8), audit.rules(7).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.core.text import is_number, lines_of
from sekisho.probes.model import Probe, ProbeError, Read, Run, drop_ins, files, output, text_of

RULES = "/etc/audit/audit.rules"
_UNSET = frozenset(("unset", "-1", "4294967295"))
_REGISTER = re.compile(r"(a[0-3])(!=|>=|<=|&=|=|>|<|&)(0[xX][0-9a-fA-F]+|[0-9]+)")
#: Calls that auditctl spells out for ``perm=wa`` on every architecture, among others.
_WRITING = frozenset(
    (
        *("openat", "openat2", "truncate", "renameat2", "unlinkat", "linkat", "symlinkat"),
        *("mkdirat", "fchmodat", "fchmod", "fchownat", "setxattr", "removexattr"),
    )
)
#: Longer lines auditctl skips (LINE_SIZE in its source); shlex's time is the square of a line's.
_MAX_LINE = 6144
_QUOTES, _UNQUOTED = re.compile(r"[\"'\\]"), re.compile(r"[^ \t\r\n]+")
_PERSON = re.compile(r"(auid|loginuid)(!=|>=|>)(.+)")


class _Rule:
    """One rule in comparable form."""

    def __init__(self, action: str, fields: list[str], calls: frozenset[str]) -> None:
        self.action = action
        self.fields = fields
        self.calls = calls

    def __str__(self) -> str:
        calls = f" -S {','.join(sorted(self.calls))}" if self.calls else ""
        return f"{self.action}{calls} {' '.join(self.fields)}".rstrip()

    def value(self, name: str) -> str | None:
        for field in self.fields:
            if field.startswith(f"{name}="):
                return field[len(name) + 1 :]
        return None

    def only(self, *names: str) -> bool:
        """Return whether nothing but these fields narrows the rule (audit uids: people only)."""
        for field in self.fields:
            person = _PERSON.fullmatch(field)
            if person is not None:
                whole = person[2] == "!=" and person[3] == "unset"
                if not whole and not (person[2] == ">=" and person[3] == "1000"):
                    return False
            elif field.partition("=")[0] not in names:
                return False
        return True


def _field(text: str) -> str:
    register = _REGISTER.fullmatch(text)
    if register is not None:
        number = register[3]
        base = 16 if number[:2].lower() == "0x" else 8 if number.startswith("0") else 10
        return f"{register[1]}{register[2]}{int(number, base):#x}"
    person = _PERSON.fullmatch(text)
    if person is not None:
        return f"auid{person[2]}{'unset' if person[3] in _UNSET else person[3]}"
    name, sep, value = text.partition("=")
    if sep and name == "perm":
        return f"perm={''.join(sorted(value))}"
    if sep and name in ("dir", "path") and len(value) > 1:
        return f"{name}={value.rstrip('/')}"
    return text


# One arm per option of auditctl.
def parse_rule(words: list[str]) -> _Rule | None:  # noqa: C901, PLR0912
    """Return the rule of an auditctl line's words; None for a line that is an option.

    Raises `ProbeError` for a word that cannot be read: an unknown rule is not "no rule".
    """
    if not words or words[0] not in ("-a", "-A", "-w"):
        return None
    action, fields, calls, keys = "always,exit", [], set(), []
    permission, watched = "", ""
    pairs = iter(words)
    for word in pairs:
        value = next(pairs, None)
        if value is None:
            raise ProbeError(f"audit rule: nothing after {word}")
        match word:
            case "-a" | "-A":
                action = ",".join(sorted(value.split(",")))
            case "-w":
                watched = value
            case "-p":
                permission = value
            case "-S":
                calls.update(value.split(","))
            case "-k":
                keys.append(value)
            case "-F" | "-C":
                if value.startswith("key="):
                    keys.append(value[4:])
                else:
                    fields.append(_field(value))
            case _:
                raise ProbeError(f"audit rule: {word!r} is unknown")
    if watched:
        fields += [_field(f"path={watched}"), _field(f"perm={permission or 'rwxa'}")]
    calls.discard("all")
    if "perm=aw" in fields and calls >= _WRITING:
        # The kernel's list spells out what perm= means; a narrower list is another rule.
        calls.clear()
    fields += [f"key={key}" for key in keys]
    return _Rule(action, fields, frozenset(calls))


def _words(line: str) -> list[str]:
    """Return a line's words as a shell would split them; shlex only where one is quoted."""
    if not _QUOTES.search(line):
        return _UNQUOTED.findall(line)
    if len(line) > _MAX_LINE:
        raise ValueError(f"{len(line)} characters, auditctl reads {_MAX_LINE}")
    return shlex.split(line)


def _parse(text: str, *, quoted: bool) -> tuple[list[_Rule], dict[str, str]]:
    rules, options = [], {}
    for line in lines_of(text):
        stripped = line.strip()
        if not stripped or stripped.startswith("#") or stripped == "No rules":
            continue
        try:
            words = _words(stripped) if quoted else stripped.split()
        except ValueError as bad:
            raise ProbeError(f"audit rule: {stripped[:60]!r}: {bad}") from None
        rule = parse_rule(words)
        if rule is not None:
            rules.append(rule)
        else:
            options[words[0].lstrip("-")] = words[1] if len(words) > 1 else ""
    return rules, options


def _commands(rules: Iterable[_Rule]) -> list[str]:
    found = set()
    for rule in rules:
        arch = rule.value("arch")
        if (
            rule.action == "always,exit"
            and {"execve", "execveat"} <= rule.calls
            and arch is not None
            and rule.only("arch", "key")
        ):
            found.add(arch)
    return sorted(found)


def _hiding(rules: Iterable[_Rule]) -> list[str]:
    return sorted(
        str(rule)
        for rule in rules
        if "never" in rule.action or "exclude" in rule.action or "task" in rule.action
    )


def _folders(rules: Iterable[_Rule]) -> dict[str, list[str]]:
    """Return by architecture the folders in which every writing and change of rights is kept."""
    found: dict[str, set[str]] = {"b32": set(), "b64": set()}
    for rule in rules:
        folder, permission = rule.value("dir"), rule.value("perm") or ""
        arch = rule.value("arch")
        if folder is None or rule.action != "always,exit" or not set("aw") <= set(permission):
            continue
        if rule.only("arch", "dir", "perm", "key"):
            for name in found if arch is None else (arch,):
                found.setdefault(name, set()).add(folder)
    return {arch: sorted(folders) for arch, folders in found.items()}


def _calls(rules: Iterable[_Rule]) -> dict[str, list[str]]:
    """Return by architecture the calls that are recorded whoever or whichever person makes them."""
    found: dict[str, set[str]] = {"b32": set(), "b64": set()}
    for rule in rules:
        if rule.action == "always,exit" and rule.only("arch", "key"):
            found.setdefault(rule.value("arch") or "", set()).update(rule.calls)
    return {arch: sorted(calls) for arch, calls in found.items()}


def _about(rules: list[_Rule]) -> dict[str, Any]:
    return {
        "rules": sorted(str(rule) for rule in rules),
        "commands": _commands(rules),
        "hiding": _hiding(rules),
        "folders": _folders(rules),
        "calls": _calls(rules),
    }


def _rules(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "disk")
    disk, options = _parse(text_of(found, RULES), quoted=True)
    parts: list[_Rule] = []
    for path in sorted(drop_ins(found)):
        if path != RULES:
            parts += _parse(text_of(found, path), quoted=True)[0]
    loaded, _ = _parse(output(raw, "loaded"), quoted=False)
    on_disk = {str(rule) for rule in disk}
    in_kernel = {str(rule) for rule in loaded}
    return {
        "disk": {**_about(disk), "options": options},
        "runtime": _about(loaded),
        "missing": sorted(on_disk - in_kernel),
        "foreign": sorted(in_kernel - on_disk),
        "unmerged": sorted({str(rule) for rule in parts} ^ on_disk),
    }


def _status(raw: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines_of(output(raw, "status")):
        name, _, value = line.strip().partition(" ")
        if name == "loginuid_immutable":
            number, _, lock = value.partition(" ")
            found["loginuid_immutable"] = number == "1"
            found["loginuid_locked"] = lock == "locked"
        elif name and is_number(value):
            found[name] = int(value)
    missing = {"enabled", "failure", "pid", "backlog_limit", "lost"} - set(found)
    if missing:
        raise ProbeError(f"auditctl -s: no {', '.join(sorted(missing))}")
    return found


def _settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines_of(text_of(files(raw, "file"), "/etc/audit/auditd.conf")):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, sep, value = stripped.partition("=")
        if not sep:
            raise ProbeError(f"auditd.conf: {stripped[:60]!r} is no setting")
        found[name.strip().lower()] = value.strip().lower()
    for name in ("max_log_file", "num_logs"):
        if not is_number(found.get(name, "")):
            raise ProbeError(f"auditd.conf: {name} is not set")
    found["kept_megabytes"] = int(found["max_log_file"]) * int(found["num_logs"])
    return found


#: root, and adm: who may read logs on Debian.
_LOG_GROUPS = (0, 4)


def _protection(raw: Mapping[str, Any]) -> dict[str, Any]:
    logs = files(raw, "logs")
    settings = files(raw, "settings")
    if "/var/log/audit" not in logs or "/etc/audit" not in settings:
        raise ProbeError("/var/log/audit or /etc/audit is not there")
    return {
        "open_logs": sorted(
            path
            for path, entry in logs.items()
            if entry.uid != 0
            or entry.gid not in _LOG_GROUPS
            or entry.mode & 0o037 & ~_reach(entry.kind)
        ),
        "open_settings": sorted(
            path
            for path, entry in settings.items()
            if entry.uid != 0 or entry.gid != 0 or entry.mode & 0o037 & ~_reach(entry.kind)
        ),
        "logs": sorted(logs),
    }


def _reach(kind: str) -> int:
    """Return the bits that only let a folder's group through it."""
    return 0o010 if kind == "dir" else 0


_JOURNALD_DIRS = (
    "/usr/lib/systemd/journald.conf.d",
    "/usr/local/lib/systemd/journald.conf.d",
    "/run/systemd/journald.conf.d",
    "/etc/systemd/journald.conf.d",
)


def _journal(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = drop_ins(files(raw, "settings"))
    main = [path for path in found if path == "/etc/systemd/journald.conf"]
    chosen: dict[str, tuple[int, str]] = {}
    for path in found:
        folder, _, name = path.rpartition("/")
        if folder in _JOURNALD_DIRS:
            rank = _JOURNALD_DIRS.index(folder)
            if name not in chosen or chosen[name][0] < rank:
                chosen[name] = (rank, path)
    settings = {"storage": "auto"}
    for path in [*main, *(chosen[name][1] for name in sorted(chosen))]:
        for line in lines_of(text_of(found, path)):
            key, sep, value = line.strip().partition("=")
            if sep and not key.startswith(("#", ";")):
                settings[key.strip().lower()] = value.strip().lower()
    return {
        "disk": settings,
        "kept": any(entry.kind == "file" for entry in files(raw, "kept").values()),
    }


PROBES = (
    Probe(
        name="audit-rules",
        operations={
            "loaded": Run(("auditctl", "-l")),
            "disk": Read((RULES, "/etc/audit/rules.d/*.rules")),
        },
        parse=_rules,
    ),
    Probe(name="audit-status", operations={"status": Run(("auditctl", "-s"))}, parse=_status),
    Probe(
        name="audit-settings",
        operations={"file": Read(("/etc/audit/auditd.conf",))},
        parse=_settings,
    ),
    Probe(
        name="audit-protection",
        operations={
            "logs": Read(("/var/log/audit", "/var/log/audit/*"), content=False),
            "settings": Read(("/etc/audit", "/etc/audit/*", "/etc/audit/rules.d/*"), content=False),
        },
        parse=_protection,
    ),
    Probe(
        name="system-journal",
        operations={
            "settings": Read(
                (
                    "/etc/systemd/journald.conf",
                    *(f"{folder}/*.conf" for folder in _JOURNALD_DIRS),
                )
            ),
            "kept": Read(("/var/log/journal/*/system.journal",), content=False),
        },
        parse=_journal,
    ),
)
