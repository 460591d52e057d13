"""Kernel facts: sysctl values now and on disk, command line, modules loaded and configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sekisho.probes.model import Probe, Read, files

#: sysctl.d precedence: the last directory wins for equal file names (sysctl.d(5)).
SYSCTL_DIRS = ("/usr/lib/sysctl.d", "/usr/local/lib/sysctl.d", "/run/sysctl.d", "/etc/sysctl.d")


def _sysctl(raw: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    live = {
        path.removeprefix("/proc/sys/").replace("/", "."): (entry.text or "").strip()
        for path, entry in files(raw, "live").items()
        if entry.kind == "file" and entry.error is None
    }
    by_name: dict[str, tuple[int, str]] = {}
    for path, entry in files(raw, "disk").items():
        folder, _, name = path.rpartition("/")
        rank = SYSCTL_DIRS.index(folder) if folder in SYSCTL_DIRS else len(SYSCTL_DIRS)
        if entry.text is not None and (name not in by_name or by_name[name][0] <= rank):
            by_name[name] = (rank, entry.text)
    disk: dict[str, str] = {}
    # /etc/sysctl.conf is not read by systemd-sysctl on Debian 13; on 12 it is 99-sysctl.conf.
    for name in sorted(by_name):
        for line in by_name[name][1].splitlines():
            key, sep, value = line.strip().partition("=")
            if sep and not key.startswith(("#", ";")):
                disk[key.strip().lstrip("-").replace("/", ".")] = value.strip()
    return {"runtime": live, "disk": disk}


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
)
