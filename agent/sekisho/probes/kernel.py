"""Kernel facts: sysctl values now and after a boot, taint, lockdown, command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from sekisho.core.text import is_number
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, drop_ins, files, text_of

#: sysctl.d precedence: the last directory wins for equal file names (sysctl.d(5)).
SYSCTL_DIRS = ("/usr/lib/sysctl.d", "/usr/local/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d")
_SWAP = str.maketrans("./", "/.")  # eth1.5 is written eth1/5 between dots
_DOUBLED = re.compile(r"\.{2,}")
_INTERFACE = re.compile(r"net\.(ipv[46])\.conf\.(.+)\.([^.]+)")

#: Bits of /proc/sys/kernel/tainted (Linux Documentation/admin-guide/tainted-kernels.rst).
TAINT = {
    0: "proprietary-module",
    1: "module-forced",
    2: "out-of-specification",
    3: "module-removed-by-force",
    4: "machine-check",
    5: "bad-page",
    6: "user-asked",
    7: "oops",
    8: "acpi-table-replaced",
    9: "warning",
    10: "staging-module",
    11: "firmware-bug",
    12: "out-of-tree-module",
    13: "unsigned-module",
    14: "soft-lockup",
    15: "live-patched",
    16: "auxiliary",
    17: "struct-randomised",
    18: "test-module",
}


def sysctl_name(written: str) -> str:
    """Return a setting's name with dots; the first separator says how sysctl.d wrote it."""
    name = written.strip().removeprefix("-").lstrip()
    first = next((char for char in name if char in "./"), ".")
    if first == "/":
        name = name.translate(_SWAP)
    return _DOUBLED.sub(".", name).strip(".")


def boot_settings(text: str, held: dict[str, str | None]) -> None:
    """Add one file's lines to ``held`` as systemd-sysctl does; None is an excluded name.

    A later line replaces an earlier one of the same name and value, unless it says the same;
    ``-name`` without a value takes the name out, also where it was set before.
    """
    for line in text.split("\n"):
        bare = line.strip()
        if not bare or bare[0] in "#;":
            continue
        key, sep, value = bare.partition("=")
        if not sep and not bare.startswith("-"):
            continue  # no assignment: systemd-sysctl passes over it as well
        name, wanted = sysctl_name(key), value.strip() if sep else None
        if name in held and held[name] == wanted:
            continue
        held.pop(name, None)
        held[name] = wanted


