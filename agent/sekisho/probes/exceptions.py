"""Device exceptions as a host keeps them, each proven by its policy; and the devices' mode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sekisho.core.errors import SekishoError
from sekisho.orders.judge import problems_of, signers_of
from sekisho.orders.parse import parse_order
from sekisho.policy.host_policy import HostPolicy
from sekisho.probes.host_policy import POLICY, policy_of
from sekisho.probes.model import FileOutcome, Probe, Read, Run, files, time_of

_OPEN = "/run/sekisho-exception/open.json"
_KEPT = "/var/lib/sekisho/orders"


def _exceptions(raw: Mapping[str, Any]) -> dict[str, Any]:
    policy = policy_of(files(raw, "policy"))
    now = time_of(raw, "now")
    entries: dict[str, dict[str, Any]] = {}
    unproven: dict[str, str] = {}
    for path, one in files(raw, "kept").items():
        name = path.rpartition("/")[2].removesuffix(".json")
        try:
            value = json.loads(one.text or "")
            state = value["state"]
            if state not in ("open", "closed") or value["id"] != name:
                raise ValueError("another state or name")  # noqa: TRY301 - garbled either way
        except (ValueError, KeyError, TypeError, RecursionError):
            unproven[name] = "garbled"
            continue
        if state == "open":
            entries[name] = value
    open_file = files(raw, "open").get(_OPEN)
    if open_file is not None:
        _let_in(open_file, entries, unproven)
    for name, value in entries.items():
        why = _wrong(name, value, policy)
        if why:
            unproven[name] = why
    overdue = [name for name, value in entries.items() if _ended(value, now)]
    return {
        "open": sorted({*entries, *unproven}),
        "unproven": [f"{name}: {why}" for name, why in sorted(unproven.items())],
        "overdue": sorted(overdue),
    }


def _let_in(
    told: FileOutcome, entries: Mapping[str, Mapping[str, Any]], unproven: dict[str, str]
) -> None:
    """Hold what udev's helper lets in against what is remembered of its order."""
    try:
        value = json.loads(told.text or "")
        entry = entries.get(value["id"], {})
        content = {"device": entry.get("device"), "direction": entry.get("direction")}
        same = (value["content"], value["end"]) == (content, entry.get("end_at"))
        if not same or told.uid != 0 or told.mode & 0o022:
            unproven[str(value["id"])] = "what is let in is not what an order says"
    except (ValueError, KeyError, TypeError, RecursionError):
        unproven["open.json"] = "garbled"


def _wrong(name: str, entry: Mapping[str, Any], policy: HostPolicy) -> str:
    try:
        order = parse_order(str(entry["file"]).encode("utf-8", "replace"), name)
        found = problems_of(
            order,
            signers_of(policy),
            site=policy.site,
            host=policy.host,
            now=None,
            where=name,
        )
    except SekishoError as bad:
        return bad.message
    except KeyError as bad:
        return f"no {bad}"
    content = {"device": entry.get("device"), "direction": entry.get("direction")}
    if order.id != name or dict(order.content) != content:
        return "what is remembered of it is not what it says"
    if int(order.end.timestamp()) != entry.get("end_at"):
        return "its end is not the one it says"
    return "; ".join(problem.line() for problem in found)


def _ended(entry: Mapping[str, Any], now: datetime) -> bool:
    end = entry.get("end_at")
    return type(end) is not int or now.timestamp() >= end


def _mode(raw: Mapping[str, Any]) -> dict[str, Any]:
    policy = policy_of(files(raw, "policy"))
    return {"mode": policy.devices_mode if policy.says("devices_mode") else "not said"}


PROBES = (
    Probe(
        name="exceptions",
        operations={
            "policy": Read((POLICY,)),
            "now": Run(("date", "+%s")),
            "kept": Read((f"{_KEPT}/*.json",)),
            "open": Read((_OPEN,)),
        },
        parse=_exceptions,
    ),
    Probe(name="devices-mode", operations={"policy": Read((POLICY,))}, parse=_mode),
)
