"""Who may attach: one device, the site's list, a decision. Pure, total, deny by default.

A device is admitted only by a rule that names its vendor, product, serial number, port and the
exact set of all its interfaces; what is unknown or does not parse is denied, and no rule can name
an interface that stores or carries files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.devices.descriptors import DescriptorError, parse_descriptors
from sekisho.errors import Problem, SekishoError, printable

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
HEX4 = re.compile(r"[0-9a-f]{4}", re.ASCII)
#: No character that udev, a pattern or a shell could read otherwise; no blank at either end.
SERIAL = re.compile(
    r"[A-Za-z0-9._:+=@#/-]([A-Za-z0-9._:+=@#/ -]{0,124}[A-Za-z0-9._:+=@#/-])?", re.ASCII
)
#: A port as the kernel writes it: ``1.2`` on whatever bus, or with the bus: ``3-1.2``.
PORT = re.compile(r"([1-9][0-9]{0,2}-)?[1-9][0-9]{0,2}(\.[1-9][0-9]{0,2}){0,6}", re.ASCII)
INTERFACE = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){2}", re.ASCII)
#: Still image (MTP, PTP), mass storage (bulk-only and UAS), wireless: never admitted by any rule.
NEVER = {"06": "imaging", "08": "storage", "e0": "wireless"}
MAX_RULES = 256
MAX_INTERFACES = 64
_KEYS = ("name", "vendor", "product", "serial", "port", "interfaces")


@dataclass(frozen=True, slots=True)
class Rule:
    """One admitted device, as the site lists it."""

    name: str
    vendor: str
    product: str
    serial: str
    port: str
    interfaces: frozenset[str]

    def as_json(self) -> dict[str, Any]:
        """Return the rule in the policy's form."""
        return {
            "name": self.name,
            "vendor": self.vendor,
            "product": self.product,
            "serial": self.serial,
            "port": self.port,
            "interfaces": sorted(self.interfaces),
        }


@dataclass(frozen=True, slots=True)
class Device:
    """One attached device as the kernel saw it; None where it said nothing usable.

    Attributes:
        sysname: the kernel's name, ``3-1.2``.
        vendor: idVendor, four hex digits.
        product: idProduct, four hex digits.
        serial: the serial number string, or None.
        port: ``devpath``: the chain of ports below the root hub, ``1.2``.
        device_class: bDeviceClass, two hex digits, or None.
        interfaces: every ``cc:ss:pp`` of every configuration, or None when unreadable.

    """

    sysname: str
    vendor: str | None
    product: str | None
    serial: str | None
    port: str | None
    device_class: str | None = None
    interfaces: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a device may attach, by which rule, and why."""

    admit: bool
    rule: str
    reason: str


def parse_devices(raw: Any) -> tuple[Rule, ...]:
    """Return the rules of a policy's ``devices``; `SekishoError` with every problem otherwise."""
    problems: list[Problem] = []
    if not isinstance(raw, list) or len(raw) > MAX_RULES:
        raise SekishoError(
            "the list of admitted devices was refused",
            (Problem("devices", "", printable(raw, 60), f"a list of at most {MAX_RULES}"),),
        )
    rules = [_rule(f"devices[{index}]", entry, problems) for index, entry in enumerate(raw)]
    good = [rule for rule in rules if rule is not None]
    for what, keys in (
        ("name", [rule.name for rule in good]),
        ("device", [(r.vendor, r.product, r.serial, r.port) for r in good]),
    ):
        problems += [
            Problem("devices", what, printable(key), "named once", "6-iii-c")
            for index, key in enumerate(keys)
            if key in keys[:index]
        ]
    if problems:
        raise SekishoError("the list of admitted devices was refused", tuple(problems))
    return tuple(good)


