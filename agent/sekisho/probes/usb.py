"""USB buses and devices as the kernel holds them, udev's rules, and block devices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.core.errors import SekishoError
from sekisho.core.text import lines_of
from sekisho.devices.policy import NEVER, serial_fits
from sekisho.devices.udev_rules import PATH as RULES
from sekisho.devices.udev_rules import parse as parse_rules
from sekisho.probes.host_policy import POLICY, policy_of
from sekisho.probes.kernel import effective_files
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, files, text_of
from sekisho.probes.mounts import parse_mountinfo

_BUS = "/sys/bus/usb/devices"
_PARAMETER = "/sys/module/usbcore/parameters/authorized_default"
UDEV_DIRS = (
    "/usr/lib/udev/rules.d",
    "/usr/local/lib/udev/rules.d",
    "/run/udev/rules.d",
    "/etc/udev/rules.d",
)
#: An assignment (not a comparison) to a device's authorisation, in any udev rules file.
_ASSIGNS = re.compile(r"ATTR\{\s*(?:interface_)?authorized(?:_default)?\s*\}\s*[+:]?=(?!=)")


def _attributes(found: Mapping[str, FileOutcome]) -> dict[str, dict[str, str]]:
    """Return folder name → attribute → text; `ProbeError` for one that is there but unreadable."""
    folders: dict[str, dict[str, str]] = {}
    for path, entry in found.items():
        folder, _, name = path.removeprefix(f"{_BUS}/").partition("/")
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'no content'}")
        folders.setdefault(folder, {})[name] = entry.text.removesuffix("\n")
    return folders


def _listed(found: Mapping[str, FileOutcome]) -> list[dict[str, Any]]:
    """Return the devices of the host's own policy; only a label: judging compares every field."""
    try:
        return [one.as_json() for one in policy_of(found).devices]
    except ProbeError:
        return []


def _serial_fits(entry: Mapping[str, Any], serial: str) -> bool:
    if "serial_hash" in entry:
        return serial_fits(str(entry["serial_hash"]), serial)
    return entry.get("serial") == serial


