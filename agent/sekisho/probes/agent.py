"""The host agent: what it says of itself, how its unit runs, and who may read what it keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sekisho.core.text import lines_of
from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output, text_of

STATE = "/run/sekisho/agent.json"
UNIT = "sekisho-agent.service"
#: Properties of the unit as systemd runs it; drop-ins are in them.
PROPERTIES = (
    "ActiveState",
    "CapabilityBoundingSet",
    "NoNewPrivileges",
    "ProtectSystem",
    "ProtectHome",
    "ProtectKernelModules",
    "PrivateDevices",
    "MemoryDenyWriteExecute",
    "ReadWritePaths",
    "Restart",
    "Type",
    "User",
    "WatchdogUSec",
    "ExecStart",
    "DropInPaths",
)
KEPT = {
    "key": "/etc/sekisho/host.key.pem",
    "journal": "/var/lib/sekisho/journal",
}


def _agent(raw: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": _unit(raw), "kept": _kept(raw)}
    try:
        state = json.loads(text_of(files(raw, "state"), STATE))
        parts = dict(state["parts"])
        found |= {
            "policy_serial": int(state["policy_serial"]),
            "rules_digest": str(state["rules_digest"]),
            "policy_refused": bool(state["policy_refused"]),
            "parts_down": sorted(name for name, works in parts.items() if works is not True),
            "parts_up": sorted(name for name, works in parts.items() if works is True),
            "journal_lost": int(state["journal"]["lost"]),
            "journal_unsealed": int(state["journal"]["last"]) - int(state["journal"]["sealed"]),
            "age_s": int(output(raw, "now").strip()) - int(state["at"]),
        }
    except (ValueError, KeyError, TypeError, AttributeError) as bad:
        raise ProbeError(f"{STATE}: garbled ({bad})") from None
    except ProbeError:
        # It never ran since the boot: the unit tells so, what it would say of itself is unknown.
        if found["unit"]["ActiveState"] == "active":
            raise
    return found


def _unit(raw: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, str] = {}
    for line in lines_of(output(raw, "unit")):
        key, sep, value = line.partition("=")
        if sep and key in PROPERTIES:
            shown[key] = value
    if "ActiveState" not in shown:
        raise ProbeError("systemctl show: no ActiveState")
    drop_ins = shown.get("DropInPaths", "").split()
    return {
        **shown,
        "capabilities": sorted(shown.get("CapabilityBoundingSet", "").split()),
        "drop_ins": sorted(path.rpartition("/")[2] for path in drop_ins),
    }


def _kept(raw: Mapping[str, Any]) -> dict[str, Any]:
    seen = files(raw, "kept")
    return {
        name: {"mode": f"{seen[path].mode:04o}", "owner": f"{seen[path].uid}:{seen[path].gid}"}
        for name, path in KEPT.items()
        if path in seen
    }


PROBES = (
    Probe(
        name="agent",
        operations={
            "state": Read((STATE,)),
            "now": Run(("date", "+%s")),
            "unit": Run(("systemctl", "show", UNIT, f"--property={','.join(PROPERTIES)}")),
            "kept": Read(tuple(KEPT.values()), content=False),
        },
        parse=_agent,
    ),
)
