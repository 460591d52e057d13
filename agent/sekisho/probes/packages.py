"""Package facts: what is installed and whole, where packages may come from, what waits.

Sources: dpkg-query(1), sources.list(5) (one-line and deb822), apt.conf(5), apt-secure(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, Run, files, output

INSTALLED = Run(("dpkg-query", "-W", "-f", "${Package}\\t${Version}\\t${db:Status-Abbrev}\\n"))
_STATUS = re.compile(r"[uihrp][ncHUFWti][ R]")
_CONF = re.compile(r'(?P<key>\S+) "(?P<value>.*)";')
_PENDING = re.compile(r"Inst (?P<name>\S+) \[(?P<old>[^]]*)\] \((?P<new>\S+) .*")
#: Options of a source that switch its signature off.
_WEAK_OPTIONS = ("trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure")
#: apt's own switches, effective values in which a signature no longer counts.
WEAK_SETTINGS = (
    "APT::Get::AllowUnauthenticated",
    "Acquire::AllowInsecureRepositories",
    "Acquire::AllowWeakRepositories",
    "Acquire::AllowDowngradeToInsecureRepositories",
)
#: Written by the role ``packages``; empty when the site names no mirror.
SECURITY_SOURCE = "/etc/apt/sources.list.d/sekisho-security.sources"
TRUE = ("1", "true", "yes", "on", "with", "enable")
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


def read_one_line(path: str, text: str) -> list[Source]:
    """Return the sources of a ``.list`` file; `ProbeError` for a line that is none."""
    found = []
    for line in text.splitlines():
        entry = line.split("#", 1)[0].strip()
        if not entry:
            continue
        match = re.fullmatch(
            r"deb(?:-src)?\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+\S.*", entry
        )
        if match is None:
            raise ProbeError(f"{path}: not a source: {entry[:80]!r}")
        pairs = [option.lower().partition("=") for option in (match["options"] or "").split()]
        options = {key: value for key, _, value in pairs}
        found.append(
            Source(
                path,
                match["uri"],
                options.get("signed-by", ""),
                any(options.get(key, "") in TRUE for key in _WEAK_OPTIONS),
            )
        )
    return found


def read_deb822(path: str, text: str) -> list[Source]:
    """Return the enabled sources of a ``.sources`` file."""
    found = []
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in re.split(r"\n[ \t]*\n", plain):
        held: dict[str, list[str]] = {}
        key = ""
        for line in block.splitlines():
            if line[:1].isspace() and key:
                held[key].append(line.strip())
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                held[key] = [value.strip()]
            elif line.strip():
                raise ProbeError(f"{path}: not a field: {line[:80]!r}")
        fields = {key: " ".join(parts) for key, parts in held.items()}
        if not fields or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        if "uris" not in fields:
            raise ProbeError(f"{path}: a source without URIs")
        found += [
            Source(
                path,
                uri,
                fields.get("signed-by", ""),
                any(fields.get(key, "").lower() in TRUE for key in _WEAK_OPTIONS),
            )
            for uri in fields["uris"].split()
        ]
    return found


def read_sources(found: Mapping[str, FileOutcome]) -> list[Source]:
    """Return every enabled source of every file apt reads."""
    sources: list[Source] = []
    for path, entry in sorted(found.items()):
        if entry.kind == "dir":
            continue
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'not a regular file'}")
        read = read_deb822 if path.endswith(".sources") else read_one_line
        sources += read(path, entry.text)
    return sources


def read_installed(text: str) -> list[tuple[str, str, str]]:
    """Return name, version and dpkg's three status letters of every package known."""
    found = []
    for line in text.splitlines():
        parts = line.split("\t")
        if len(parts) != 3 or not _STATUS.fullmatch(parts[2]):
            raise ProbeError(f"dpkg-query: not a package: {line[:80]!r}")
        found.append((parts[0], parts[1], parts[2]))
    if not found:
        raise ProbeError("dpkg-query: no package at all")
    return found


def read_settings(text: str) -> dict[str, list[str]]:
    """Return apt's effective settings: values by name, list items under the list's name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = _CONF.fullmatch(line)
        if match is None:
            raise ProbeError(f"apt-config: not a setting: {line[:80]!r}")
        values = found.setdefault(match["key"].removesuffix("::"), [])
        if match["value"]:
            values.append(match["value"])
    if not found:
        raise ProbeError("apt-config: nothing set")
    return found


def _packages(raw: Mapping[str, Any]) -> dict[str, Any]:
    installed = read_installed(output(raw, "installed"))
    settings = read_settings(output(raw, "settings"))
    sources = read_sources(files(raw, "sources"))
    return {
        "installed": sorted({name for name, _, status in installed if status[1] == "i"}),
        "held": sorted(name for name, _, status in installed if status[0] == "h"),
        "broken": sorted(
            f"{name} {status.strip()}"
            for name, _, status in installed
            if status[1] not in "inc" or status[2] != " "
        ),
        "sources": sorted({source.uri for source in sources}),
        "unsigned": sorted({f"{s.path} {s.uri}" for s in sources if s.weak}),
        "without_key": sorted({f"{s.path} {s.uri}" for s in sources if not s.signed_by}),
        "weak_settings": sorted(
            key
            for key in WEAK_SETTINGS
            if any(value.lower() in TRUE for value in settings.get(key, ()))
        ),
        "settings": {key: values[-1] for key, values in settings.items() if values},
        "origins": sorted(settings.get("Unattended-Upgrade::Origins-Pattern", [])),
        "hooks": sorted(
            {v for key, values in settings.items() if HOOK.fullmatch(key) for v in values}
        ),
    }


_NUMBER = re.compile(r"(\d+)")


def _by_version(release: str) -> list[tuple[int, str]]:
    """Return a sort key for kernel releases: numbers as numbers, the rest as text."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in _NUMBER.split(release)
        if part
    ]


def newest_kernel(images: Iterable[str]) -> str:
    """Return the newest release among ``/boot/vmlinuz-*``; `ProbeError` when there is none."""
    releases = [path.partition("vmlinuz-")[2] for path in images]
    if not releases:
        raise ProbeError("no kernel image in /boot")
    return max(releases, key=_by_version)


def _updates(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the security updates that wait, by the index the site's mirror gave last.

    Only the security archive is asked: the whole of Debian takes apt seconds to read.
    """
    if SECURITY_SOURCE not in files(raw, "source"):
        raise ProbeError(f"{SECURITY_SOURCE}: no such file: the security archive is not known")
    return {
        "pending": sorted(
            match["name"]
            for line in output(raw, "pending").splitlines()
            if (match := _PENDING.fullmatch(line.strip()))
        )
    }


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
        name="updates",
        operations={
            "source": Read((SECURITY_SOURCE,)),
            "pending": Run(
                (
                    *("apt-get", "-s", "-qq", "-o", "Debug::NoLocking=1"),
                    *("-o", f"Dir::Etc::SourceList={SECURITY_SOURCE}"),
                    *("-o", "Dir::Etc::SourceParts=/dev/null", "dist-upgrade"),
                )
            ),
        },
        parse=_updates,
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
