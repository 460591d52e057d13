"""Whose kernel runs: who built it, which package brought its image, and whether that is whole.

The kernel's line (``/proc/version``) names its builder and, for Debian's, the package's version.
A kernel made to lie can write any line: the image's digest, the signatures of modules and the
exercises are there for that. Sources: proc_version(5), dpkg-query(1), Debian kernel handbook 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output, text_of
from sekisho.probes.packages import INSTALLED, read_installed

BUILDER = "debian-kernel@lists.debian.org"
_VERSION = re.compile(r"Linux version (?P<release>\S{1,128}) \((?P<builder>[^() ]{1,128})\) ")
#: The end of the line: the package's version and the day of its changelog.
_BUILD = re.compile(r" Debian (?P<version>\S{1,128}) \([0-9]{4}-[0-9]{2}-[0-9]{2}\)$", re.ASCII)
_OWNER = re.compile(
    r"/var/lib/dpkg/info/(?P<package>[^/:]+)(:[^/:]+)?\.list:/boot/vmlinuz-(?P<release>\S+)"
)
_RECORD = re.compile(
    r"/var/lib/dpkg/info/(?P<package>[^/:]+)(:[^/:]+)?\.md5sums:"
    r"(?P<md5>[0-9a-f]{32})  boot/vmlinuz-(?P<release>\S+)"
)
_DIGEST = re.compile(r"(?P<md5>[0-9a-f]{32}) [ *]/boot/vmlinuz-(?P<release>\S+)")


def _lines(pattern: re.Pattern[str], text: str, what: str) -> list[re.Match[str]]:
    found = []
    for line in text.removesuffix("\n").split("\n") if text else []:
        match = pattern.fullmatch(line)
        if match is None:
            raise ProbeError(f"{what}: not a line of it: {line[:80]!r}")
        found.append(match)
    return found


def _kernel_build(raw: Mapping[str, Any]) -> dict[str, Any]:
    line = text_of(files(raw, "version"), "/proc/version").removesuffix("\n")
    told = _VERSION.match(line)
    if told is None:
        raise ProbeError(f"/proc/version: not a kernel's line: {line[:80]!r}")
    release, build = told["release"], _BUILD.search(line)
    foreign = []
    if told["builder"] != BUILDER:
        foreign.append(f"{release} was built by {told['builder']}, not {BUILDER}")
    if build is None:
        foreign.append(f"{release} names no version of a Debian package")
    installed = {
        name: version
        for name, version, status in read_installed(output(raw, "installed"))
        if status[1] == "i"
    }
    owners = {
        match["package"]
        for match in _lines(_OWNER, output(raw, "owners", ok=(0, 1)), "dpkg's lists")
        if match["release"] == release
    } & set(installed)
    return {
        "release": release,
        "foreign": foreign,
        "unpackaged": _image(raw, release, owners, installed, build["version"] if build else ""),
    }


def _image(
    raw: Mapping[str, Any], release: str, owners: set[str], installed: Mapping[str, str], build: str
) -> list[str]:
    """Return why the image on disk is not the one that a package brought for this kernel."""
    image = f"/boot/vmlinuz-{release}"
    now = {
        match["release"]: match["md5"] for match in _lines(_DIGEST, output(raw, "images"), "md5sum")
    }
    recorded = {
        match["md5"]
        for match in _lines(_RECORD, output(raw, "recorded", ok=(0, 1)), "dpkg's digests")
        if match["release"] == release and match["package"] in owners
    }
    if release not in now:
        return [f"{image}: no such image"]
    if not owners:
        return [f"{image}: of no package"]
    found = []
    if now[release] not in recorded:
        found.append(f"{image}: not as {', '.join(sorted(owners))} brought it")
    if build and build not in {installed[name] for name in owners}:
        versions = ", ".join(sorted(f"{name} {installed[name]}" for name in owners))
        found.append(f"{image}: version {build} runs, installed is {versions}")
    return found


def _grep(ending: str, pattern: str) -> Run:
    return Run(("grep", "-raHE", f"--include=*.{ending}", pattern, "/var/lib/dpkg/info"), ok=(0, 1))


PROBES = (
    Probe(
        name="kernel_build",
        operations={
            "version": Read(("/proc/version",)),
            "installed": INSTALLED,
            "owners": _grep("list", "^/boot/vmlinuz-"),
            "recorded": _grep("md5sums", "^[0-9a-f]{32}  boot/vmlinuz-"),
            "images": Run(
                (
                    *("find", "/boot", "-maxdepth", "1", "-type", "f", "-name", "vmlinuz-*"),
                    *("-exec", "md5sum", "--", "{}", "+"),
                )
            ),
        },
        parse=_kernel_build,
    ),
)
