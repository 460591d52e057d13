"""Kernel modules: loaded now, refused by the configuration, and what modprobe itself would do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from sekisho.devices.modules import blocked, canonical
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
        for line in joined.splitlines():
            words = line.split()
            if len(words) >= 2 and not words[0].startswith("#"):
                commands.append((words[0], words[1:]))
    return commands


def _modules(raw: Mapping[str, Any]) -> dict[str, Any]:
    loaded = [
        line.split(maxsplit=1)[0]
        for line in text_of(files(raw, "loaded"), "/proc/modules").splitlines()
        if line
    ]
    options: dict[str, dict[str, str]] = {}
    blacklist: set[str] = set()
    install: list[tuple[str, list[str]]] = []
    for verb, words in _commands(raw):
        name = canonical(words[0])
        if verb == "blacklist":
            blacklist.add(name)
        elif verb == "install":
            install.append((name, words[1:]))
        elif verb == "options":
            held = options.setdefault(name, {})
            for word in words[1:]:
                key, _, value = word.partition("=")
                held[key] = value  # the kernel takes the last one
    refused, overridden = [], []
    for name in blocked():
        # kmod takes the first install command whose pattern fits, in the order of the files.
        first = next((words for pattern, words in install if fnmatchcase(name, pattern)), None)
        if first and first[0] in REFUSES and len(first) == 1:
            refused.append(name)
        elif first is not None:
            overridden.append(name)
    fact: dict[str, Any] = {
        "loaded": sorted(loaded),
        "blocked": sorted(set(refused) & blacklist),
        "overridden": overridden,
        "options": options,
    }
    fact |= _dry_run(raw)
    return fact


def _dry_run(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``loadable``: members of our list that modprobe would insert; {} if it cannot tell.

    Exit status 1 is usual: it says that some of the names are not in this kernel at all.
    """
    try:
        said = output(raw, "dry_run", ok=(0, 1))
    except ProbeError:
        return {}
    lines = said.splitlines()
    if not lines:
        return {}
    inserted = {canonical(found[1]) for line in lines if (found := _INSMOD.fullmatch(line.strip()))}
    return {"loadable": sorted(inserted & set(blocked()))}


PROBES = (
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