def after_boot(names: Iterable[str], held: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return what the files give to each of ``names``; a name they do not reach is left out.

    A line with the whole name counts before any pattern, of the patterns the last one.
    """
    patterns = [
        (name.split("."), value)
        for name, value in held.items()
        if value is not None and any(char in name for char in "*?[")
    ]
    found: dict[str, str | None] = {}
    for name in names:
        if name in held:
            found[name] = held[name]
            continue
        parts = name.split(".")
        for pattern, value in patterns:
            if len(pattern) == len(parts) and all(
                part == glob or fnmatchcase(part, glob)
                for part, glob in zip(reversed(parts), reversed(pattern), strict=True)
            ):
                found[name] = value
    return found


def effective_files(found: Mapping[str, FileOutcome], dirs: tuple[str, ...]) -> list[FileOutcome]:
    """Return drop-in files in the order they are read; a name in a later directory hides earlier.

    A link to /dev/null hides and holds nothing; an unreadable file raises `ProbeError`. A name that
    begins with a dot is not read (`drop_ins`).
    """
    by_name: dict[str, FileOutcome] = {}
    rank = {folder: index for index, folder in enumerate(dirs)}
    for path, entry in drop_ins(found).items():
        folder, _, name = path.rpartition("/")
        held = by_name.get(name)
        if held is None or rank[held.path.rpartition("/")[0]] <= rank.get(folder, len(dirs)):
            by_name[name] = entry
    for entry in by_name.values():
        if entry.error is not None:
            raise ProbeError(f"{entry.path}: {entry.error}")
    return [by_name[name] for name in sorted(by_name)]


def _sysctl(raw: Mapping[str, Any]) -> dict[str, Any]:
    live = {
        path.removeprefix("/proc/sys/").translate(_SWAP): entry.text.strip()
        for path, entry in files(raw, "live").items()
        if entry.kind == "file" and entry.error is None and entry.text is not None
    }
    held: dict[str, str | None] = {}
    # /etc/sysctl.conf is not read by systemd-sysctl on Debian 13; on 12 it is 99-sysctl.conf.
    for entry in effective_files(files(raw, "disk"), SYSCTL_DIRS):
        boot_settings(entry.text or "", held)
    told = {
        name: value for name, value in held.items() if value is not None or "*" not in name
    } | after_boot(live, held)  # a pattern that is excluded excludes nothing
    disk = {name: value for name, value in told.items() if value is not None}
    return {
        "runtime": live,
        "disk": disk,
        "interfaces": {
            "runtime": _by_setting(live),
            "disk": _by_setting({name: value or "excluded" for name, value in told.items()}),
        },
    }


def _by_setting(values: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """Return family → setting → every value some interface (or all, default, ``*``) has."""
    seen: dict[str, dict[str, set[str]]] = {"ipv4": {}, "ipv6": {}}
    for name, value in values.items():
        found = _INTERFACE.fullmatch(name)
        if found:
            seen[found[1]].setdefault(found[3], set()).add(value)
    return {
        family: {setting: sorted(held) for setting, held in settings.items()}
        for family, settings in seen.items()
    }


def _taint(raw: Mapping[str, Any]) -> dict[str, Any]:
    text = text_of(files(raw, "tainted"), "/proc/sys/kernel/tainted").strip()
    if not is_number(text):
        raise ProbeError(f"/proc/sys/kernel/tainted is no number: {text[:40]!r}")
    bits = int(text)
    flags = [TAINT.get(bit, f"bit-{bit}") for bit in range(bits.bit_length()) if bits >> bit & 1]
    modules = {
        path.split("/")[3]: (entry.text or "").strip()
        for path, entry in files(raw, "modules").items()
        if entry.error is None and (entry.text or "").strip()
    }
    return {"flags": flags, "modules": modules}


def _lockdown(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "state")
    fact: dict[str, Any] = {}
    lockdown = found.get("/sys/kernel/security/lockdown")
    if lockdown is not None:
        chosen = re.search(r"\[(\w+)\]", lockdown.text or "")
        if chosen is None:
            raise ProbeError(f"/sys/kernel/security/lockdown: {lockdown.error or 'no state'}")
        fact["lockdown"] = chosen[1]
    for key, path in (
        ("lsm", "/sys/kernel/security/lsm"),
        ("signatures_required", "/sys/module/module/parameters/sig_enforce"),
        ("apparmor", "/sys/module/apparmor/parameters/enabled"),
        ("kexec_loaded", "/sys/kernel/kexec_loaded"),
    ):
        entry = found.get(path)
        if entry is not None and entry.text is not None:
            fact[key] = entry.text.strip()
    if "lsm" in fact:
        fact["lsm"] = fact["lsm"].split(",")
    return fact


_GRUB_SET = re.compile(
    r"""(?:export\s+)?GRUB_CMDLINE_LINUX(?P<default>_DEFAULT)?(?P<more>\+?)=(?P<words>.*)"""
)
_GRUB_ENTRY = re.compile(r"linux\S*+\s++\S++(?P<words>.*)")
MENU = "/boot/grub/grub.cfg"
#: What says with which words the machine starts next (`next_words`).
BOOT_FILES = (MENU, "/etc/default/grub", "/etc/default/grub.d/*.cfg")


#: The longest command line of Debian's kernels (COMMAND_LINE_SIZE: 2048 on amd64 and arm64).
_LONGEST = 4096


def _bounded(path: str, words: str) -> str:
    """Return a value that is no longer than any kernel takes: each line may name it twice."""
    if len(words) > _LONGEST:
        raise ProbeError(f"{path}: a kernel command line of more than {_LONGEST} characters")
    return words


def next_words(found: Mapping[str, FileOutcome]) -> list[str]:
    """Return the words that every entry of the boot menu has.

    Without a menu: what update-grub would write, a later file over an earlier one.
    """
    menu = found.get(MENU)
    if menu is not None:
        if menu.text is None:
            raise ProbeError(f"{MENU}: {menu.error or 'no content'}")
        entries = [
            match["words"].split()
            for line in menu.text.replace("\\\n", " ").split("\n")
            if (match := _GRUB_ENTRY.fullmatch(line.strip()))
        ]
        common = set(entries[0]).intersection(*entries[1:]) if entries else set()
        return [word for word in entries[0] if word in common] if entries else []
    values = {"": "", "_DEFAULT": ""}
    order = sorted(
        drop_ins(found), key=lambda path: (path.startswith("/etc/default/grub.d/"), path)
    )
    for path in order:
        if not path.startswith("/etc/default/"):
            continue
        for line in (found[path].text or "").replace("\\\n", " ").split("\n"):
            match = _GRUB_SET.fullmatch(line.strip())
            if match is None:
                continue
            key = match["default"] or ""
            words = match["words"].strip().strip("\"'")
            _bounded(path, words)
            held = values[key].replace("\\", r"\\")
            for name in (f"$GRUB_CMDLINE_LINUX{key}", f"${{GRUB_CMDLINE_LINUX{key}}}"):
                words = re.sub(rf"{re.escape(name)}(?![A-Z_])", held, words)
            values[key] = _bounded(path, f"{values[key]} {words}" if match["more"] else words)
    return f"{values['']} {values['_DEFAULT']}".split()


def _cmdline(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "cmdline")
    return {"runtime": text_of(found, "/proc/cmdline").split(), "disk": next_words(found)}


PROBES = (
    Probe(
        name="sysctl",
        operations={
            "live": Read(
                (
                    "/proc/sys/kernel/*",
                    "/proc/sys/kernel/yama/*",
                    "/proc/sys/fs/*",
                    "/proc/sys/vm/*",
                    "/proc/sys/net/core/*",
                    "/proc/sys/net/ipv4/*",
                    "/proc/sys/net/ipv4/conf/*/*",
                    "/proc/sys/net/ipv6/conf/*/*",
                    "/proc/sys/dev/tty/*",
                )
            ),
            "disk": Read(tuple(f"{folder}/*.conf" for folder in SYSCTL_DIRS)),
        },
        parse=_sysctl,
    ),
    Probe(
        name="taint",
        operations={
            "tainted": Read(("/proc/sys/kernel/tainted",)),
            "modules": Read(("/sys/module/*/taint",)),
        },
        parse=_taint,
    ),
    Probe(
        name="lockdown",
        operations={
            "state": Read(
                (
                    "/sys/kernel/security/lockdown",
                    "/sys/kernel/security/lsm",
                    "/sys/module/module/parameters/sig_enforce",
                    "/sys/module/apparmor/parameters/enabled",
                    "/sys/kernel/kexec_loaded",
                )
            )
        },
        parse=_lockdown,
    ),
    Probe(
        name="kernel-command-line",
        operations={"cmdline": Read(("/proc/cmdline", *BOOT_FILES))},
        parse=_cmdline,
    ),
)
