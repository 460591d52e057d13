"""The words of libnftables JSON, written the way `nft -j list` writes them back. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Any

Json = dict[str, Any]

#: Drops written to the kernel's log: enough to see them, too few to fill a disk.
LOG_LIMIT: Json = {"limit": {"rate": 10, "burst": 20, "per": "minute"}}


def table_object(kind: str, body: Json) -> Json:
    """Return the command that adds one object to our table."""
    return {"add": {kind: {"family": "inet", "table": "sekisho", **body}}}


def payload(protocol: str, field: str) -> Json:
    """Return a header field; nft adds the match of the protocol by itself."""
    return {"payload": {"protocol": protocol, "field": field}}


def meta(name: str) -> Json:
    """Return a packet's meta key."""
    return {"meta": {"key": name}}


def equals(left: Json, right: Any, op: str = "==") -> Json:
    """Return a match statement."""
    return {"match": {"op": op, "left": left, "right": right}}


def iif(name: str) -> Json:
    """Match the interface a packet came in by (by name: it need not exist yet)."""
    return equals(meta("iifname"), name)


def oif(name: str) -> Json:
    """Match the interface a packet goes out by."""
    return equals(meta("oifname"), name)


def ct_state(*states: str) -> Json:
    """Match the connection's state."""
    right: Any = states[0] if len(states) == 1 else sorted(states)
    return equals({"ct": {"key": "state"}}, right, "in")


def ct_reply() -> Json:
    """Match packets against the direction the connection was opened in."""
    return equals({"ct": {"key": "direction"}}, "reply")


def key(*parts: Json) -> Json:
    """Return a concatenation, the key of a set or map."""
    return {"concat": list(parts)}


def jump_if_in(what: Json, name: str) -> Json:
    """Match when ``what`` is in the named set."""
    return equals(what, name)


def counter(target: Json) -> Json:
    """Count in the counter a map names; a key that is not in the map ends the rule."""
    return {"counter": {"map": target}}


def log_drop(what: str) -> tuple[Json, Json]:
    """Log what is about to be dropped, at a limited rate."""
    return LOG_LIMIT, {"log": {"prefix": f"sekisho-drop {what} ", "level": "notice"}}


def addresses(values: Iterable[str]) -> list[str]:
    """Return addresses in numeric order, the order a reader expects."""
    return sorted(set(values), key=lambda text: int(IPv4Address(text)))
