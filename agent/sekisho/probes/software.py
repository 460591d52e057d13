"""What a third party could use: programs of no package, preloads, timers, remote-support agents.

Ownership is dpkg's record, read once for all places; whether the programs that guard the machine
are still the packages' own is told by their digests. Who can change files as root can change that
record too: the audit over SSH compares two such machines, the kernel's audit tells who wrote.
Sources: dpkg-query(1), ld.so(8), systemd.unit(5), crontab(5), kernel-command-line(7).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, Run, files, output
from sekisho.probes.ownership import OWNERSHIP, merged, read_ownership


def _foreign(found: Iterable[FileOutcome], owned: set[str]) -> list[str]:
    return sorted(e.path for e in found if e.kind not in ("dir", "link") and e.path not in owned)


# -- programs, modules, start-up files of no package --------------------------------------------


def _places(raw: Mapping[str, Any]) -> dict[str, Any]:
    owned = read_ownership(raw)
    found = files(raw, "files")

    def at(*fronts: str, end: str = "") -> list[FileOutcome]:
        return [e for p, e in found.items() if p.startswith(fronts) and p.endswith(end)]

    programs = output(raw, "programs").splitlines()
    if not programs:
        raise ProbeError("find: /usr/bin and /usr/sbin are empty")
    units = [
        entry
        for entry in at("/etc/systemd/", "/run/systemd/system/", "/usr/l", "/home/", "/root/")
        if re.search(r"/systemd/(system|user)/[^/]+\.[a-z]+$", entry.path)
    ]
    return {
        "programs": sorted(path for path in programs if path not in owned),
        "local": sorted(
            p
            for p in found
            if p.startswith(("/usr/local/bin/", "/usr/local/sbin/", "/usr/local/libexec/", "/opt/"))
        ),
        "local_python": sorted(
            p for p in found if re.match(r"/usr/local/lib/python3[^/]*/dist-packages/.", p)
        ),
        "python_start": _foreign(at("/usr/lib/python3/", end=".pth"), owned),
        "pam_modules": _foreign(
            [e for p, e in found.items() if "/security/" in p and p.endswith(".so")], owned
        ),
        "name_modules": _foreign([e for p, e in found.items() if "/libnss_" in p], owned),
        "library_paths": _foreign(at("/etc/ld.so.conf.d/"), owned),
        "units": _foreign(units, owned),
        "unit_links": sorted(
            f"{e.path} -> {e.target}"
            for e in units
            if e.kind == "link"
            and not e.path.startswith("/usr/lib/")
            and not posixpath.join(posixpath.dirname(e.path), e.target or "").startswith(
                ("/usr/lib/systemd/", "/lib/systemd/", "/dev/null")
            )
        ),
        "drop_ins": _foreign(
            [e for p, e in found.items() if re.search(r"/systemd/system/[^/]+\.d/[^/]+$", p)], owned
        ),
        "generators": _foreign(
            at(
                "/etc/systemd/system-generators/",
                "/usr/local/lib/systemd/system-generators/",
                "/usr/lib/systemd/system-generators/",
            ),
            owned,
        ),
        "lingering": sorted(p.rpartition("/")[2] for p in found if "/linger/" in p),
        "cron": _foreign(at("/etc/cron", "/var/spool/cron/", "/var/spool/at/"), owned),
        "start_scripts": _foreign(
            at(
                "/etc/profile.d/",
                "/etc/init.d/",
                "/etc/rc.local",
                "/etc/update-motd.d/",
                "/etc/ssh/sshrc",
            ),
            owned,
        ),
        "apt_settings": _foreign(at("/etc/apt/apt.conf"), owned),
        "apt_keys": _foreign(at("/etc/apt/trusted.gpg"), owned),
        "boot_hooks": _foreign(
            at("/etc/initramfs-tools/hooks/", "/etc/initramfs-tools/scripts/", "/etc/kernel/"),
            owned,
        ),
    }


#: White space but no line's end: ``\s`` after ``^`` would walk a run of empty lines once for each.
_LD = re.compile(
    r"^[^\S\n]*(?:export[^\S\n]+)?(?P<key>LD_[A-Z_]+|PYTHON[A-Z]+|BASH_ENV|ENV)\b", re.MULTILINE
)


def _preload(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "files")
    unread = [
        f"{path}: {entry.error}"
        for path, entry in found.items()
        if entry.error is not None and not (entry.kind == "link" and "No such" in entry.error)
    ]
    if unread:
        raise ProbeError("; ".join(unread)[:200])
    preload = found.get("/etc/ld.so.preload")
    return {
        "preloaded": [] if preload is None else (preload.text or "").split(),
        "environment": sorted(
            f"{path}: {match['key']}"
            for path, entry in found.items()
            if path != "/etc/ld.so.preload"
            for match in _LD.finditer(entry.text or "")
        ),
        "sudo_plugins": sorted(
            line.strip()
            for line in (found["/etc/sudo.conf"].text or "").splitlines()
            if line.strip().lower().startswith("plugin")
        )
        if "/etc/sudo.conf" in found
        else [],
    }


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
    for line in text.splitlines():
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
        for line in entry.text.splitlines():
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
    names = sorted({line.strip() for line in output(raw, "names").splitlines() if line.strip()})
    if not names:
        raise ProbeError("ps: no process")
    listening: set[str] = set()
    ports = _tunnels(raw)
    for line in output(raw, "listening").splitlines():
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
        return {one.rpartition("\t")[2] for one in output(raw, "tunnels").splitlines()}
    except ProbeError:  # no wg here, or no right to ask: nothing is a tunnel's
        return set()


def _local_port(line: str) -> str | None:
    """Return the UDP port of a line of ss; None for another protocol."""
    words = line.split()
    return words[4].rpartition(":")[2] if len(words) > 4 and words[0] == "udp" else None


#: Words of a kernel command line that hand the machine to whoever stands at it.
_RISKY = re.compile(
    r"(init|rdinit|rd\.break|break|rd\.shell|systemd\.debug[-_]shell|systemd\.run\S*"
    r"|systemd\.unit|systemd\.wants|systemd\.confirm_spawn|systemd\.setenv|single|s|S|1|emergency"
    r"|rescue|rd\.systemd\.unit|apparmor|audit|enforcing|selinux|module\.sig_enforce|nokaslr)"
    r"(=(?P<value>.*))?"
)
#: Of those, values that are how it should be.
_HARMLESS = {
    ("apparmor", "1"), ("audit", "1"), ("module.sig_enforce", "1"), ("enforcing", "1"),
    ("init", "/usr/lib/sekisho/terminal-init"),  # a terminal's start; its own checks judge it
}  # fmt: skip


def risky_words(line: str) -> list[str]:
    """Return the words of a kernel command line that open a shell or switch a guard off."""
    found = []
    for word in line.split():
        match = _RISKY.fullmatch(word)
        if match and (match[1], match["value"]) not in _HARMLESS:
            found.append(word)
    return sorted(set(found))


def _boot(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "files")
    running = found.get("/proc/cmdline")
    if running is None or running.text is None:
        raise ProbeError("/proc/cmdline: not readable")
    disk: set[str] = set()
    for path, entry in found.items():
        if path == "/proc/cmdline":
            continue
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'not a regular file'}")
        for line in entry.text.splitlines():
            if words := _boot_words(path, line):
                disk.update(f"{path}: {word}" for word in risky_words(words))
    return {"running": risky_words(running.text), "disk": sorted(disk)}


def _boot_words(path: str, line: str) -> str:
    """Return the kernel's words of one line of a boot loader's file, or nothing."""
    text = line.strip()
    if path.endswith("/cmdline"):
        return text
    if match := re.match(r"linux\S*\s+\S+\s+(.*)", text):  # grub.cfg
        # Debian's own rescue entries say "single": they ask for root's password, which is locked.
        return re.sub(r"\bsingle\b", "", match[1])
    if match := re.match(r"GRUB_CMDLINE_LINUX\w*=(.*)", text):
        return match[1].strip("\"'")
    return ""


def _timers(raw: Mapping[str, Any]) -> dict[str, Any]:
    timers = [line.split()[0] for line in output(raw, "timers").splitlines() if line.split()]
    return {"active": sorted(timers)}


PROBES = (
    Probe(
        name="places",
        operations={
            **OWNERSHIP,
            "programs": Run(("find", "/usr/bin", "/usr/sbin", "-maxdepth", "1", "-type", "f")),
            "files": Read(
                (
                    *("/usr/local/bin/*", "/usr/local/sbin/*", "/usr/local/libexec/*", "/opt/*"),
                    *("/usr/local/lib/python3*/dist-packages/*",),
                    *("/usr/lib/python3/dist-packages/*.pth", "/usr/lib/*/security/*.so"),
                    *("/usr/lib/*/libnss_*.so*", "/usr/lib/security/*.so"),
                    *("/etc/ld.so.conf.d/*", "/etc/systemd/system/*", "/run/systemd/system/*"),
                    *("/usr/lib/systemd/system/*", "/usr/local/lib/systemd/system/*"),
                    *("/etc/systemd/system/*.d/*", "/run/systemd/system/*.d/*"),
                    *("/usr/lib/systemd/system/*.d/*", "/usr/local/lib/systemd/system/*.d/*"),
                    *("/etc/systemd/user/*", "/home/*/.config/systemd/user/*"),
                    *("/root/.config/systemd/user/*", "/var/lib/systemd/linger/*"),
                    *("/etc/systemd/system-generators/*", "/usr/lib/systemd/system-generators/*"),
                    *("/usr/local/lib/systemd/system-generators/*", "/etc/crontab"),
                    *("/etc/cron.d/*", "/etc/cron.*ly/*", "/var/spool/cron/crontabs/*"),
                    *("/var/spool/cron/atjobs/*", "/var/spool/at/*", "/etc/profile.d/*"),
                    *("/etc/init.d/*", "/etc/rc.local", "/etc/update-motd.d/*", "/etc/ssh/sshrc"),
                    *("/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*", "/etc/apt/trusted.gpg"),
                    *("/etc/apt/trusted.gpg.d/*",),
                    *("/etc/initramfs-tools/hooks/*", "/etc/initramfs-tools/scripts/*/*"),
                    *("/etc/kernel/*.d/*",),
                ),
                content=False,
            ),
        },
        parse=_places,
    ),
    Probe(
        name="preload",
        operations={
            "files": Read(
                (
                    *("/etc/ld.so.preload", "/etc/environment", "/etc/environment.d/*.conf"),
                    *("/etc/security/pam_env.conf", "/etc/default/locale", "/etc/sudo.conf"),
                )
            )
        },
        parse=_preload,
    ),
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
        name="boot_words",
        operations={
            "files": Read(
                (
                    *("/proc/cmdline", "/etc/default/grub", "/etc/default/grub.d/*"),
                    *("/boot/grub/grub.cfg", "/etc/kernel/cmdline"),
                )
            )
        },
        parse=_boot,
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
