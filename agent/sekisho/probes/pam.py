"""How people log in at the console: PAM's stacks, guesses counted, idle shells ended.

Sources: pam.d(5), faillock.conf(5), pwquality.conf(5), bash(1) TMOUT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.probes.model import Probe, ProbeError, Read, files

_FOLDER = "/etc/pam.d/"
_LINE = re.compile(
    r"-?(?P<phase>auth|account|password|session)\s+(?P<control>\[[^]]*\]|\S+)\s+(?P<rest>\S.*)"
)
#: No ``\s`` after ``^``: it would walk a run of empty lines once for each of them.
_TIMEOUT = re.compile(
    r"^[^\S\n]*(?:(?:export|readonly|declare[^\S\n]+-r\w*)[^\S\n]+){0,4}TMOUT=(\d+)", re.MULTILINE
)


def read_stack(path: str, text: str) -> list[str]:
    """Return the entries of one PAM file, white space made even; `ProbeError` for another line."""
    entries = []
    for line in text.replace("\\\n", " ").splitlines():
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
    for line in text.splitlines():
        entry = line.split("#", 1)[0].strip()
        if entry:
            key, sep, value = entry.partition("=")
            found[key.strip()] = value.strip() if sep else "yes"
    return found


def _pam(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "files")
    stacks: dict[str, list[str]] = {}
    for path, entry in found.items():
        if path.startswith(_FOLDER) and entry.kind != "dir":
            if entry.text is None:
                raise ProbeError(f"{path}: {entry.error or 'not a regular file'}")
            stacks[path.removeprefix(_FOLDER)] = read_stack(path, entry.text)
    if "common-auth" not in stacks:
        raise ProbeError("/etc/pam.d/common-auth: no such file")
    settings = {
        name: read_settings(found[path].text or "") if path in found else {}
        for name, path in (
            ("faillock", "/etc/security/faillock.conf"),
            ("quality", "/etc/security/pwquality.conf"),
        )
    }
    timeouts = [
        int(seconds)
        for path, entry in found.items()
        if path.startswith("/etc/profile")
        for seconds in _TIMEOUT.findall(entry.text or "")
    ]
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
        "empty_passwords": sorted(
            name
            for name, entries in stacks.items()
            if any("nullok" in entry.split() for entry in entries)
        ),
        **settings,
        **({"idle_seconds": max(timeouts)} if timeouts else {}),
    }


PROBES = (
    Probe(
        name="pam",
        operations={
            "files": Read(
                (
                    *("/etc/pam.d/*", "/etc/security/faillock.conf"),
                    *("/etc/security/pwquality.conf", "/etc/profile", "/etc/profile.d/*.sh"),
                )
            )
        },
        parse=_pam,
    ),
)
