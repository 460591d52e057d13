"""How people log in at the console: PAM's stacks, failed passwords counted, password quality.

Sources: pam.d(5), faillock.conf(5), pwquality.conf(5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, drop_ins, files

_FOLDER = "/etc/pam.d/"
#: The vendor's stacks; one of the same name in /etc counts instead (libpam's order on Debian).
_VENDOR = ("/usr/lib/pam.d/", "/usr/local/lib/pam.d/")
#: A module named by its whole path lies in Debian's own folder of modules, or is somebody's own.
_FOLDERS = re.compile(r"(/usr)?/lib/([a-z0-9_]+-linux-[a-z0-9]+/)?security/pam_[a-z0-9_]+\.so")
_QUALITY = "/etc/security/pwquality.conf"
_LINE = re.compile(
    r"-?(?P<phase>auth|account|password|session)\s+(?P<control>\[[^]]*\]|\S+)\s+(?P<rest>\S.*)"
)
#: Controls that let no later entry be asked: the login's answer is given there.
_ENDS_WELL = re.compile(r"sufficient|\[.*\b(?:success|default)=(?:done|[0-9]+)\b.*\]")
#: Words of pam_unix(8) that choose how a password is hashed.
_HASHES = ("md5", "bigcrypt", "sha256", "sha512", "blowfish", "gost_yescrypt", "yescrypt")
_DEEPEST = 8


def read_stack(path: str, text: str) -> list[str]:
    """Return the entries of one PAM file, white space made even; `ProbeError` for another line."""
    entries = []
    for line in text.replace("\\\n", " ").split("\n"):
        entry = line.split("#", 1)[0].strip()
        if not entry:
            continue
        match = _LINE.fullmatch(entry)
        if match:
            entries.append(f"{match['phase']} {match['control']} {' '.join(match['rest'].split())}")
        elif entry.startswith("@include"):
            entries.append(" ".join(entry.split()))
        else:
            raise ProbeError(f"{path}: not an entry: {entry[:80]!r}")
    return entries


def read_settings(text: str) -> dict[str, str]:
    """Return ``key = value`` lines; a bare word is a switch and has the value ``yes``."""
    found = {}
    for line in text.split("\n"):
        entry = line.split("#", 1)[0].strip()
        if entry:
            key, sep, value = entry.partition("=")
            found[key.strip()] = value.strip() if sep else "yes"
    return found


def phase(stacks: Mapping[str, list[str]], service: str, name: str, depth: int = 0) -> list[str]:
    """Return one service's entries of a phase in the order they are asked, includes opened.

    Raises:
        ProbeError: an included file is not there, or includes go round in circles.

    """
    if service not in stacks or depth > _DEEPEST:
        raise ProbeError(f"{_FOLDER}{service}: {'included in itself' if depth else 'no such file'}")
    found = []
    for entry in stacks[service]:
        words = entry.split()
        if words[0] == "@include":
            found += phase(stacks, words[1] if len(words) > 1 else "", name, depth + 1)
        elif words[0] == name:
            if words[1] in ("include", "substack"):
                found += phase(stacks, words[2], name, depth + 1)
            else:
                found.append(entry)
    return found


def _around_faillock(stacks: Mapping[str, list[str]], service: str) -> list[str]:
    """Return what lets a login through before its failed passwords are counted."""
    entries = phase(stacks, service, "auth")
    counted = next((at for at, one in enumerate(entries) if "pam_faillock.so preauth" in one), None)
    if counted is None:
        return [f"{service}: its auth entries do not ask pam_faillock.so preauth"]
    return [
        f"{service}: {one}" for one in entries[:counted] if _ENDS_WELL.match(one.split(None, 1)[1])
    ]


def _stacks(found: Mapping[str, FileOutcome]) -> dict[str, list[str]]:
    """Return every stack by its service; one that /etc hides by its whole path."""
    stacks: dict[str, list[str]] = {}
    for folder in (_FOLDER, *_VENDOR):
        for path, entry in found.items():
            if not path.startswith(folder) or entry.kind == "dir":
                continue
            if entry.text is None:
                raise ProbeError(f"{path}: {entry.error or 'not a regular file'}")
            name = path.removeprefix(folder)
            stacks[path if name in stacks else name] = read_stack(path, entry.text)
    if "common-auth" not in stacks:
        raise ProbeError(f"{_FOLDER}common-auth: no such file")
    return stacks


def _text(entry: FileOutcome) -> str:
    if entry.text is None:
        raise ProbeError(f"{entry.path}: {entry.error or 'not a regular file'}")
    return entry.text


def _pam(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "files")
    stacks = _stacks(found)
    quality: dict[str, str] = {}
    parts = sorted(path for path in drop_ins(found) if path.startswith(f"{_QUALITY}.d/"))
    for path in (*parts, _QUALITY):
        if path in found:
            quality |= read_settings(_text(found[path]))
    faillock = found.get("/etc/security/faillock.conf")
    modules = {
        word.rpartition("/")[2]
        for entries in stacks.values()
        for entry in entries
        for word in entry.split()
        if word.endswith(".so")
    }
    return {
        "stacks": stacks,
        "modules": sorted(modules),
        "modules_elsewhere": sorted(
            {
                word
                for entries in stacks.values()
                for entry in entries
                for word in entry.split()
                if ".so" in word and "/" in word and not _FOLDERS.fullmatch(word)
            }
        ),
        "empty_passwords": sorted(
            name
            for name, entries in stacks.items()
            if not name.startswith("/")
            and any(word in ("nullok", "nullok_secure") for e in entries for word in e.split())
        ),
        "faillock": read_settings(_text(faillock)) if faillock else {},
        "quality": quality,
        "password_hash": sorted(
            {
                word
                for entry in stacks.get("common-password", [])
                if "pam_unix.so" in entry.split()
                for word in entry.split()
                if word in _HASHES
            }
        ),
        "without_umask": sorted(
            name
            for name in ("common-session", "common-session-noninteractive")
            if not any("pam_umask.so" in entry.split() for entry in stacks.get(name, []))
        ),
        # /bin/login asks this service, or its file `other` where there is none.
        "uncounted": _around_faillock(stacks, "login" if "login" in stacks else "other"),
    }


PROBES = (
    Probe(
        name="pam",
        operations={
            "files": Read(
                (
                    *(f"{folder}*" for folder in (_FOLDER, *_VENDOR)),
                    *("/etc/security/faillock.conf", _QUALITY, f"{_QUALITY}.d/*.conf"),
                )
            )
        },
        parse=_pam,
    ),
)
