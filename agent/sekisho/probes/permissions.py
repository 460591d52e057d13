"""Permission facts: each local file is looked at once, and the modes of the files that matter.

The walk does not enter a directory that root owns and nobody else may enter: a privileged or
writable file in there is out of everybody's reach but root's, and root needs neither. Everything
else on every local file system is looked at. Sources: find(1), getcap(8), inode(7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.core.text import is_number, lines_of
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, Run, files, output
from sekisho.probes.ownership import OWNERSHIP, read_owners, read_ownership

#: File systems of the kernel's own, or of another machine: nothing to find, or not ours to judge.
NOT_LOCAL = (
    *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts"),
    *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nfs", "nfs4", "nsfs", "proc", "pstore"),
    *("securityfs", "selinuxfs", "smb3", "cifs", "sysfs", "tracefs"),
)
_RECORD = "\\0%m %U %G %y %p\\0"
#: Where device nodes belong; systemd's two placeholders open nothing.
_DEVICES = re.compile(r"/dev/|/run/(user/\d+/)?systemd/inaccessible/(blk|chr)$")


#: About half of a system's files: walked beside the rest, each file once.
LIBRARIES = "/usr/lib"


def walk_argv(start: str = "/", *, but: str = LIBRARIES) -> tuple[str, ...]:
    """Return the walk from ``start``: privileged, writable, unowned files, devices; capabilities.

    Records stand between NULs, which no path can hold; what ``dpkg-query`` and ``getcap`` print of
    the same files stands outside them, so that no file name can pass for their word.
    """
    foreign = [word for kind in NOT_LOCAL for word in ("-o", "-fstype", kind)][1:]
    return (
        *("find", start, "-type", "d", "(", "-path", but, "-o", *foreign, ")", "-prune", "-o"),
        *("-type", "d", "-uid", "0", "!", "-perm", "/0011", "-prune", "-o", "("),
        *("-type", "f", "-perm", "/6000", "-printf", _RECORD),
        *("-exec", "dpkg-query", "-S", "{}", "+", ","),
        *("-type", "f", "-perm", "/0111", "-exec", "getcap", "{}", "+", ","),
        # find reads /etc/passwd and /etc/group again for every file it asks -nouser of: not root's.
        *("(", "!", "-uid", "0", "-nouser", "-o", "!", "-gid", "0", "-nogroup", "-o"),
        *("-perm", "-0002", "!", "-type", "l", "!", "-type", "s"),
        *("-o", "-type", "b", "-o", "-type", "c", ")", "-printf", _RECORD, ")"),
    )


#: Root's alone to change: settings, what boots, every program and library.
PLACES = ("/etc", "/boot", "/usr")
_PLACE = re.compile(r"(?P<uid>\d+) (?P<mode>[0-7]+) (?P<path>/.*)", re.DOTALL)
#: root and shadow (base-passwd gives it this number on every Debian).
_GROUPS_OF_SECRETS = (0, 42)
_ENTRY = re.compile(
    r"(?P<mode>[0-7]+) (?P<uid>\d+) (?P<gid>\d+) (?P<kind>\S) (?P<path>/.*)", re.DOTALL
)
#: What getcap prints of a file's capabilities, and how it begins.
_CAPABILITIES = "abcdefghijklmnopqrstuvwxyz0123456789_,=+ "
_BEGINS = re.compile(r" (?=(?:=|cap_))")


def split_walk(text: str) -> tuple[list[re.Match[str]], list[str]]:
    """Return the records between the NULs and the lines outside; `ProbeError` when garbled."""
    parts = text.split("\0")
    if len(parts) % 2 == 0:
        raise ProbeError("find: the last record is cut")
    records = []
    for part in parts[1::2]:
        match = _ENTRY.fullmatch(part)
        if match is None:
            raise ProbeError(f"find: not a record: {part[:80]!r}")
        records.append(match)
    return records, [line for part in parts[0::2] for line in lines_of(part) if line]


def read_capable(line: str) -> tuple[str, str] | None:
    """Return path and capabilities of one line of getcap; None for another line.

    They are the longest end of the line that can be capabilities and nothing else, so that a path
    with many ``=`` in it is looked at once.
    """
    if not line.startswith("/") or "\n" in line:
        return None
    begins = len(line.rstrip(_CAPABILITIES))
    found = _BEGINS.search(line, max(begins, 1))
    return (line[: found.start()], line[found.end() :]) if found else None


def _walk(raw: Mapping[str, Any]) -> dict[str, Any]:
    # 1: getcap or dpkg-query missed one; a directory went away under the walk.
    records, lines = split_walk(output(raw, "walk", ok=(0, 1)))
    if not records:
        raise ProbeError("find: not even /tmp is writable: the walk did not run as root")
    more, further = split_walk(output(raw, "libraries", ok=(0, 1)))
    records, lines = records + more, lines + further
    errors = "\n".join(str(raw[label].get("stderr", "")) for label in ("walk", "libraries"))
    denied = [line for line in lines_of(errors) if "Permission denied" in line]
    if denied:
        raise ProbeError(f"find: {denied[0][:120]}")
    owned = read_ownership(raw) | read_owners(lines)
    privileged = {r["path"]: r for r in records if r["kind"] == "f" and int(r["mode"], 8) & 0o6000}
    known_uids, known_gids = _known(raw)
    if 0 not in known_uids & known_gids:
        # The walk does not ask for the owner of root's own files.
        raise ProbeError("/etc/passwd, /etc/group: 0 has no name")
    told = [(line, read_capable(line)) for line in lines]
    capable = [found for _, found in told if found]
    unread = [line for line, found in told if ": /" not in line and not found]
    return {
        "privileged": sorted(privileged),
        "unpackaged_privileged": sorted(path for path in privileged if path not in owned),
        "not_root_privileged": sorted(
            path for path, r in privileged.items() if int(r["mode"], 8) & 0o4000 and r["uid"] != "0"
        ),
        "writable_privileged": sorted(
            path for path, r in privileged.items() if int(r["mode"], 8) & 0o022
        ),
        **(
            {}
            if "getcap" in errors
            else {
                "capable": sorted(
                    {f"{path} {capabilities}" for path, capabilities in capable}
                    | {f"unreadable: {line[:120]}" for line in unread}
                ),
                "capable_files": sorted(
                    {path for path, _ in capable} | {f"unreadable: {line[:120]}" for line in unread}
                ),
            }
        ),
        "world_writable_files": sorted(
            {r["path"] for r in records if r["kind"] in "fp" and int(r["mode"], 8) & 0o002}
        ),
        "world_writable_folders": sorted(
            {r["path"] for r in records if r["kind"] == "d" and int(r["mode"], 8) & 0o1002 == 0o002}
        ),
        "unowned": sorted(
            {
                r["path"]
                for r in records
                if int(r["uid"]) not in known_uids or int(r["gid"]) not in known_gids
            }
        ),
        "devices_elsewhere": sorted(
            {r["path"] for r in records if r["kind"] in "bc" and not _DEVICES.match(r["path"])}
        ),
    }


def _known(raw: Mapping[str, Any]) -> tuple[set[int], set[int]]:
    """Return the uids and gids that somebody holds, systemd's passing ones included."""
    passing = set(range(61184, 65520))
    ids = []
    for path in ("/etc/passwd", "/etc/group"):
        entry = files(raw, "ids").get(path)
        if entry is None or entry.text is None:
            raise ProbeError(f"{path}: not readable")
        numbers = [line.split(":")[2] for line in lines_of(entry.text) if line.count(":") >= 3]
        ids.append({int(number) for number in numbers if is_number(number)} | passing)
    return ids[0], ids[1]


