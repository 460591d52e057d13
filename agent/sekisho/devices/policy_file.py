"""The list of devices in a file: a host's policy, a machine's site file, or a bare list. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.strict_json import strict_json
from sekisho.core.yaml_nodes import Node, Reader, yaml_type
from sekisho.devices.disks import Disk, parse_disks
from sekisho.devices.policy import Rule, parse_devices

MAX_BYTES = 8 * 1024 * 1024
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a file lists.

    Attributes:
        rules: USB devices.
        cards: network interface → MAC address.
        disks: the machine's own disks.

    """

    rules: tuple[Rule, ...] = ()
    cards: Mapping[str, str] = field(default_factory=dict)
    disks: tuple[Disk, ...] = ()


def parse_listed(raw: bytes, where: str) -> Listed:
    """Return what a file lists: JSON or YAML, a list of rules or a mapping with ``devices``.

    Raises:
        SekishoError: garbled, or a list that `parse_devices` refuses. ``where`` names the file.

    """
    value = parse_values(raw, where)
    if isinstance(value, dict):
        value = value.get("sekisho_machine", value)
    devices = value.get("devices") if isinstance(value, dict) else value
    if not isinstance(devices, list):
        raise _refuse(where, printable(value, 60), "a list of devices, or a mapping with `devices`")
    try:
        rules = parse_devices(devices)
        own = value.get("disks") if isinstance(value, dict) else None
        disks = parse_disks(own) if own is not None else ()
    except SekishoError as bad:
        raise SekishoError(f"{where}: {bad.message}", bad.problems) from None
    cards = _cards(value.get("interfaces") if isinstance(value, dict) else None)
    return Listed(rules, cards, disks)


def _cards(interfaces: Any) -> dict[str, str]:
    """Return name → MAC address; an entry without a proper address names no card."""
    found: dict[str, str] = {}
    for name, body in interfaces.items() if isinstance(interfaces, dict) else ():
        mac = body.get("mac") if isinstance(body, dict) else None
        if isinstance(mac, str) and _MAC.fullmatch(mac):
            found[name] = mac
    return found


def _refuse(where: str, got: str, expected: str) -> SekishoError:
    return SekishoError(
        "the list of admitted devices was not read", (Problem(where, "", got, expected, "6-iii-c"),)
    )


def parse_values(raw: bytes, where: str) -> Any:
    """Return what a JSON or YAML file holds, as plain values; `SekishoError` when garbled."""
    if len(raw) > MAX_BYTES:
        raise _refuse(where, f"more than {MAX_BYTES} bytes", "a list of devices")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as bad:
        raise _refuse(where, f"byte {bad.start}: no UTF-8", "JSON or YAML in UTF-8") from None
    if text.lstrip()[:1] in ("{", "["):
        try:
            return strict_json(raw, size=MAX_BYTES)
        except ValueError as bad:
            json_said = printable(str(bad))
            if not text.lstrip().startswith("["):  # YAML may begin so too, a policy may not
                raise _refuse(where, json_said, "JSON") from None
    problems: list[Problem] = []
    read = Reader(where, problems)
    root = read.compose(text)
    value = None if root is None else _plain(root, read)
    if problems:
        raise SekishoError("the list of admitted devices was not read", tuple(problems))
    return value


def _plain(node: Node, read: Reader, key: str = "") -> Any:
    """Return a tree as plain values: text, and ``count`` as a number. The tree is shallow."""
    if node.pairs is not None:
        return {name: _plain(value, read, name) for name, (_, value) in node.pairs.items()}
    if node.entries is not None:
        return [_plain(one, read, key) for one in node.entries]
    text = node.text or ""
    if key == "count" and node.plain and re.fullmatch(r"[0-9]{1,4}", text, re.ASCII):
        return int(text)
    typed = yaml_type(text) if node.plain and key in _TEXTS else None
    if typed is not None:
        read.wrong(node.line, key, f"{typed} ({node.describe()})", "text, in quotes")
    return text


_TEXTS = frozenset(
    {
        "name",
        "vendor",
        "product",
        "serial",
        "serial_hash",
        "port",
        "interfaces",
        "path",
        "wwn",
        "mode",
    }
)
