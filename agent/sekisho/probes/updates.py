"""Security updates that wait: the security archive's package lists, compared with dpkg's versions.

apt is not asked what it would do: it leaves out what is held, pinned or kept back, and names a
later point release instead of the fix it contains. Works without a network and without a site.
Sources: deb-version(7), dpkg-query(1), apt-helper(1), repository format of Debian's wiki.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cmp_to_key
from typing import Any

from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output
from sekisho.probes.packages import read_deb822

LISTS = "/var/lib/apt/lists"
#: Written by the role ``packages``; it names no source when the site names no mirror.
SECURITY_SOURCE = "/etc/apt/sources.list.d/sekisho-security.sources"
_FIELDS = """FNR==1 {if (p != "") print p, v, a; p = ""; print "@" FILENAME}
/^$/ {if (p != "") print p, v, a; p = ""}
/^Package: / {p = $2}
/^Version: / {v = $2}
/^Architecture: / {a = $2}
END {if (p != "") print p, v, a}"""
_WANTED = ("Package", "Version", "Architecture")
_PACKED = re.compile(r"\.(?:lz4|gz|xz|bz2|zst|lzma)\Z")
#: Characters that apt writes as ``%xx`` in the name of a list (URItoFileName).
_QUOTED = re.compile(r"[\\|{}\[\]<>\"^~_=!@#$%&*]")
_DIGITS = frozenset("0123456789")


def _weight(char: str) -> int:
    """Return a character's place in deb-version(7): ``~``, the end, letters, everything else."""
    if char == "~":
        return -1
    if not char or char in _DIGITS:
        return 0
    return ord(char) if char.isascii() and char.isalpha() else ord(char) + 256


def _compare_part(one: str, other: str) -> int:
    at, there = 0, 0
    while at < len(one) or there < len(other):
        while (at < len(one) and one[at] not in _DIGITS) or (
            there < len(other) and other[there] not in _DIGITS
        ):
            left, right = _weight(one[at : at + 1]), _weight(other[there : there + 1])
            if left != right:
                return left - right
            at, there = at + 1, there + 1
        ends = []
        for text, start in ((one, at), (other, there)):
            end = start
            while end < len(text) and text[end] in _DIGITS:
                end += 1
            ends.append(end)
        left_digits, right_digits = (
            one[at : ends[0]].lstrip("0"),
            other[there : ends[1]].lstrip("0"),
        )
        at, there = ends
        if left_digits != right_digits:
            longer = len(left_digits) - len(right_digits)
            return longer or (1 if left_digits > right_digits else -1)
    return 0


def compare_versions(one: str, other: str) -> int:
    """Return less than, equal to or more than 0, as ``dpkg --compare-versions`` orders the two."""
    parts = []
    for version in (one, other):
        epoch, colon, rest = version.partition(":")
        upstream, dash, revision = (rest if colon else version).rpartition("-")
        parts.append(
            (epoch if colon else "", upstream if dash else revision, revision if dash else "")
        )
    for mine, theirs in zip(*parts, strict=True):
        order = _compare_part(mine, theirs)
        if order:
            return order
    return 0


