"""The module wall and hot-plug, as the kernel itself says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sekisho.devices.module_lock import QUIET_BUSES
from sekisho.probes.model import Probe, ProbeError, Read, files, text_of

_SWITCH = "/proc/sys/kernel/modules_disabled"


def _wall(raw: Mapping[str, Any]) -> dict[str, Any]:
    value = text_of(files(raw, "switch"), _SWITCH).strip()
    if value not in ("0", "1"):
        raise ProbeError(f"{_SWITCH}: {value[:40]!r}")
    found = files(raw, "buses")
    buses = {path.split("/")[3]: text_of(found, path).strip() for path in found}
    odd = sorted(bus for bus, state in buses.items() if state not in ("0", "1"))
    if odd or "pci" not in buses:
        raise ProbeError(f"drivers_autoprobe: {', '.join(odd) or 'no PCI bus'}")
    return {
        "disabled": value,
        "probing": sorted(bus for bus, state in buses.items() if state == "1"),
    }


PROBES = (
    Probe(
        name="module-wall",
        operations={
            "switch": Read((_SWITCH,)),
            "buses": Read(tuple(f"/sys/bus/{bus}/drivers_autoprobe" for bus in QUIET_BUSES)),
        },
        parse=_wall,
    ),
)
