"""The module wall, as the kernel itself says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sekisho.probes.model import Probe, ProbeError, Read, files, text_of

_SWITCH = "/proc/sys/kernel/modules_disabled"


def _wall(raw: Mapping[str, Any]) -> dict[str, Any]:
    value = text_of(files(raw, "switch"), _SWITCH).strip()
    if value not in ("0", "1"):
        raise ProbeError(f"{_SWITCH}: {value[:40]!r}")
    return {"disabled": value}


PROBES = (
    Probe(
        name="module-wall",
        operations={"switch": Read((_SWITCH,))},
        parse=_wall,
    ),
)
