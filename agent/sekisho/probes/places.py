"""Files of no package in the places from which something is run or loaded without being asked.

Ownership is dpkg's record, read once for all places. A link counts as what it leads to: one to a
packaged file, or to /dev/null, brings nothing new. Each kind of place is looked at in all its
folders: the vendor's below /usr/lib, the administrator's below /usr/local and /etc, those of /run.
Sources: systemd.unit(5), systemd.generator(7), udev(7), binfmt.d(5), tmpfiles.d(5), ld.so(8),
dbus-daemon(1), polkit(8), initramfs-tools(7), crontab(5), PAM(7).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, Run, files, output
from sekisho.probes.ownership import OWNERSHIP, read_ownership

_HOPS = 8
_LIBRARIES = ("/usr/lib", "/usr/local/lib")
_SYSTEM = ("/etc", "/run", *_LIBRARIES)


def _all(folders: Iterable[str], *names: str) -> tuple[str, ...]:
    """Return a pattern for every name below every folder."""
    return tuple(f"{folder}/{name}" for folder in folders for name in names)


_UNITS = (
    *_all(_SYSTEM, "systemd/system/*", "systemd/system/*.d/*", "systemd/user/*"),
    *_all(_SYSTEM, "systemd/user/*.d/*"),
    *_all(("/etc", "/run"), "systemd/system.control/*", "systemd/system.control/*.d/*"),
    *_all(("/etc", "/run"), "systemd/system.attached/*", "systemd/system.attached/*.d/*"),
    *("/usr/share/systemd/user/*", "/usr/local/share/systemd/user/*"),
    *_all(("/home/*", "/root"), ".config/systemd/user/*", ".config/systemd/user/*.d/*"),
    *_all(("/home/*", "/root"), ".local/share/systemd/user/*"),
)
_GENERATORS = _all(
    _SYSTEM,
    *(f"systemd/{kind}-generators/*" for kind in ("system", "user")),
    *(f"systemd/{kind}-environment-generators/*" for kind in ("system", "user")),
)
#: What root's own services read rules and programs from: device events, boot, sleep, messages,
#: interpreters, temporary files, network, log rotation.
_HOOKS = (
    *_all(_SYSTEM, "udev/rules.d/*", "tmpfiles.d/*", "binfmt.d/*", "modules-load.d/*"),
    *_all(_SYSTEM, "modprobe.d/*"),
    *_all(_LIBRARIES, "udev/*", "systemd/system-sleep/*", "systemd/system-shutdown/*"),
    *("/usr/share/dbus-1/system-services/*", "/usr/local/share/dbus-1/system-services/*"),
    *("/usr/share/dbus-1/system.d/*", "/etc/dbus-1/system.d/*"),
    *_all(("/etc", "/usr/share", "/usr/local/share"), "polkit-1/rules.d/*", "polkit-1/actions/*"),
    *("/etc/network/if-*.d/*", "/etc/ppp/ip-*.d/*", "/etc/dhcp/dhclient-*-hooks.d/*"),
    *("/etc/networkd-dispatcher/*/*", "/usr/lib/networkd-dispatcher/*/*"),
    *("/etc/NetworkManager/dispatcher.d/*", "/usr/lib/NetworkManager/dispatcher.d/*"),
    *("/etc/logrotate.d/*", "/etc/acpi/*", "/etc/acpi/events/*"),
)
_BOOT_HOOKS = (
    *_all(("/etc/initramfs-tools", "/usr/share/initramfs-tools"), "hooks/*", "scripts/*/*"),
    *("/etc/kernel/*.d/*", "/usr/share/kernel/*.d/*", "/usr/lib/kernel/install.d/*"),
    "/etc/grub.d/*",
)
_START = (
    *("/etc/profile.d/*", "/etc/init.d/*", "/etc/rc?.d/*", "/etc/rc.local", "/etc/ssh/sshrc"),
    *("/etc/update-motd.d/*", "/etc/xdg/autostart/*", "/etc/X11/Xsession.d/*"),
)
_CRON = (
    *("/etc/crontab", "/etc/anacrontab", "/etc/cron.d/*", "/etc/cron.*ly/*"),
    *("/var/spool/cron/crontabs/*", "/var/spool/cron/atjobs/*", "/var/spool/at/*"),
    *("/var/spool/incron/*", "/etc/incron.d/*"),
)
_LOCAL = (
    *("/usr/local/bin/*", "/usr/local/sbin/*", "/usr/local/libexec/*", "/usr/local/games/*"),
    "/opt/*",
)
#: Both come first in the loader's own list of folders (/etc/ld.so.conf.d/libc.conf).
_LOCAL_LIBRARIES = ("/usr/local/lib/*.so*", "/usr/local/lib/*/*.so*")


def _leads_to(path: str, links: Mapping[str, str]) -> str:
    """Return where a path ends after its links, of those that were read."""
    for _ in range(_HOPS):
        if path not in links:
            return path
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), links[path]))
        path = f"/usr{path}" if path.startswith(("/bin/", "/sbin/", "/lib/", "/lib64/")) else path
    return ""


def _programs(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return every file and link of the programs' folders: path → target ("" for a file)."""
    parts = output(raw, "programs").split("\0")
    if len(parts) % 2 == 0 or len(parts) == 1:
        raise ProbeError("find: /usr/bin and /usr/sbin are empty, or the list is cut")
    return dict(zip(parts[0:-1:2], parts[1::2], strict=True))


