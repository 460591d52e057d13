"""How a finding words what was observed: not set, not masked, in force only until the next boot.

A check often asserts one setting twice, on disk and at run time. Where only one of the two is off
the finding says so: "in force now, not kept over a boot" is another task than "not in force". Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sekisho.catalogue.model import Assertion, Op
from sekisho.core.errors import printable

#: What a list lacks or holds, by comparison and the last key of the fact, in the field's words.
_LISTS: dict[tuple[Op, str], str] = {
    (Op.CONTAINS, "masked"): "not masked",
    (Op.CONTAINS, "enabled"): "not enabled",
    (Op.CONTAINS, "active"): "not running",
    (Op.CONTAINS, "disk"): "not on the next boot's kernel command line",
    (Op.LACKS, "masked"): "masked",
    (Op.LACKS, "active"): "running",
    (Op.LACKS, "installed"): "installed",
    (Op.EMPTY, "not_refused"): "not blocked by modprobe.d",
    (Op.EMPTY, "loadable"): "can be loaded",
    (Op.EMPTY, "loaded"): "loaded",
}
#: Words of a key that say where a setting is, not which setting it is.
_SIDES = frozenset(("disk", "runtime", "persistent", "options"))
#: Facts of one setting that two probes name differently, by probe and last key.
_NAMES: dict[tuple[str, str], str] = {
    ("audit-rules", "e"): "enabled",
    ("audit-rules", "f"): "failure",
    ("audit-rules", "b"): "backlog_limit",
    ("audit-rules", "loginuid-immutable"): "loginuid_immutable",
    ("identity", "host_on_disk"): "host",
    ("kernel-command-line", "disk"): "kernel command line",
    ("kernel-command-line", "runtime"): "kernel command line",
    ("swap", "configured"): "swap",
    ("swap", "plain"): "swap",
    ("wireguard", "configured"): "wireguard",
    ("wireguard", "loaded"): "wireguard",
}
_UNITS: dict[tuple[Op, str], str] = {
    (Op.CONTAINS, "masked"): "stopped",
    (Op.LACKS, "active"): "stopped",
    (Op.CONTAINS, "enabled"): "started",
    (Op.CONTAINS, "active"): "started",
}
_FOR_NOW = "in force now, not kept over a boot"
_FROM_THE_NEXT_BOOT = "will hold after a boot, not in force now"


def show(value: Any) -> str:
    """Return a value as a finding writes it: JSON, printable, at most 240 characters."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return printable(text, 240)


def off_by(one: Assertion, account: str, seen: str) -> str:
    """Return what is off: ``account``'s members under the field's word for them, else ``seen``."""
    label = _LISTS.get((one.op, one.key[-1] if one.key else ""))
    if label is None:
        return account or seen
    return f"{label}: {account.partition(': ')[2] or ', '.join(members(seen))}"


def members(seen: str) -> list[str]:
    """Return the members of a list as `show` wrote it, or the text itself."""
    try:
        value = json.loads(seen)
    except ValueError:
        return [seen]
    return [str(entry) for entry in value] if isinstance(value, list) else [seen]


def not_set(value: Any, *, good: bool) -> str:
    """Return how a setting that is not there is shown: its value only where that is a default.

    A value that fails is the catalogue's mark for "nothing", and nothing anybody observed.
    """
    shown = good and value not in (None, "", [])
    return f"not set (default: {show(value)})" if shown else "not set"


def setting(one: Assertion) -> str:
    """Return the name of the setting an assertion is about, the same on disk and at run time."""
    last = one.key[-1] if one.key else ""
    if one.probe in ("units", "unit-files"):
        return f"units {_UNITS.get((one.op, last), last)} {show(one.value)}"
    if one.probe == "modules" and one.key[:1] == ("groups",):
        return f"modules {one.key[1]}"
    if one.probe == "sysctl":
        return f"sysctl {last.rpartition('.')[2]}"
    named = _NAMES.get((one.probe, last))
    return named or ".".join(key for key in one.key if key not in _SIDES)


def until_when(failed: Assertion, others: Iterable[tuple[Assertion, bool]]) -> str:
    """Return which half of a setting holds, or "".

    Args:
        failed: the assertion that does not hold.
        others: every assertion of the check, and whether it holds.

    """
    elsewhere = [
        good
        for other, good in others
        if other.where != failed.where and setting(other) == setting(failed)
    ]
    if not elsewhere or not all(elsewhere):
        return ""
    return _FOR_NOW if failed.where == "disk" else _FROM_THE_NEXT_BOOT