def _rule(where: str, entry: Any, problems: list[Problem]) -> Rule | None:
    before = len(problems)

    def wrong(key: str, got: object, expected: str) -> None:
        problems.append(Problem(where, key, printable(got, 80), expected, "6-iii-c"))

    if not isinstance(entry, Mapping) or set(entry) != set(_KEYS):
        wrong("", entry, f"a mapping with exactly {', '.join(_KEYS)}")
        return None
    for key, form, expected in (
        ("name", NAME, "lower-case letters, digits and dashes"),
        ("vendor", HEX4, "four lower-case hex digits"),
        ("product", HEX4, "four lower-case hex digits"),
        ("serial", SERIAL, "1 to 126 plain characters (letters, digits, . _ : + = @ # / - blank)"),
        ("port", PORT, "a port such as 1.2, or 3-1.2 with its bus"),
    ):
        if not isinstance(entry[key], str) or not form.fullmatch(entry[key]):
            wrong(key, entry[key], expected)
    interfaces = entry["interfaces"]
    if (
        not isinstance(interfaces, list)
        or not 0 < len(interfaces) <= MAX_INTERFACES
        or not all(isinstance(text, str) and INTERFACE.fullmatch(text) for text in interfaces)
        or len(set(interfaces)) != len(interfaces)
    ):
        wrong("interfaces", interfaces, "every interface once, as cc:ss:pp in hex")
    else:
        for text in interfaces:
            if text[:2] in NEVER:
                wrong("interfaces", text, f"no {NEVER[text[:2]]} interface: none is ever admitted")
    if len(problems) > before:
        return None
    return Rule(
        name=entry["name"],
        vendor=entry["vendor"],
        product=entry["product"],
        serial=entry["serial"],
        port=entry["port"],
        interfaces=frozenset(interfaces),
    )


def device_from_sysfs(
    sysname: str, attributes: Mapping[str, str], descriptors: bytes | None
) -> Device:
    """Return the device of one sysfs folder; identity comes from the descriptors alone.

    Args:
        sysname: the folder's name.
        attributes: text of ``serial`` and ``devpath``, as far as they could be read.
        descriptors: bytes of ``descriptors``, or None when they could not be read.

    """
    port = attributes.get("devpath")
    serial = attributes.get("serial")
    try:
        told = parse_descriptors(descriptors or b"")
    except DescriptorError:
        return Device(sysname, None, None, serial, port)
    return Device(
        sysname=sysname,
        vendor=told.vendor,
        product=told.product,
        serial=serial,
        port=port,
        device_class=told.device_class,
        interfaces=told.interfaces,
    )


def decide(device: Device, rules: Iterable[Rule]) -> Decision:
    """Return whether ``device`` may attach.

    Total (never raises for a `Device` and `Rule` values), and monotone: taking a rule away never
    admits anything more.
    """
    reason = _hopeless(device)
    if reason:
        return Decision(admit=False, rule="", reason=reason)
    near = ""
    for rule in rules:
        if (device.vendor, device.product) != (rule.vendor, rule.product):
            continue
        reason = _differs(device, rule)
        if not reason:
            return Decision(admit=True, rule=rule.name, reason=f"listed as {rule.name}")
        near = near or reason
    return Decision(admit=False, rule="", reason=near or "not listed")


def _hopeless(device: Device) -> str:
    """Return why no rule at all can admit the device, or ""."""
    if not device.interfaces:
        return "its descriptors cannot be read"
    classes = {text[:2] for text in device.interfaces} | {device.device_class or "00"}
    for code, what in NEVER.items():
        if code in classes:
            return f"it has a {what} interface ({code})"
    return "" if device.serial else "it has no serial number"


def _differs(device: Device, rule: Rule) -> str:
    """Return in what a device of the rule's vendor and product differs from the rule, or ""."""
    if device.serial != rule.serial:
        return f"not the serial number of {rule.name}"
    if rule.port not in (device.port, device.sysname):
        return f"not the port of {rule.name}"
    if device.interfaces != rule.interfaces:
        return f"not the interfaces of {rule.name}"
    return ""
