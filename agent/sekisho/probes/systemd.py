"""Units: what runs now, and what is masked or enabled on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output

_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\@-]+\.(service|socket|target|device|mount|automount|swap|timer|path|slice|scope)",
    re.ASCII,
)


def _units(raw: Mapping[str, Any]) -> dict[str, Any]:
    active, failed = [], []
    for line in output(raw, "units").splitlines():
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
    return {
        "masked": sorted(masked),
        "enabled": sorted(enabled - set(masked)),
        "present": sorted(present - set(masked)),
        "drop_ins": sorted(changed),
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
