"""Kernel modules: loaded now, refused by the configuration, and what modprobe itself would do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from sekisho.core.text import lines_of
from sekisho.devices.modules import GROUPS, blocked, canonical
from sekisho.probes.kernel import effective_files
from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output, text_of

#: modprobe.d precedence: the last directory wins for equal file names (modprobe.d(5)).
MODPROBE_DIRS = (
    "/usr/lib/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/run/modprobe.d",
    "/etc/modprobe.d",
)
#: Commands that end without loading anything.
REFUSES = frozenset(
    f"{folder}/{name}" for folder in ("/bin", "/usr/bin") for name in ("false", "true")
)
_INSMOD = re.compile(r"insmod \S*/([^/\s]+?)\.ko(?:\.xz|\.zst|\.gz)?(?:\s.*)?")


def _commands(raw: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return every command of modprobe.d as (verb, words), in the order kmod keeps them."""
    commands = []
    for entry in effective_files(files(raw, "config"), MODPROBE_DIRS):
        joined = (entry.text or "").replace("\\\n", " ")
        for line in lines_of(joined):
            words = line.split()
            if len(words) >= 2 and not words[0].startswith("#"):
                commands.append((words[0], words[1:]))
    return commands


def _modules(raw: Mapping[str, Any]) -> dict[str, Any]:
    loaded = {
        line.split(maxsplit=1)[0]
        for line in lines_of(text_of(files(raw, "loaded"), "/proc/modules"))
        if line
    }
    commands = _commands(raw)
    refused, overridden = _refused(commands)
    refused &= {canonical(words[0]) for verb, words in commands if verb == "blacklist"}
    loadable = _dry_run(raw)
    groups: dict[str, dict[str, list[str]]] = {}
    for label, group in GROUPS.items():
        members = set(group.modules)
        groups[label] = {
            "not_refused": sorted(members - refused),
            "loaded": sorted(members & loaded),
        }
        if loadable is not None:
            groups[label]["loadable"] = sorted(members & loadable)
    return {
        "loaded": sorted(loaded),
        "groups": groups,
        "overridden": overridden,
        "options": _options(commands),
    }


def _refused(commands: list[tuple[str, list[str]]]) -> tuple[set[str], list[str]]:
    """Return the modules whose install command loads nothing, and those with another one."""
    install = [(canonical(words[0]), words[1:]) for verb, words in commands if verb == "install"]
    refused, overridden = set(), []
    for name in blocked():
        # kmod takes the first install command whose pattern fits, in the order of the files.
        first = next((words for pattern, words in install if fnmatchcase(name, pattern)), None)
        if first is not None and len(first) == 1 and first[0] in REFUSES:
            refused.add(name)
        elif first is not None:
            overridden.append(name)
    return refused, overridden


def _options(commands: list[tuple[str, list[str]]]) -> dict[str, dict[str, str]]:
    options: dict[str, dict[str, str]] = {}
    for verb, words in commands:
        if verb == "options":
            held = options.setdefault(canonical(words[0]), {})
            for word in words[1:]:
                key, _, value = word.partition("=")
                held[key] = value  # the kernel takes the last one
    return options


def _dry_run(raw: Mapping[str, Any]) -> set[str] | None:
    """Return the members of our list that modprobe itself would insert; None: it cannot tell.

    Exit status 1 is usual: it says that some of the names are not in this kernel at all.
    """
    try:
        lines = lines_of(output(raw, "dry_run", ok=(0, 1)))
    except ProbeError:
        return None
    if not lines:
        return None
    return {canonical(found[1]) for line in lines if (found := _INSMOD.fullmatch(line.strip()))}


def _builtin(raw: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the members of each group that the running kernel has built in: nothing refuses them.

    Raises:
        ProbeError: the running kernel brought no list: it is not one of Debian's.

    """
    found = files(raw, "kernel")
    release = text_of(found, "/proc/sys/kernel/osrelease").strip()
    listed = text_of(found, f"/usr/lib/modules/{release}/modules.builtin")
    built = {
        canonical(line.rpartition("/")[2].removesuffix(".ko"))
        for line in listed.split("\n")
        if line
    }
    return {label: sorted(set(group.modules) & built) for label, group in GROUPS.items()}


PROBES = (
    Probe(
        name="builtin-modules",
        operations={
            "kernel": Read(("/proc/sys/kernel/osrelease", "/usr/lib/modules/*/modules.builtin"))
        },
        parse=_builtin,
    ),
    Probe(
        name="modules",
        operations={
            "loaded": Read(("/proc/modules",)),
            "config": Read(tuple(f"{folder}/*.conf" for folder in MODPROBE_DIRS)),
            "dry_run": Run(("modprobe", "-n", "-v", "-a", *blocked()), ok=(0, 1)),
        },
        parse=_modules,
    ),
)