def _installed(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return (version, architecture) of every unpacked package by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.split("\n"):
        parts = line.split("\t")
        if len(parts) == 4:
            if parts[3][1:2] not in ("n", "c"):
                found.setdefault(parts[0], []).append((parts[1], parts[2]))
        elif line:
            raise ProbeError(f"dpkg-query: not a package: {line[:80]!r}")
    if not found:
        raise ProbeError("dpkg-query: no package at all")
    return found


def _plain(text: str) -> dict[str, list[tuple[str, str, str]]]:
    """Return (name, version, architecture) of every package by list, out of awk's lines."""
    lists: dict[str, list[tuple[str, str, str]]] = {}
    held: list[tuple[str, str, str]] | None = None
    for line in text.split("\n"):
        words = line.split(" ")
        if line.startswith("@"):
            held = lists.setdefault(line.rpartition("/")[2], [])
        elif line:
            if held is None or len(words) != 3 or not all(words):
                raise ProbeError(f"{LISTS}: not a package: {line[:80]!r}")
            held.append((words[0], words[1], words[2]))
    return lists


def _packed(text: str) -> dict[str, list[tuple[str, str, str]]]:
    """Return the same out of whole lists, each after a line with its own path."""
    lists: dict[str, list[tuple[str, str, str]]] = {}
    held: list[tuple[str, str, str]] | None = None
    fields: dict[str, str] = {}
    for line in (*text.split("\n"), ""):
        if line.startswith("@"):
            held, fields = lists.setdefault(_PACKED.sub("", line.rpartition("/")[2]), []), {}
        elif line:
            key, _, value = line.partition(": ")
            if key in _WANTED:
                fields[key] = value
        elif fields:
            if held is None or len(fields) != len(_WANTED):
                raise ProbeError(f"{LISTS}: a package without all its fields: {fields}")
            held.append((fields["Package"], fields["Version"], fields["Architecture"]))
            fields = {}
    return lists


def _security_releases(text: str) -> set[str]:
    """Return what the file names of the security archives' lists begin with, by their Release."""
    found = set()
    for line in text.split("\n"):
        path, _, field = line.partition("Release:")
        name, _, value = field.partition(": ")
        prefix = path.rpartition("/")[2].removesuffix("In").rstrip("_")
        if (name == "Label" and value == "Debian-Security") or (
            name in ("Suite", "Codename") and value.endswith("-security")
        ):
            found.add(prefix + "_")
    return found


def _own_lists(source: str) -> set[str]:
    """Return what the file names of the lists of the site's own security source begin with."""
    found = set()
    for entry in read_deb822(SECURITY_SOURCE, source):
        scheme, _, rest = entry.uri.partition(":")
        if scheme and rest:
            place = rest.removeprefix("//").rstrip("/")
            quoted = _QUOTED.sub(lambda char: f"%{ord(char[0]):02x}", place)
            found.add(quoted.replace("/", "_") + "_")
    return found


def _updates(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the installed packages of which a security archive's list holds a newer version."""
    installed = _installed(output(raw, "installed"))
    own = files(raw, "source").get(SECURITY_SOURCE)
    if own is not None and own.text is None:
        raise ProbeError(f"{SECURITY_SOURCE}: {own.error or 'no content'}")
    named = _own_lists(own.text or "") if own is not None else set()
    prefixes = tuple(named | _security_releases(output(raw, "releases", ok=(0, 1, 2))))
    lists = {
        name: packages
        for name, packages in (
            _packed(output(raw, "packed")) | _plain(output(raw, "lists"))
        ).items()
        if prefixes and name.startswith(prefixes)
    }
    if not lists and (own is None or named):
        raise ProbeError(
            f"{LISTS}: no package list of a security archive: run apt-get update, "
            "with a source of Debian-Security"
        )
    newest: dict[tuple[str, str], str] = {}
    order = cmp_to_key(compare_versions)
    for packages in lists.values():
        for name, version, architecture in packages:
            if name in installed:
                held = newest.get((name, architecture), version)
                newest[name, architecture] = max(held, version, key=order)
    return {
        "pending": sorted(
            {
                name
                for (name, offered), version in newest.items()
                for has, architecture in installed[name]
                if (offered == architecture or "all" in (offered, architecture))
                and compare_versions(has, version) < 0
            }
        ),
        "lists": sorted(lists),
    }


PROBES = (
    Probe(
        name="updates",
        operations={
            "source": Read((SECURITY_SOURCE,)),
            "installed": Run(
                (
                    *("dpkg-query", "-W", "-f"),
                    "${Package}\\t${Version}\\t${Architecture}\\t${db:Status-Abbrev}\\n",
                )
            ),
            # 1, 2: no such line; a file went away under it.
            "releases": Run(
                (
                    *("grep", "-rsHE", "--include=*Release", "^(Label|Suite|Codename): "),
                    LISTS,
                ),
                ok=(0, 1, 2),
            ),
            "lists": Run(
                (
                    *("find", LISTS, "-name", "*security*_Packages", "-type", "f"),
                    *("-exec", "awk", _FIELDS, "{}", "+"),
                )
            ),
            # Kept compressed where Acquire::GzipIndexes is on, as in container images.
            "packed": Run(
                (
                    *("find", LISTS, "-name", "*security*_Packages.*", "-type", "f"),
                    *("-printf", "@%p\\n", "-exec", "/usr/lib/apt/apt-helper", "cat-file", "{}"),
                    ";",
                )
            ),
        },
        parse=_updates,
    ),
)
