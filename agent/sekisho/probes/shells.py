"""Login shells: the idle time after which they end (TMOUT), by what their start files say.

The files are not run but read: what this reader cannot follow is an error, never a value.
Sources: bash(1) INVOCATION and TMOUT, Debian's /etc/profile and /etc/bash.bashrc, pam_env(8).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sekisho.probes.accounts import read_passwd
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, files, text_of

PROFILE, BASHRC, ENVIRONMENT = "/etc/profile", "/etc/bash.bashrc", "/etc/environment"
FOLDER = "/etc/profile.d/"
_PAM_ENV = "/etc/security/pam_env.conf"
#: The names that Debian's /etc/profile asks run-parts for.
_SCRIPT = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]*\.sh")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNED = re.compile(r"TMOUT=(?P<quote>[\"']?)(?P<value>[0-9]*)(?P=quote)")
_NAMED = re.compile(r"\bTMOUT\b")
#: Only looked at, not changed.
_READS = re.compile(r"\$TMOUT\b|\$\{TMOUT(?::?-[^{}]*)?\}")
_FOR, _EACH = re.compile(r"\bfor\b"), re.compile(r"/etc/profile\.d\b")
_SOURCES = re.compile(r"(?:^|[;&|]|\bthen\b)\s*(?:\.|source)\s+([^\s;&|]+)")
_ENDS = re.compile(r"\b(?:return|exit|exec)\b")
#: Of all start files together, each as often as it is read: a file can name another on each line.
_MAX_LINES = 50_000
_OPENS = frozenset(("if", "for", "while", "until", "case", "select", "{", "(", "function"))
_CLOSES = frozenset(("fi", "done", "esac", "}", ")"))
_DECLARES = frozenset(("export", "readonly", "declare", "typeset"))
_OPTIONS = re.compile(r"-[gxri]+")
#: Shells that end when TMOUT says so and read /etc/profile.
_BASH = ("/bin/bash", "/usr/bin/bash")


@dataclass(frozen=True, slots=True)
class Idle:
    """TMOUT in one shell: its value (None: not set), readonly and exported."""

    value: str | None = None
    readonly: bool = False
    exported: bool = False

    def fact(self) -> dict[str, Any]:
        """Return the state for checks; without a number there is no key ``seconds``."""
        seconds = {"seconds": int(self.value)} if self.value else {}
        return {**seconds, "readonly": self.readonly, "exported": self.exported}


class _Unclear(Exception):  # noqa: N818 - becomes a ProbeError with its place
    """A statement with TMOUT in it that this reader cannot follow."""


def _statement(words: list[str], held: Idle) -> Idle:
    """Return TMOUT after one simple command that names it."""
    verb = words[0]
    if verb == "unset":
        if all(word == "-v" or _WORD.fullmatch(word) for word in words[1:]):
            return held if held.readonly else replace(held, value=None, exported=False)
        raise _Unclear
    options, rest = _declared(words)
    for word in rest:
        match = _ASSIGNED.fullmatch(word)
        if match is None and word != "TMOUT":
            if _NAMED.search(word):
                raise _Unclear
            continue
        if match is not None and held.readonly and verb != "export":
            continue  # bash refuses the whole word; export keeps its half
        if match is not None and not held.readonly:
            held = replace(held, value=match["value"] or None)
        held = replace(
            held,
            readonly=held.readonly or verb == "readonly" or "r" in options,
            exported=held.exported or verb == "export" or "x" in options,
        )
    return held


def _declared(words: list[str]) -> tuple[str, list[str]]:
    """Return the options of a declaration and its words; a bare assignment is its own word."""
    if len(words) == 1:
        return "", words
    if words[0] not in _DECLARES:
        raise _Unclear  # an assignment before a command, a test, a command that takes the name
    options, rest = "", words[1:]
    while rest and rest[0].startswith("-"):
        if not _OPTIONS.fullmatch(rest[0]):
            raise _Unclear
        options += rest.pop(0)
    return options, rest


def _commands(text: str) -> list[tuple[int, str]]:
    """Return (line number, text) of every line, joined where a backslash ends one."""
    found: list[tuple[int, str]] = []
    held, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        start = start or number
        if line.endswith("\\"):
            held += line[:-1]
            continue
        found.append((start, held + line))
        held, start = "", 0
    return [*found, (start, held)] if held else found


def _first_words(line: str) -> list[str]:
    """Return the words that stand where a command may begin."""
    words = []
    for part in re.split(r"[;&|\n]", line):
        for word in part.split():
            if word in ("then", "do", "else", "elif", "!"):
                continue
            words.append(word)
            if word not in _OPENS and word not in _CLOSES:
                break
    return words


class _Reader:
    """Follow the files in bash's order; ``order`` names the scripts of /etc/profile.d."""

    def __init__(self, found: Mapping[str, FileOutcome], order: list[str]) -> None:
        self._found = found
        self._order = order
        self.looped = False
        self._lines = 0

    def login(self, held: Idle) -> Idle:
        """Return the state in a login shell that somebody types into."""
        held = self._file(PROFILE, held) if PROFILE in self._found else held
        if not self.looped and any(
            _NAMED.search(text_of(self._found, script)) for script in self._order
        ):
            raise ProbeError(f"{PROFILE}: cannot evaluate TMOUT: no loop over {FOLDER}*.sh found")
        return held

    def nested(self, held: Idle) -> Idle:
        """Return the state of a shell begun inside: the value when exported, readonly never."""
        inherited = Idle(held.value, exported=True) if held.exported else Idle()
        return self._file(BASHRC, inherited) if BASHRC in self._found else inherited

    def _file(self, path: str, held: Idle) -> Idle:
        text = text_of(self._found, path)
        depth, ended = 0, False
        for number, line in _commands(text):
            self._lines += 1
            if self._lines > _MAX_LINES:
                raise ProbeError(f"{path}: cannot evaluate TMOUT: more than {_MAX_LINES} lines")
            bare = line.partition(" #")[0] if not line.lstrip().startswith("#") else ""
            here = f"{path}:{number}"
            if path == PROFILE and ((loop := _FOR.search(bare)) and _EACH.search(bare, loop.end())):
                self.looped = True
                for script in self._order:
                    held = self._file(script, held)
            elif (source := _SOURCES.search(bare)) is not None:
                held = self._sourced(here, source[1], held)
            firsts = _first_words(bare)
            named = _NAMED.search(_READS.sub("", bare))
            if named and (depth or ended):
                held = _unclear(here, bare, held)
            elif named:
                held = _line(here, bare, held)
            opened = sum(word in _OPENS or word.endswith("()") for word in firsts)
            depth = max(0, depth + opened - sum(word in _CLOSES for word in firsts))
            # Debian's bash.bashrc ends at once in a shell that nobody sits at.
            ended = ended or ("PS1" not in bare and _ENDS.search(bare) is not None)
        return held

    def _sourced(self, here: str, target: str, held: Idle) -> Idle:
        path = target.strip("\"'")
        if path == BASHRC and here.startswith(PROFILE):
            return self._file(BASHRC, held) if BASHRC in self._found else held
        if held.readonly or path.startswith("/usr/") or path in ("$i", "${i}"):
            return held  # it cannot change TMOUT any more, is a package's, or is the loop's
        raise ProbeError(f"{here}: cannot evaluate TMOUT: it reads {path[:60]!r} as well")


