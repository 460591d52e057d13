"""Package facts: what is installed and whole, where packages may come from, what waits.

Sources: dpkg-query(1), sources.list(5) (one-line and deb822), apt.conf(5), apt-secure(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.core.text import is_number, lines_of
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, Run, files, output

INSTALLED = Run(("dpkg-query", "-W", "-f", "${Package}\\t${Version}\\t${db:Status-Abbrev}\\n"))
_STATUS = re.compile(r"[uihrp][ncHUFWti][ R]")
_CONF = re.compile(r'(?P<key>\S+) "(?P<value>.*)";')
#: Options of a source that switch its signature off.
_WEAK_OPTIONS = ("trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure")
#: apt's own switches, effective values in which a signature no longer counts.
WEAK_SETTINGS = (
    "APT::Get::AllowUnauthenticated",
    "Acquire::AllowInsecureRepositories",
    "Acquire::AllowWeakRepositories",
    "Acquire::AllowDowngradeToInsecureRepositories",
)
TRUE = ("true", "yes", "on", "with", "enable")
FALSE = ("false", "no", "off", "without", "disable")
_ONE_OR_ZERO = re.compile(r"\+?(?:0x)?0*[01]")
#: One word of a one-line source; what stands in quotes may hold blanks.
_WORD = re.compile(r'(?:"[^"]*"|[^\s"])+')
#: apt passes over a file of another name.
_READ_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_ENCODED = re.compile(r"%([0-9a-fA-F]{2})")
_LEAST_WORDS = 2  # a URI and a suite
#: Where apt reads its sources; elsewhere this reader would look at files apt does not use.
_PLACES = {
    "dir": "/",
    "dir::etc": "etc/apt",
    "dir::etc::sourcelist": "sources.list",
    "dir::etc::sourceparts": "sources.list.d",
}
_UNATTENDED = "unattended-upgrade::"
#: Hooks that Debian's own packages bring (apt-config lists them without their origin).
HOOK = re.compile(
    r"(?i)(dpkg|apt)::(pre|post)-(install-pkgs|invoke(-success)?)|apt::update::.*invoke.*"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of apt's sources."""

    path: str
    uri: str
    signed_by: str
    weak: bool


def switch(word: str, *, default: bool = False) -> bool:
    """Return what apt makes of a yes or no (StringToBool); another word is the default."""
    bare = word.strip().lower()
    if _ONE_OR_ZERO.fullmatch(bare):
        return bare.endswith("1")
    return bare in TRUE or (default and bare not in FALSE)


def _unquoted(word: str) -> str:
    """Return a word of a one-line source as apt reads it: without quotes, ``%79`` is ``y``."""
    return _ENCODED.sub(lambda code: chr(int(code[1], 16)), word.replace('"', ""))


def read_one_line(path: str, text: str) -> list[Source]:
    """Return the sources of a ``.list`` file; `ProbeError` for a line that is none.

    As apt: names of options are told apart by case, of one given twice the last counts.
    """
    found = []
    for line in text.split("\n"):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        kind, _, rest = entry.replace("\t", " ").partition(" ")
        bracket, inside, after = "", "", rest.strip()
        if after.startswith("["):
            inside, bracket, after = after[1:].partition("]")
            if not bracket or not after.startswith(" "):
                raise ProbeError(f"{path}: not a source: {entry[:80]!r}")
        words = _WORD.findall(after)
        if kind not in ("deb", "deb-src") or len(words) < _LEAST_WORDS:
            raise ProbeError(f"{path}: not a source: {entry[:80]!r}")
        pairs = [_unquoted(option).partition("=") for option in _WORD.findall(inside)]
        if any(not equals for _, equals, _ in pairs):
            raise ProbeError(f"{path}: not an option: {inside[:80]!r}")
        options = {key: value for key, _, value in pairs}
        found.append(
            Source(
                path,
                _unquoted(words[0]),
                options.get("signed-by", ""),
                any(switch(options.get(key, "")) for key in _WEAK_OPTIONS),
            )
        )
    return found


def read_deb822(path: str, text: str) -> list[Source]:
    """Return the enabled sources of a ``.sources`` file; of a field given twice the last counts."""
    found = []
    lines = [line.rstrip("\r") for line in text.split("\n") if not line.startswith("#")]
    for block in "\n".join(lines).split("\n\n"):
        held: dict[str, list[str]] = {}
        key = ""
        for line in block.split("\n"):
            if line[:1].isspace() and key:
                held[key].append(line.strip())
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                held[key] = [value.strip()]
            elif line.strip():
                raise ProbeError(f"{path}: not a field: {line[:80]!r}")
        fields = {key: "\n".join(parts) for key, parts in held.items()}
        if not fields or not switch(fields.get("enabled", ""), default=True):
            continue
        if "uris" not in fields:
            raise ProbeError(f"{path}: a source without URIs")
        found += [
            Source(
                path,
                uri,
                fields.get("signed-by", ""),
                any(switch(fields.get(key, "")) for key in _WEAK_OPTIONS),
            )
            for uri in fields["uris"].split()
        ]
    return found


