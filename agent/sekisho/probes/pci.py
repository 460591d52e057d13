"""What hangs on PCI: every function by its place and its maker's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sekisho.devices.pci import function
from sekisho.probes.model import Probe, ProbeError, Read, files, text_of

_PCI = "/sys/bus/pci/devices"
_NUMBERS = ("vendor", "device")


def _functions(raw: Mapping[str, Any]) -> dict[str, Any]:
    numbers = files(raw, "numbers")
    places = sorted({path.split("/")[5] for path in numbers})
    if not places:
        raise ProbeError("this machine shows no PCI function at all")
    return {
        "functions": [
            function(place, *(text_of(numbers, f"{_PCI}/{place}/{key}") for key in _NUMBERS))
            for place in places
        ]
    }


PROBES = (
    Probe(
        name="pci",
        operations={"numbers": Read(tuple(f"{_PCI}/*/{key}" for key in _NUMBERS))},
        parse=_functions,
    ),
)
