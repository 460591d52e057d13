"""Units: what runs now, and what is masked or enabled on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.core.text import lines_of
from sekisho.probes.kernel import effective_files
from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output

#: Folders of units that systemd looks through before /etc/systemd/system (systemd.unit(5)).
_ABOVE = (
    *("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"),
    "/run/systemd/generator.early",
)
#: The last of them wins (systemd-system.conf(5)).
_CONF_DIRS = ("/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd")
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\@-]+\.(service|socket|target|device|mount|automount|swap|timer|path|slice|scope)",
    re.ASCII,
)


def _units(raw: Mapping[str, Any]) -> dict[str, Any]:
    active, failed = [], []
    for line in lines_of(output(raw, "units")):
        words = line.split()
        if len(words) < 4 or not _UNIT.fullmatch(words[0]):
            raise ProbeError(f"systemctl: garbled line {line[:60]!r}")
        if words[2] in ("active", "activating", "reloading"):
            active.append(words[0])
        elif words[2] == "failed":
            failed.append(words[0])
    if not active:
        raise ProbeError("systemctl: not one active unit")
    return {"active": sorted(active), "failed": sorted(failed)}


#: Targets that no usual boot reaches: what only they want does not start by itself.
_NOT_REACHED = frozenset(
    f"{name}.target"
    for name in (
        *("rescue", "emergency", "shutdown", "final", "halt", "poweroff", "reboot", "kexec"),
        *("soft-reboot", "exit", "umount", "sleep", "suspend", "hibernate", "hybrid-sleep"),
        *("suspend-then-hibernate", "system-update", "factory-reset", "ctrl-alt-del"),
    )
)


def _unit_files(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is masked, and what a usual boot starts: wanted by something, and not masked."""
    masked, enabled, present, changed = [], set(), set(), []
    above = {
        path.rpartition("/")[2]
        for path, entry in files(raw, "above").items()
        if entry.kind != "dir" and not (entry.kind == "link" and entry.target == "/dev/null")
    }
    for path, entry in files(raw, "etc").items():
        name = path.removeprefix("/etc/systemd/system/")
        if "/." in path:
            continue  # systemd reads neither hidden units nor hidden folders
        if entry.kind == "link" and entry.target == "/dev/null" and "/" not in name:
            masked.append(name)
        elif "/" in name:
            folder, _, unit = name.partition("/")
            wanting, ending = folder.rpartition(".")[::2]
            if ending in ("wants", "requires") and wanting not in _NOT_REACHED:
                enabled.add(unit)
            elif folder.endswith(".d"):
                changed.append(name)
        elif entry.kind != "dir":
            present.add(name)
    for path in files(raw, "lib"):
        present.add(path.rpartition("/")[2])
    # A unit of these folders counts before the mask in /etc/systemd/system.
    masked = [name for name in masked if name not in above]
    present |= above
    return {
        "masked": sorted(masked),
        "enabled": sorted(enabled - set(masked)),
        "present": sorted(present - set(masked)),
        "drop_ins": sorted(changed),
    }


def _manager(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of PID 1 after a boot: the first main file, then drop-ins by name."""
    found = files(raw, "files")
    mains = [f"{folder}/system.conf" for folder in reversed(_CONF_DIRS)]
    main = [found[path] for path in mains if path in found][:1]
    parts = {path: entry for path, entry in found.items() if path not in mains}
    settings: dict[str, str] = {}
    dirs = tuple(f"{folder}/system.conf.d" for folder in _CONF_DIRS)
    for entry in [*main, *effective_files(parts, dirs)]:
        if entry.error is not None:
            raise ProbeError(f"{entry.path}: {entry.error}")
        for line in (entry.text or "").split("\n"):
            key, sep, value = line.strip().partition("=")
            if sep and not key.startswith(("#", ";")):
                settings[key.strip()] = value.strip()
    return settings


def _network_start(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what networkd waits for, and the other programs that bring a network up."""
    shown = dict(line.split("=", 1) for line in output(raw, "networkd").split("\n") if "=" in line)
    if "Requires" not in shown or "After" not in shown:
        raise ProbeError("systemctl show: neither Requires nor After of systemd-networkd.service")
    return {
        "requires": sorted(shown["Requires"].split()),
        "after": sorted(shown["After"].split()),
    }


#: The auditors' socket as systemd runs it; drop-ins are in it.
SOCKET = "sekisho-probe.socket"
SOCKET_PROPERTIES = ("LoadState", "TriggerLimitIntervalUSec", "MaxConnections", "DropInPaths")


def _probe_socket(raw: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, str] = {}
    for line in output(raw, "show").split("\n"):
        key, sep, value = line.partition("=")
        if sep and key in SOCKET_PROPERTIES:
            shown[key] = value
    missing = [key for key in SOCKET_PROPERTIES if key not in shown]
    if missing and shown.get("LoadState") != "not-found":
        raise ProbeError(f"systemctl show {SOCKET}: no {', '.join(missing)}")
    drop_ins = shown.pop("DropInPaths", "").split()
    return {**shown, "drop_ins": sorted(path.rpartition("/")[2] for path in drop_ins)}


PROBES = (
    Probe(
        name="manager",
        operations={
            "files": Read(
                tuple(
                    f"{folder}/{name}"
                    for folder in _CONF_DIRS
                    for name in ("system.conf", "system.conf.d/*.conf")
                )
            )
        },
        parse=_manager,
    ),
    Probe(
        name="network-start",
        operations={
            "networkd": Run(
                ("systemctl", "show", "--property=Requires,After", "systemd-networkd.service")
            )
        },
        parse=_network_start,
    ),
    Probe(
        name="units",
        operations={
            "units": Run(
                (
                    "systemctl",
                    "list-units",
                    "--type=service,socket,target,mount,automount,swap,timer,path",
                    "--state=active,activating,reloading,failed",
                    "--plain",
                    "--no-legend",
                    "--no-pager",
                    "--full",
                )
            )
        },
        parse=_units,
    ),
    Probe(
        name="unit-files",
        operations={
            "etc": Read(
                (
                    "/etc/systemd/system/*",
                    "/etc/systemd/system/*.wants/*",
                    "/etc/systemd/system/*.requires/*",
                    "/etc/systemd/system/*.d/*.conf",
                ),
                content=False,
            ),
            "above": Read(tuple(f"{folder}/*" for folder in _ABOVE), content=False),
            "lib": Read(
                ("/usr/lib/systemd/system/*.service", "/usr/lib/systemd/system/*.socket"),
                content=False,
            ),
        },
        parse=_unit_files,
    ),
    Probe(
        name="probe-socket",
        operations={
            "show": Run(("systemctl", "show", SOCKET, f"--property={','.join(SOCKET_PROPERTIES)}"))
        },
        parse=_probe_socket,
    ),
)
