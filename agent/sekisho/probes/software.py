"""What a third party could use: changed programs, timers, remote-support agents.

Whether the programs that guard the machine are still the packages' own is told by their digests.
Who can change files as root can change that record too: the audit over SSH compares two such
machines, the kernel's audit tells who wrote. Sources: dpkg-query(1), ss(8), systemctl(1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.core.text import lines_of
from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output
from sekisho.probes.ownership import merged

# -- the guarding programs' digests --------------------------------------------------------------

#: The programs that let people in, record and judge; directories are taken without their folders.
GUARDS = (
    *("/usr/sbin/sshd", "/usr/lib/openssh", "/usr/bin/sudo", "/usr/libexec/sudo", "/usr/bin/su"),
    *("/usr/bin/login", "/usr/sbin/agetty", "/usr/bin/passwd", "/usr/bin/bash", "/usr/bin/dash"),
    *("/usr/sbin/nft", "/usr/sbin/auditd", "/usr/sbin/auditctl", "/usr/bin/udevadm"),
    *("/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-executor", "/usr/bin/systemctl"),
    *("/usr/bin/kmod", "/usr/bin/dpkg", "/usr/bin/dpkg-query", "/usr/bin/apt-get"),
    *("/usr/bin/gpgv", "/usr/bin/sqv", "/usr/bin/find", "/usr/bin/ps", "/usr/bin/ss"),
    *("/usr/bin/python3.11", "/usr/bin/python3.13", "/usr/sbin/chronyd", "/usr/sbin/unix_chkpwd"),
    *("/usr/lib/x86_64-linux-gnu/security", "/usr/lib/aarch64-linux-gnu/security"),
    *("/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/aarch64-linux-gnu/libc.so.6"),
    *("/usr/lib/x86_64-linux-gnu/libpam.so.0", "/usr/lib/aarch64-linux-gnu/libpam.so.0"),
)
_RECORDS = (
    *("openssh-server", "openssh-client", "openssh-sftp-server", "sudo", "sudo-ldap", "login"),
    *("util-linux", "util-linux-extra", "passwd", "bash", "dash", "nftables", "auditd", "udev"),
    *("systemd", "kmod", "dpkg", "apt", "gpgv", "sqv", "findutils", "procps", "iproute2"),
    *("python3.11-minimal", "python3.13-minimal", "chrony", "libpam-modules*", "libpam0g*"),
    *("libpam-runtime", "libpam-systemd*", "libpam-pwquality*", "libpam-cap*", "libc6*"),
)


def read_digests(text: str) -> dict[str, str]:
    """Return MD5 by path of ``md5sum``'s output; a name that md5sum had to escape is refused."""
    found = {}
    for line in lines_of(text):
        match = re.fullmatch(r"(?P<md5>[0-9a-f]{32}) [ *](?P<path>/.+)", line)
        if match is None:
            raise ProbeError(f"md5sum: not a digest: {line[:80]!r}")
        found[match["path"]] = match["md5"]
    return found


def _integrity(raw: Mapping[str, Any]) -> dict[str, Any]:
    now = read_digests(output(raw, "now", ok=(0, 1)))
    recorded: dict[str, set[str]] = {}
    for path, entry in files(raw, "recorded").items():
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error}")
        for line in lines_of(entry.text):
            md5, _, name = line.partition("  ")
            for place in merged((f"/{name}",)):
                recorded.setdefault(place, set()).add(md5)
    if not now or not recorded:
        raise ProbeError("no digest to compare")
    return {
        "compared": len([path for path in now if path in recorded]),
        "changed": sorted(p for p, md5 in now.items() if p in recorded and md5 not in recorded[p]),
        "unrecorded": sorted(path for path in now if path not in recorded),
    }


# -- what runs -----------------------------------------------------------------------------------


def _processes(raw: Mapping[str, Any]) -> dict[str, Any]:
    names = sorted({line.strip() for line in lines_of(output(raw, "names")) if line.strip()})
    if not names:
        raise ProbeError("ps: no process")
    listening: set[str] = set()
    ports = _tunnels(raw)
    for line in lines_of(output(raw, "listening")):
        programs = re.findall(r'\("((?:[^"\\]|\\.)*)",pid=', line)
        if not programs and _local_port(line) in ports:
            continue  # WireGuard's socket is the kernel's own; the tunnels' check looks at it
        if not programs:  # another's socket, and no right to see whose: not known, so no fact
            raise ProbeError(f"ss: the program behind {line[:60]!r} is not shown; ask as root")
        listening.update(programs)
    return {"names": names, "listening": sorted(listening)}


def _tunnels(raw: Mapping[str, Any]) -> set[str]:
    """Return the UDP ports of the WireGuard interfaces, as the kernel says."""
    try:
        return {one.rpartition("\t")[2] for one in output(raw, "tunnels").split("\n")}
    except ProbeError:  # no wg here, or no right to ask: nothing is a tunnel's
        return set()


def _local_port(line: str) -> str | None:
    """Return the UDP port of a line of ss; None for another protocol."""
    words = line.split()
    return words[4].rpartition(":")[2] if len(words) > 4 and words[0] == "udp" else None


def _timers(raw: Mapping[str, Any]) -> dict[str, Any]:
    timers = [line.split()[0] for line in lines_of(output(raw, "timers")) if line.split()]
    return {"active": sorted(timers)}


PROBES = (
    Probe(
        name="integrity",
        operations={
            "now": Run(
                (
                    *("find", *GUARDS, "-maxdepth", "1", "-type", "f"),
                    *("-exec", "md5sum", "--", "{}", "+"),
                ),
                ok=(0, 1),
            ),
            "recorded": Read(tuple(f"/var/lib/dpkg/info/{name}.md5sums" for name in _RECORDS)),
        },
        parse=_integrity,
    ),
    Probe(
        name="processes",
        operations={
            "names": Run(("ps", "-eo", "comm=")),
            "listening": Run(("ss", "-H", "-l", "-n", "-t", "-u", "-p")),
            "tunnels": Run(("wg", "show", "all", "listen-port")),
        },
        parse=_processes,
    ),
    Probe(
        name="timers",
        operations={
            "timers": Run(
                (
                    *("systemctl", "list-units", "--type=timer", "--state=active"),
                    *("--plain", "--no-legend", "--no-pager"),
                )
            ),
        },
        parse=_timers,
    ),
)