def read_sources(found: Mapping[str, FileOutcome]) -> list[Source]:
    """Return every enabled source of every file apt reads."""
    sources: list[Source] = []
    for path, entry in sorted(found.items()):
        if entry.kind == "dir" or not _READ_NAME.fullmatch(path.rpartition("/")[2]):
            continue
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'not a regular file'}")
        read = read_deb822 if path.endswith(".sources") else read_one_line
        sources += read(path, entry.text)
    return sources


def read_installed(text: str) -> list[tuple[str, str, str]]:
    """Return name, version and dpkg's three status letters of every package known."""
    found = []
    for line in lines_of(text):
        parts = line.split("\t")
        if len(parts) != 3 or not _STATUS.fullmatch(parts[2]):
            raise ProbeError(f"dpkg-query: not a package: {line[:80]!r}")
        found.append((parts[0], parts[1], parts[2]))
    if not found:
        raise ProbeError("dpkg-query: no package at all")
    return found


def read_settings(text: str) -> dict[str, list[str]]:
    """Return apt's effective settings: values by name, list items under the list's name.

    Names are in lower case: apt does not tell them apart by case, and shows the first spelling.
    """
    found: dict[str, list[str]] = {}
    for line in text.split("\n"):
        if not line:
            continue
        match = _CONF.fullmatch(line)
        if match is None:
            raise ProbeError(f"apt-config: not a setting: {line[:80]!r}")
        values = found.setdefault(match["key"].removesuffix("::").lower(), [])
        if match["value"]:
            values.append(match["value"])
    if not found:
        raise ProbeError("apt-config: nothing set")
    return found


def _packages(raw: Mapping[str, Any]) -> dict[str, Any]:
    installed = read_installed(output(raw, "installed"))
    settings = read_settings(output(raw, "settings"))
    sources = read_sources(files(raw, "sources"))
    last = {key: values[-1] for key, values in settings.items() if values}
    elsewhere = [
        f"apt reads its sources by {key} {last[key]}"
        for key, usual in _PLACES.items()
        if last.get(key, usual) != usual
    ]
    return {
        "installed": sorted({name for name, _, status in installed if status[1] == "i"}),
        "held": sorted(name for name, _, status in installed if status[0] == "h"),
        "broken": sorted(
            f"{name} {status.strip()}"
            for name, _, status in installed
            if status[1] not in "inc" or status[2] != " "
        ),
        "sources": sorted({*(source.uri for source in sources), *elsewhere}),
        "unsigned": sorted({*(f"{s.path} {s.uri}" for s in sources if s.weak), *elsewhere}),
        "without_key": sorted({f"{s.path} {s.uri}" for s in sources if not s.signed_by}),
        "weak_settings": sorted(key for key in WEAK_SETTINGS if switch(last.get(key.lower(), ""))),
        "settings": last,
        "origins": sorted(settings.get(f"{_UNATTENDED}origins-pattern", [])),
        # Further origins by the older name; packages and days that are left out.
        "unattended": {
            key: sorted(settings.get(_UNATTENDED + key, []))
            for key in ("allowed-origins", "package-blacklist", "update-days")
        },
        "hooks": sorted(
            {v for key, values in settings.items() if HOOK.fullmatch(key) for v in values}
        ),
    }


_NUMBER = re.compile(r"(\d+)")


def _by_version(release: str) -> list[tuple[int, str]]:
    """Return a sort key for kernel releases: numbers as numbers, the rest as text."""
    return [
        (int(part), "") if is_number(part, 4000) else (-1, part)
        for part in _NUMBER.split(release)
        if part
    ]


def newest_kernel(images: Iterable[str]) -> str:
    """Return the newest release among ``/boot/vmlinuz-*``; `ProbeError` when there is none."""
    releases = [path.partition("vmlinuz-")[2] for path in images]
    if not releases:
        raise ProbeError("no kernel image in /boot")
    return max(releases, key=_by_version)


def _kernel_package(raw: Mapping[str, Any]) -> dict[str, Any]:
    running = output(raw, "release").strip()
    images = files(raw, "images")
    newest = newest_kernel(images)
    return {
        "running": running,
        "newest": newest,
        "older_than_installed": [] if running == newest else [f"{running} (installed: {newest})"],
        "restart_wanted": sorted(files(raw, "restart")),
    }


PROBES = (
    Probe(
        name="packages",
        operations={
            "installed": INSTALLED,
            "sources": Read(
                (
                    "/etc/apt/sources.list",
                    "/etc/apt/sources.list.d/*.list",
                    "/etc/apt/sources.list.d/*.sources",
                )
            ),
            "settings": Run(("apt-config", "dump")),
        },
        parse=_packages,
    ),
    Probe(
        name="kernel_package",
        operations={
            "release": Run(("uname", "-r")),
            "images": Read(("/boot/vmlinuz-*",), content=False),
            "restart": Read(("/run/reboot-required",), content=False),
        },
        parse=_kernel_package,
    ),
)
