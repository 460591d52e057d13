"""Time: chrony's configuration, its sources as it sees them, and how far off the clock is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

from sekisho.core.text import lines_of
from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output, text_of

_CONF = "/etc/chrony/chrony.conf"
#: Directives that name a source, and those that read further files (chrony.conf(5)).
_SOURCES = ("server", "pool", "peer", "refclock")
#: chronyc's texts of the leap status (chronyc(1) tracking).
_LEAP = {
    "normal": "normal",
    "insert second": "normal",
    "delete second": "normal",
    "not synchronised": "not-synchronised",
}
_FURTHER = ("include", "confdir", "sourcedir")


def _configured(raw: Mapping[str, Any]) -> dict[str, Any]:
    sources, further = [], []
    directives: dict[str, list[str]] = {}
    for line in lines_of(text_of(files(raw, "conf"), _CONF)):
        text = line.strip()
        if not text or text[0] in "!;#%":
            continue
        words = text.split()
        name = words[0].lower()
        directives.setdefault(name, []).append(" ".join(words[1:]))
        if name in _SOURCES and len(words) > 1:
            sources.append(words[1])
        elif name in _FURTHER:
            further += words[1:]
    return {
        "sources": sources,
        "further_files": further,
        "directives": directives,
        "serves": "allow" in directives,
        "command_port": directives.get("cmdport", ["323"])[-1],
        "port": directives.get("port", ["123"])[-1],
    }


def _microseconds(seconds: str) -> int:
    # No exponent: chronyc writes none, and the integer of one could fill the memory.
    try:
        if not re.fullmatch(r"[+-]?[0-9]{1,12}(\.[0-9]{1,20})?", seconds, re.ASCII):
            raise InvalidOperation  # noqa: TRY301 - told as any other
        return abs(int(Decimal(seconds) * 1_000_000))
    except (InvalidOperation, OverflowError, ValueError):
        raise ProbeError(f"chronyc: {seconds[:40]!r} is no number of seconds") from None


def _tracking(raw: Mapping[str, Any]) -> dict[str, Any]:
    # chronyc -c quotes nothing: a field is what lies between two commas (chronyc(1)).
    rows = [line.split(",") for line in islice(lines_of(output(raw, "tracking")), 2)]
    if len(rows) != 1 or len(rows[0]) < 14:
        raise ProbeError("chronyc tracking: not one line of 14 fields")
    row = rows[0]
    if not re.fullmatch(r"[0-9]{1,2}", row[2]):
        raise ProbeError(f"chronyc tracking: stratum {row[2][:20]!r}")
    # A leap second that is announced is a clock in step; another text may be anything.
    state = _LEAP.get(row[13].strip().lower())
    if state is None:
        raise ProbeError(f"chronyc tracking: leap status {row[13][:20]!r}")
    sources = []
    for text in lines_of(output(raw, "sources")):
        line = text.split(",")
        if len(line) < 8:
            raise ProbeError("chronyc sources: a line of fewer than 8 fields")
        sources.append({"mode": line[0], "state": line[1], "address": line[2]})
    return {
        "stratum": int(row[2]),
        "offset_us": _microseconds(row[4]),
        "state": state,
        "sources": [source["address"] for source in sources],
        "selected": [source["address"] for source in sources if source["state"] == "*"],
    }


def _sockets(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return which of the time ports (123, 323) are bound for UDP, and how."""
    found = files(raw, "udp")
    text_of(found, "/proc/net/udp")
    bound = []
    for entry in found.values():
        for line in lines_of(entry.text or "")[1:]:
            words = line.split()
            if len(words) < 4:
                raise ProbeError(f"{entry.path}: garbled line {line[:60]!r}")
            address, _, port = words[1].partition(":")
            # 07: an unconnected socket, one that anybody may speak to (a client's is connected)
            if words[3] == "07" and int(port, 16) in (123, 323):
                bound.append(f"{address}:{int(port, 16)}")
    return {"bound": sorted(bound)}


PROBES = (
    Probe(
        name="time-sockets",
        operations={"udp": Read(("/proc/net/udp", "/proc/net/udp6"))},
        parse=_sockets,
    ),
    Probe(name="time-configuration", operations={"conf": Read((_CONF,))}, parse=_configured),
    Probe(
        name="time",
        operations={
            "tracking": Run(("chronyc", "-c", "-n", "tracking")),
            "sources": Run(("chronyc", "-c", "-n", "sources")),
        },
        parse=_tracking,
    ),
)