def _places(raw: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return (path, uid, mode) of what the walk over root's places found."""
    # 1: a file went away under the walk.
    parts = output(raw, "places", ok=(0, 1)).split("\0")
    errors = str(raw["places"].get("stderr", "")).split("\n")
    denied = [line for line in errors if "Permission denied" in line]
    if denied:
        raise ProbeError(f"find: {denied[0][:120]}")
    if parts[-1]:
        raise ProbeError("find: the last record is cut")
    found = []
    for part in parts[:-1]:
        match = _PLACE.fullmatch(part)
        if match is None:
            raise ProbeError(f"find: not a record: {part[:80]!r}")
        found.append((match["path"], int(match["uid"]), int(match["mode"], 8)))
    return found


def _modes(raw: Mapping[str, Any]) -> dict[str, Any]:
    above = files(raw, "files")
    if "/etc/passwd" not in above:
        raise ProbeError("/etc/passwd: no such file")
    seen = [*_places(raw), *((path, one.uid, one.mode) for path, one in above.items())]
    return {
        "not_root": sorted({path for path, uid, _ in seen if uid != 0}),
        "writable": sorted({path for path, _, mode in seen if mode & 0o022}),
        "readable_secrets": sorted(
            path
            for path, entry in files(raw, "secrets").items()
            if entry.kind != "dir" and _readable(entry)
        ),
    }


def _readable(entry: FileOutcome) -> bool:
    """Return whether a secret is open to others; a link is: its target's mode is not known."""
    group = entry.mode & 0o040 and entry.gid not in _GROUPS_OF_SECRETS
    return entry.kind != "file" or entry.uid != 0 or bool(entry.mode & 0o027 or group)


PROBES = (
    Probe(
        name="walk",
        operations={
            "walk": Run(walk_argv(), timeout_s=150, ok=(0, 1)),
            "libraries": Run(walk_argv(LIBRARIES, but=""), timeout_s=150, ok=(0, 1)),
            **OWNERSHIP,  # Debian 12's packages list some files without /usr
            "ids": Read(("/etc/passwd", "/etc/group")),
        },
        parse=_walk,
    ),
    Probe(
        name="modes",
        operations={
            "places": Run(
                (
                    *("find", *PLACES, "-xdev", "!", "-type", "l"),
                    *("(", "!", "-uid", "0", "-o", "-perm", "/022", ")"),
                    *("-printf", "%U %m %p\\0"),
                ),
                ok=(0, 1),
            ),
            "files": Read(("/", "/var", "/var/lib", "/etc/passwd"), content=False),
            "secrets": Read(
                (
                    *("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-"),
                    *("/etc/ssh/ssh_host_*_key", "/etc/sekisho/*.key.pem", "/boot/grub/grub.cfg"),
                    *("/etc/ssl/private/*.key", "/etc/security/opasswd", "/var/lib/sekisho/*.key"),
                    *("/etc/swanctl/private/*", "/etc/swanctl/ecdsa/*", "/etc/swanctl/rsa/*"),
                    *("/etc/swanctl/pkcs8/*", "/etc/swanctl/pkcs12/*", "/etc/credstore/*"),
                ),
                content=False,
            ),
        },
        parse=_modes,
    ),
)