def _unclear(here: str, line: str, held: Idle) -> Idle:
    """Return TMOUT after a line that this reader cannot follow: readonly, nothing changes it."""
    if held.readonly and not re.search(r"\+\w*x|-\w*n", line):
        return held
    raise ProbeError(
        f"{here}: cannot evaluate TMOUT here: {line.strip()[:60]!r}; expected TMOUT=SECONDS, "
        "readonly TMOUT, export TMOUT or unset TMOUT outside any condition"
    )


def _line(here: str, line: str, held: Idle) -> Idle:
    # Statements that all name TMOUT follow one another whatever joins them: none of them fails
    # unless it is readonly already, when none of them changes it.
    joined = line.split("&&")
    if len(joined) > 1 and all(_NAMED.search(part) for part in joined):
        line = ";".join(joined)
    if re.search(r"[&|`$(){}<>*?!\[\]]", line):
        return _unclear(here, line, held)
    for part in line.split(";"):
        words = part.split()
        if words and _NAMED.search(part):
            try:
                held = _statement(words, held)
            except _Unclear:
                held = _unclear(here, part, held)
    return held


def _environment(found: Mapping[str, FileOutcome]) -> Idle:
    """Return what pam_env gives every session before its shell reads a file."""
    if _PAM_ENV in found and any(
        _NAMED.search(line) and not line.lstrip().startswith("#")
        for line in text_of(found, _PAM_ENV).split("\n")
    ):
        raise ProbeError(f"{_PAM_ENV}: cannot evaluate TMOUT here")
    held = Idle()
    if ENVIRONMENT in found:
        for line in text_of(found, ENVIRONMENT).split("\n"):
            bare = line.partition("#")[0].strip().removeprefix("export ").strip()
            match = _ASSIGNED.fullmatch(bare)
            if match is not None:
                held = Idle(match["value"] or None, exported=True)
            elif _NAMED.search(bare):
                raise ProbeError(f"{ENVIRONMENT}: cannot evaluate TMOUT here: {bare[:60]!r}")
    return held


def _shells(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "files")
    accounts = read_passwd(text_of(found, "/etc/passwd"))
    scripts = [
        path
        for path, entry in found.items()
        if path.startswith(FOLDER)
        and entry.kind != "dir"
        and _SCRIPT.fullmatch(path.removeprefix(FOLDER))
    ]
    first = _environment(found)
    # A shell that lists them itself sorts by the locale's letters, run-parts by bytes.
    ways = []
    for key in (str, str.casefold):
        reader = _Reader(found, sorted(scripts, key=key))
        login = reader.login(first)
        ways.append((login, reader.nested(login)))
    if ways[0] != ways[1]:
        raise ProbeError(f"{FOLDER}: TMOUT depends on the order in which its files are read")
    login, nested = ways[0]
    return {
        "login": login.fact(),
        "nested": nested.fact(),
        "other_shells": sorted(
            f"{account.name} {account.shell or '/bin/sh'}"
            for account in accounts
            if account.may_log_in and account.shell not in _BASH
        ),
    }


PROBES = (
    Probe(
        name="shells",
        operations={
            "files": Read(
                (PROFILE, f"{FOLDER}*", BASHRC, ENVIRONMENT, _PAM_ENV, "/etc/passwd"),
            )
        },
        parse=_shells,
    ),
)
