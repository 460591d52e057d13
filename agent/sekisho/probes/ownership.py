"""Which package owns a file, by dpkg's own record: its lists, its packages, its diversions.

Sources: dpkg-query(1), dpkg-divert(1), grep(1); a merged /usr: usrmerge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.probes.model import FileOutcome, ProbeError, Read, Run, files, output
from sekisho.probes.packages import INSTALLED, read_installed

#: Where a file of no package changes what the machine does.
_PLACES = (
    r"^/(etc/|(usr/)?s?bin/|usr/lib/python3[^/]*/(dist-packages/)?[^/]+$"
    r"|usr/(lib|share)/.*/s?bin/[^/]+$"  # where alternatives lead to
    r"|usr/share/(dbus-1|polkit-1|initramfs-tools|kernel|systemd)/"
    r"|(usr/)?lib/((systemd|udev|kernel|networkd-dispatcher|NetworkManager/dispatcher\.d)/"
    r"|(tmpfiles|binfmt|modules-load|modprobe|environment|pam)\.d/"
    r"|.*/security/.*\.so$|.*/libnss_.*\.so))"
)
#: What dpkg records of who owns what: its lists of files (one grep over them: dpkg-query would hold
#: each pattern against every file it knows, at fifteen times the cost), the packages it knows, the
#: files moved aside.
OWNERSHIP: dict[str, Run | Read] = {
    "owners": Run(
        ("grep", "-raHE", "--include=*.list", _PLACES, "/var/lib/dpkg/info"), timeout_s=60
    ),
    "installed": INSTALLED,
    "diversions": Read(("/var/lib/dpkg/diversions",)),
}
#: Directories that Debian 12's packages still name without /usr.
MERGED = ("/bin/", "/sbin/", "/lib/", "/lib64/")

_LISTED = re.compile(
    r"/var/lib/dpkg/info/(?P<package>[^/:]+)(:[^/:]+)?\.list:(?P<path>/.*)", re.DOTALL
)
#: A package's diversion moves another package's file *to* a name; nothing else of it is an owner.
_DIVERSION = re.compile(r"local diversion |diversion by \S+ from$")


def read_ownership(raw: Mapping[str, Any]) -> set[str]:
    """Return every path a package owns in the places of `OWNERSHIP`, on a merged-/usr system.

    A list of files counts only for a package that dpkg knows, as for dpkg-query itself.
    """
    known = {n for n, _, status in read_installed(output(raw, "installed")) if status[1] != "n"}
    owned: set[str] = set()
    for line in output(raw, "owners").removesuffix("\n").split("\n"):
        match = _LISTED.fullmatch(line)
        if match is None:
            raise ProbeError(f"grep: not a line of dpkg's lists: {line[:80]!r}")
        if match["package"] in known:
            owned.add(match["path"])
    if not owned:
        raise ProbeError("dpkg: no package owns anything")
    return merged(owned | _moved_aside(files(raw, "diversions")))


def _moved_aside(found: Mapping[str, FileOutcome]) -> set[str]:
    """Return the names packages moved others' files to: lines from, to, package (``:`` local)."""
    moved = set()
    for path, entry in found.items():
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'no content'}")
        lines = entry.text.removesuffix("\n").split("\n") if entry.text else []
        if len(lines) % 3:
            raise ProbeError(f"{path}: the last diversion is cut")
        pairs = zip(lines[1::3], lines[2::3], strict=True)
        moved |= {to for to, package in pairs if package != ":"}
    return moved


def merged(paths: Iterable[str]) -> set[str]:
    """Return the paths, and as they stand on a merged-/usr system."""
    return {place for p in paths for place in (p, f"/usr{p}" if p.startswith(MERGED) else p)}


def read_owners(lines: Iterable[str]) -> set[str]:
    """Return every path a package owns by ``dpkg-query -S``, on a merged-/usr system."""
    owned: set[str] = set()
    for line in lines:
        names, sep, path = line.partition(": ")
        if sep and path.startswith("/") and not _DIVERSION.match(names):
            owned.add(path)
    return merged(owned)