def _as_written(told: dict[str, Any], listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the policy's own entry for a device that fits one, else the device as it is."""
    for entry in listed:
        interfaces = entry.get("interfaces")
        if (
            all(entry.get(key) == told[key] for key in ("vendor", "product"))
            and _serial_fits(entry, told["serial"])
            and entry.get("port") in (told["port"], told["sysname"])
            and isinstance(interfaces, list)
            and told["interfaces"]
            and set(told["interfaces"]) <= {str(text) for text in interfaces}
            and not any(str(text)[:2] in NEVER for text in interfaces)
        ):
            return entry
    return told


def _usb(raw: Mapping[str, Any]) -> dict[str, Any]:
    folders = _attributes(files(raw, "bus"))
    core = files(raw, "core")
    listed = _listed(files(raw, "policy"))
    buses = {name: held for name, held in folders.items() if re.fullmatch(r"usb[0-9]+", name)}
    open_buses = []
    for name, held in sorted(buses.items()):
        if "authorized_default" not in held:
            raise ProbeError(f"{_BUS}/{name}/authorized_default: not there")
        if held["authorized_default"].strip() != "0":
            open_buses.append(name)
    interfaces: dict[str, list[dict[str, str]]] = {}
    for name, held in folders.items():
        if ":" in name:
            interfaces.setdefault(name.partition(":")[0], []).append(held)
    admitted, shut = [], []
    for name, held in sorted(folders.items()):
        if name in buses or ":" in name:
            continue
        if held.get("authorized", "").strip() not in ("0", "1"):
            raise ProbeError(f"{_BUS}/{name}/authorized: {held.get('authorized')!r}")
        told = {
            "sysname": name,
            "vendor": held.get("idVendor", ""),
            "product": held.get("idProduct", ""),
            "serial": held.get("serial", ""),
            "port": held.get("devpath", ""),
            "interfaces": sorted(
                {
                    ":".join(
                        inner.get(f"bInterface{part}", "??").strip()
                        for part in ("Class", "SubClass", "Protocol")
                    )
                    for inner in interfaces.get(name, ())
                }
            ),
        }
        if held["authorized"].strip() == "1":
            admitted.append(_as_written(told, listed))
        else:
            shut.append(told)
    parameter = core.get(_PARAMETER)
    return {
        "stack": "loaded" if buses or parameter else "absent",
        "new_buses": (parameter.text or "?").strip() if parameter else "absent",
        "buses": sorted(buses),
        "open_buses": open_buses,
        "admitted": admitted,
        "shut": shut,
    }


def _udev(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "rules")
    listed = _listed(files(raw, "policy"))
    assigning = []
    for entry in effective_files(found, UDEV_DIRS):
        text = (entry.text or "").replace("\\\n", "")
        lines = [line for line in lines_of(text) if not line.lstrip().startswith("#")]
        if entry.path != RULES and any(_ASSIGNS.search(line) for line in lines):
            assigning.append(entry.path)
    fact: dict[str, Any] = {"assigning_elsewhere": assigning}
    ours = found.get(RULES)
    if ours is None or not ours.text:
        fact["rules"] = "missing"
        return fact
    try:
        devices = parse_rules(ours.text)
    except SekishoError as bad:
        fact["rules"] = f"changed: {bad.problems[0].line() if bad.problems else bad.message}"
        return fact
    fact["rules"] = "compiled"
    fact["devices"] = [
        next(
            (
                entry
                for entry in listed
                if {**entry, "interfaces": sorted(entry.get("interfaces", []))} == device
            ),
            device,
        )
        for device in devices
    ]
    helper = files(raw, "helper").get("/usr/lib/sekisho/usb-admit")
    fact["helper"] = (
        "missing"
        if helper is None or helper.kind != "file"
        else "writable"
        if helper.uid != 0 or helper.mode & 0o022
        else "in place"
    )
    return fact


#: Part of a block device's place in sysfs → what it hangs on; the first that fits counts.
_ATTACHED = (
    ("/usb", "usb"),
    ("/ieee1394", "firewire"),
    ("/fw", "firewire"),
    ("/mmc_host/", "card"),
    ("/memstick", "card"),
    ("/session", "network"),
    ("/virtual/block/nbd", "network"),
    ("/virtual/block/rbd", "network"),
    ("/virtual/block/drbd", "network"),
    ("/virtual/block/ublk", "network"),
    ("/nvme-fabrics/", "network"),
)


def _block(raw: Mapping[str, Any]) -> dict[str, Any]:
    links = files(raw, "links")
    attributes = files(raw, "attributes")
    devices: dict[str, str] = {}
    for path, entry in links.items():
        name = path.rpartition("/")[2]
        if entry.target is None:
            raise ProbeError(f"{path}: {entry.error or 'not a link'}")
        removable = attributes.get(f"{path}/removable")
        size = attributes.get(f"{path}/size")
        kind = next((kind for part, kind in _ATTACHED if part in entry.target), "inside")
        if kind == "inside" and re.fullmatch(r"(sr|fd|st|mmcblk|mspblk)[0-9].*", name):
            kind = "removable"
        if kind == "inside" and removable is not None and (removable.text or "").strip() != "0":
            kind = "removable"
        # nbd makes sixteen empty nodes as soon as it is loaded: the module check speaks of that.
        if kind == "network" and size is not None and (size.text or "").strip() == "0":
            kind = "empty"
        devices[name] = kind
    attached = sorted(name for name, kind in devices.items() if kind not in ("inside", "empty"))
    tables = files(raw, "tables")
    # A sandboxed collector has mounts of its own; those of PID 1 are the machine's.
    whole = tables.get("/proc/1/mountinfo")
    table = "/proc/1/mountinfo" if whole and whole.text else "/proc/self/mountinfo"
    # A partition hangs below its disk, and only the disk is called removable.
    parts = {path.rpartition("/")[2]: (e.target or "").split("/")[-2:] for path, e in links.items()}
    mounted = sorted(
        f"{held['source']} {point}"
        for point, held in parse_mountinfo(text_of(tables, table)).items()
        if held["source"].startswith("/dev/")
        and not set(attached).isdisjoint(parts.get(held["source"][5:], ()))
    )
    return {"devices": devices, "attached": attached, "mounted": mounted}


PROBES = (
    Probe(
        name="usb",
        operations={
            "bus": Read(
                tuple(
                    f"{_BUS}/*/{name}"
                    for name in (
                        "authorized",
                        "authorized_default",
                        "idVendor",
                        "idProduct",
                        "serial",
                        "devpath",
                        "bInterfaceClass",
                        "bInterfaceSubClass",
                        "bInterfaceProtocol",
                    )
                )
            ),
            "core": Read((_PARAMETER,)),
            "policy": Read((POLICY,)),
        },
        parse=_usb,
    ),
    Probe(
        name="udev",
        operations={
            "rules": Read(tuple(f"{folder}/*.rules" for folder in UDEV_DIRS)),
            "helper": Read(("/usr/lib/sekisho/usb-admit",), content=False),
            "policy": Read((POLICY,)),
        },
        parse=_udev,
    ),
    Probe(
        name="block",
        operations={
            "links": Read(("/sys/class/block/*",), content=False),
            "attributes": Read(("/sys/class/block/*/removable", "/sys/class/block/*/size")),
            "tables": Read(("/proc/1/mountinfo", "/proc/self/mountinfo")),
        },
        parse=_block,
    ),
)
