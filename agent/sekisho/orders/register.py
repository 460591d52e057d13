"""The register of exceptions, out of a journal's lines. Pure; nothing but the journal is read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sekisho.orders.model import write_time

_MARK = b'"kind":"exception.'


@dataclass(slots=True)
class Register:
    """Order → what became of it, in the order of the journal; lines that could not be read."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreadable: int = 0


def register(lines: Iterable[bytes]) -> Register:
    """Return the register of ``lines``; a journal's proof is `sekisho verify`'s business."""
    found = Register()
    for line in lines:
        if _MARK not in line:
            continue
        try:
            record = json.loads(line)
            kind, data, when = record["kind"], record["data"], record["t"]
            moment = write_time(datetime.fromtimestamp(when // 1000, UTC))
            if str(kind).startswith("exception.") and kind != "exception.garbled":
                _take(found, str(kind), data, moment)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            found.unreadable += 1
    return found


def _take(found: Register, kind: str, data: dict[str, Any], moment: str) -> None:
    order = str(data["order"])
    row = found.rows.setdefault(order, {"order": order, "state": "asked", "files": []})
    if kind == "exception.file":
        row["files"].append({key: data.get(key) for key in ("name", "size", "sha256", "by")})
        return
    for key in ("requester", "approvers", "reason", "device", "direction", "start", "end", "why"):
        if key in data:
            row[key] = data[key]
    if kind == "exception.opened":
        row |= {"state": "open", "opened": moment}
    elif kind == "exception.closed":
        row |= {"state": "closed", "closed": str(data.get("closed", moment))}