class _Places:
    """Every file found, and which of them came with no package."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.owned = read_ownership(raw)
        self.found = files(raw, "files")
        self.programs = _programs(raw)
        self.links = {p: e.target for p, e in self.found.items() if e.target is not None}
        self.links |= {path: target for path, target in self.programs.items() if target}

    def foreign(self, paths: Iterable[str]) -> list[str]:
        """Return those of no package; a link as what it leads to."""
        found = []
        for path in paths:
            end = _leads_to(path, self.links)
            if path not in self.owned and end not in self.owned and end != "/dev/null":
                found.append(path if end == path else f"{path} -> {self.links[path]}")
        return sorted(found)

    def under(self, *fronts: str, end: str = "") -> list[FileOutcome]:
        return [
            e
            for p, e in self.found.items()
            if p.startswith(fronts) and p.endswith(end) and e.kind != "dir"
        ]

    def of(self, patterns: Iterable[str]) -> list[str]:
        fits = [re.compile(_expression(one)) for one in patterns]
        return [
            path
            for path, entry in self.found.items()
            if entry.kind != "dir" and any(one.fullmatch(path) for one in fits)
        ]


def _expression(pattern: str) -> str:
    """Return a glob as a regular expression; a wildcard stays within one name."""
    return re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def _places(raw: Mapping[str, Any]) -> dict[str, Any]:
    here = _Places(raw)
    found, foreign = here.found, here.foreign
    units = [e for p in here.of(_UNITS) if not re.search(r"\.d/[^/]+$", p) for e in (found[p],)]
    return {
        "programs": foreign(here.programs),
        "local": sorted(
            p for p in found if any(re.fullmatch(_expression(one), p) for one in _LOCAL)
        ),
        "local_libraries": here.foreign(here.of(_LOCAL_LIBRARIES)),
        "local_python": sorted(
            # root's own packages count: its Python looks there before Debian's.
            p
            for p in found
            if re.match(r"/(usr/local|root/\.local)/lib/python3[^/]*/(dist|site)-packages/.", p)
        ),
        "python_start": foreign(
            path
            for path in found
            if path.startswith("/usr/lib/python3") and not path.endswith("/__pycache__")
        ),
        "pam_modules": foreign(
            p for p in found if "/security/" in p and p.endswith(".so") and p.startswith("/usr/")
        ),
        "name_modules": foreign(p for p in found if "/libnss_" in p),
        "library_paths": foreign(e.path for e in here.under("/etc/ld.so.conf")),
        "units": foreign(e.path for e in units if e.kind != "link"),
        "unit_links": sorted(
            {
                f"{e.path} -> {e.target}"
                for e in units
                if e.kind == "link" and foreign([e.path]) and not _known_unit(e, here)
            }
            # What a person's folder hides behind a link, or from root: it was not looked into.
            | {
                f"{e.path} -> {e.target or e.error}"
                for e in here.under("/home/")
                if e.error is not None
            }
        ),
        "drop_ins": foreign(
            p for p in here.of(_UNITS) if re.search(r"/systemd/[a-z.]+/[^/]+\.d/[^/]+$", p)
        ),
        "generators": foreign(here.of(_GENERATORS)),
        "hooks": foreign(here.of(_HOOKS)),
        "lingering": sorted(p.rpartition("/")[2] for p in found if "/linger/" in p),
        # at's counter of jobs is no job.
        "cron": [p for p in foreign(here.of(_CRON)) if p != "/var/spool/cron/atjobs/.SEQ"],
        "start_scripts": foreign(here.of(_START)),
        "apt_settings": foreign(e.path for e in here.under("/etc/apt/apt.conf")),
        "apt_keys": foreign(e.path for e in here.under("/etc/apt/trusted.gpg")),
        "boot_hooks": foreign(here.of(_BOOT_HOOKS)),
    }


def _known_unit(entry: FileOutcome, here: _Places) -> bool:
    """Tell whether a link below /usr/lib leads to a unit there, whoever brought it: see `units`."""
    end = _leads_to(entry.path, here.links)
    return end.startswith(("/usr/lib/systemd/system/", "/usr/lib/systemd/user/"))


PROBES = (
    Probe(
        name="places",
        operations={
            **OWNERSHIP,
            "programs": Run(
                (
                    *("find", "/usr/bin", "/usr/sbin", "-maxdepth", "1"),
                    *("(", "-type", "f", "-o", "-type", "l", ")", "-printf", "%p\\0%l\\0"),
                )
            ),
            "files": Read(
                (
                    *_LOCAL,
                    *_LOCAL_LIBRARIES,
                    "/usr/local/lib/python3*/dist-packages/*",
                    "/root/.local/lib/python3*/site-packages/*",
                    *("/usr/lib/python3/dist-packages/*", "/usr/lib/python3.*/*"),
                    "/usr/lib/*/security/*.so",
                    *("/usr/lib/*/libnss_*.so*", "/usr/lib/security/*.so"),
                    *("/etc/ld.so.conf", "/etc/ld.so.conf.d/*", "/etc/alternatives/*"),
                    *_UNITS,
                    "/var/lib/systemd/linger/*",
                    *_GENERATORS,
                    *_HOOKS,
                    *_CRON,
                    *_START,
                    *("/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*", "/etc/apt/trusted.gpg"),
                    "/etc/apt/trusted.gpg.d/*",
                    *_BOOT_HOOKS,
                ),
                content=False,
            ),
        },
        parse=_places,
    ),
)
