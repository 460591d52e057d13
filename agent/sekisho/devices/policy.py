"""Who may attach: one device, the site's list, a decision. Pure, total, deny by default.

A device is admitted only by a rule that names its vendor, product, serial number (or a keyed hash
of it), port and the exact set of all its interfaces, and only as many at once as the rule says;
what is unknown or does not parse is denied, and no rule can name an interface that stores files.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.devices.descriptors import DescriptorError, parse_descriptors

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
HEX4 = re.compile(r"[0-9a-f]{4}", re.ASCII)
#: No character that udev, a pattern or a shell could read otherwise; no blank at either end.
SERIAL = re.compile(
    r"[A-Za-z0-9._:+=@#/-]([A-Za-z0-9._:+=@#/ -]{0,124}[A-Za-z0-9._:+=@#/-])?", re.ASCII
)
#: A keyed hash instead: HMAC-SHA-256 of the serial number, with the key (16 bytes) before it.
SERIAL_HASH = re.compile(r"hmac-sha256:[0-9a-f]{32}:[0-9a-f]{64}", re.ASCII)
KEY_BYTES = 16
#: A port as the kernel writes it: ``1.2`` on whatever bus, or with the bus: ``3-1.2``.
PORT = re.compile(r"([1-9][0-9]{0,2}-)?[1-9][0-9]{0,2}(\.[1-9][0-9]{0,2}){0,6}", re.ASCII)
INTERFACE = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){2}", re.ASCII)
#: Still image (MTP, PTP), mass storage (bulk-only and UAS), wireless: never admitted by any rule.
NEVER = {"06": "imaging", "08": "storage", "e0": "wireless"}
MAX_RULES = 256
MAX_INTERFACES = 64
MAX_COUNT = 16
_KEYS = ("name", "vendor", "product", "port", "interfaces")
_SERIALS = ("serial", "serial_hash")


@dataclass(frozen=True, slots=True)
class Rule:
    """One admitted device, as the site lists it.

    Attributes:
        name: the rule's name.
        vendor: four hex digits.
        product: four hex digits.
        serial: the serial number, or "" when only its hash is listed.
        port: ``1.2`` on any bus, or ``3-1.2``.
        interfaces: exactly these, as ``cc:ss:pp``.
        serial_hash: see `hash_serial`, or "".
        count: how many such devices may be in use at once.

    """

    name: str
    vendor: str
    product: str
    serial: str
    port: str
    interfaces: frozenset[str]
    serial_hash: str = ""
    count: int = 1

    def as_json(self) -> dict[str, Any]:
        """Return the rule in the policy's form."""
        return {
            "name": self.name,
            "vendor": self.vendor,
            "product": self.product,
            **({"serial_hash": self.serial_hash} if self.serial_hash else {"serial": self.serial}),
            "port": self.port,
            "interfaces": sorted(self.interfaces),
            **({} if self.count == 1 else {"count": self.count}),
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
    """Whether a device may attach, by which rule, and why.

    ``code`` is the reason as one word: listed, or not-listed, serial, port, interfaces, count,
    never, unreadable, no-serial.
    """

    admit: bool
    rule: str
    reason: str
    code: str = ""


def hash_serial(serial: str, key: bytes) -> str:
    """Return a serial number's keyed hash in the form of `SERIAL_HASH`; the key is 16 bytes.

    The key stands beside the hash: it hides a serial number from a reader, and makes two sites'
    hashes differ, but does not keep a short or counted-up number from being guessed.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key of {len(key)} bytes: expected {KEY_BYTES}")
    told = hmac.new(key, serial.encode("utf-8", "backslashreplace"), hashlib.sha256).hexdigest()
    return f"hmac-sha256:{key.hex()}:{told}"


def serial_fits(hashed: str, serial: str | None) -> bool:
    """Tell whether ``hashed`` is the keyed hash of ``serial``; anything garbled fits nothing."""
    if not serial or not SERIAL_HASH.fullmatch(hashed):
        return False
    key = bytes.fromhex(hashed.split(":")[1])
    return hmac.compare_digest(hash_serial(serial, key), hashed)


def parse_devices(raw: Any) -> tuple[Rule, ...]:
    """Return the rules of a policy's ``devices``; `SekishoError` with every problem otherwise."""
    problems: list[Problem] = []
    if not isinstance(raw, list) or len(raw) > MAX_RULES:
        raise SekishoError(
            "the list of admitted devices was refused",
            (Problem("devices", "", printable(raw, 60), f"a list of at most {MAX_RULES}"),),
        )
    rules = [parse_rule(f"devices[{index}]", entry, problems) for index, entry in enumerate(raw)]
    good = [rule for rule in rules if rule is not None]
    for what, keys in (
        ("name", [rule.name for rule in good]),
        ("device", [(r.vendor, r.product, r.serial + r.serial_hash, r.port) for r in good]),
    ):
        problems += [
            Problem("devices", what, printable(key), "named once", "6-iii-c")
            for index, key in enumerate(keys)
            if key in keys[:index]
        ]
    if problems:
        raise SekishoError("the list of admitted devices was refused", tuple(problems))
    return tuple(good)


def parse_rule(
    where: str, entry: Any, problems: list[Problem], never: Mapping[str, str] = NEVER
) -> Rule | None:
    """Return the rule of one mapping, or None with ``problems`` added.

    ``never`` is what no rule of this list may name: interface class → what it is.
    """
    before = len(problems)

    def wrong(key: str, got: object, expected: str) -> None:
        problems.append(Problem(where, key, printable(got, 80), expected, "6-iii-c"))

    serial = [key for key in _SERIALS if isinstance(entry, Mapping) and key in entry]
    if (
        not isinstance(entry, Mapping)
        or len(serial) != 1
        or set(entry) - {"count"} != {*_KEYS, *serial}
    ):
        keys = f"{', '.join(_KEYS)}, one of {' and '.join(_SERIALS)}, and count if need be"
        wrong("", entry, f"a mapping with exactly {keys}")
        return None
    for key, form, expected in (
        ("name", NAME, "lower-case letters, digits and dashes"),
        ("vendor", HEX4, "four lower-case hex digits"),
        ("product", HEX4, "four lower-case hex digits"),
        ("serial", SERIAL, "1 to 126 plain characters (letters, digits, . _ : + = @ # / - blank)"),
        ("serial_hash", SERIAL_HASH, "hmac-sha256:KEY:HASH, 32 and 64 lower-case hex digits"),
        ("port", PORT, "a port such as 1.2, or 3-1.2 with its bus"),
    ):
        if key not in entry:  # the other way to say the serial number
            continue
        if not isinstance(entry[key], str) or not form.fullmatch(entry[key]):
            wrong(key, entry[key], expected)
    count = entry.get("count", 1)
    if type(count) is not int or not 0 < count <= MAX_COUNT:
        wrong("count", count, f"a whole number from 1 to {MAX_COUNT}")
    _interfaces(entry["interfaces"], wrong, never)
    if len(problems) > before:
        return None
    return Rule(
        name=entry["name"],
        vendor=entry["vendor"],
        product=entry["product"],
        serial=entry.get("serial", ""),
        port=entry["port"],
        interfaces=frozenset(entry["interfaces"]),
        serial_hash=entry.get("serial_hash", ""),
        count=count,
    )


def _interfaces(
    interfaces: Any, wrong: Callable[[str, object, str], None], never: Mapping[str, str]
) -> None:
    if (
        not isinstance(interfaces, list)
        or not 0 < len(interfaces) <= MAX_INTERFACES
        or not all(isinstance(text, str) and INTERFACE.fullmatch(text) for text in interfaces)
        or len(set(interfaces)) != len(interfaces)
    ):
        wrong("interfaces", interfaces, "every interface once, as cc:ss:pp in hex")
    else:
        for text in interfaces:
            if text[:2] in never:
                wrong("interfaces", text, f"no {never[text[:2]]} interface: none is ever admitted")


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


def decide(
    device: Device, rules: Iterable[Rule], held: Mapping[str, int] = MappingProxyType({})
) -> Decision:
    """Return whether ``device`` may attach.

    Total (never raises for `Device` and `Rule` values), and monotone: taking a rule away, or more
    devices already in use, never admits anything more.

    Args:
        device: the device.
        rules: the site's list.
        held: rule name → how many *other* devices are in use by that rule.

    """
    code, reason = _hopeless(device)
    if code:
        return Decision(admit=False, rule="", reason=reason, code=code)
    near = ("not-listed", "not listed")
    for rule in rules:
        if (device.vendor, device.product) != (rule.vendor, rule.product):
            continue
        code, reason = differs(device, rule)
        if not code and held.get(rule.name, 0) >= rule.count:
            code, reason = "count", f"{rule.name} admits {rule.count} at once, and as many are here"
        if not code:
            return Decision(
                admit=True, rule=rule.name, reason=f"listed as {rule.name}", code="listed"
            )
        near = (code, reason) if near[0] == "not-listed" else near
    return Decision(admit=False, rule="", reason=near[1], code=near[0])


def _hopeless(device: Device) -> tuple[str, str]:
    """Return why no rule at all can admit the device (code and words), or two empty strings."""
    if not device.interfaces:
        return "unreadable", "its descriptors cannot be read"
    classes = {text[:2] for text in device.interfaces} | {device.device_class or "00"}
    for code, what in NEVER.items():
        if code in classes:
            return "never", f"it has a {what} interface ({code})"
    return ("", "") if device.serial else ("no-serial", "it has no serial number")


def differs(device: Device, rule: Rule) -> tuple[str, str]:
    """Return in what a device of the rule's vendor and product differs from it, or nothing."""
    fits = (
        serial_fits(rule.serial_hash, device.serial)
        if rule.serial_hash
        else device.serial == rule.serial
    )
    if not fits:
        return "serial", f"not the serial number of {rule.name}"
    if rule.port not in (device.port, device.sysname):
        return "port", f"not the port of {rule.name}"
    if device.interfaces != rule.interfaces:
        return "interfaces", f"not the interfaces of {rule.name}"
    return "", ""
