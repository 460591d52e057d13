"""What a device exception opens, and which device it fits. Pure; standard library only.

A site's list never admits storage; an exception, signed by three people, is the only way one is
(`sekisho.orders`). It names one device as exactly as a rule of the list, and what may cross.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.devices.policy import NEVER, Decision, Device, Rule, differs, parse_rule

#: Bulk-only transport: what the kernel's one driver for sticks speaks, and files cross by.
BULK_ONLY = "08:06:50"
#: USB Attached SCSI as another setting of the same stick; never bound by us.
UAS = "08:06:62"
STORAGE = "08"
#: What an exception may name besides storage: input and smart-card readers. Anything else could
#: carry files past the helper that writes down which.
_OTHER = frozenset({"03", "0b"})
_NEVER = {code: what for code, what in NEVER.items() if code != STORAGE}
#: in: the machine reads and cannot write; out: it may write; none: no storage.
DIRECTIONS = ("in", "out", "none")


@dataclass(frozen=True, slots=True)
class DeviceException:
    """One device let in beside the list.

    Attributes:
        rule: the device, as exactly as a rule of the list.
        direction: one of `DIRECTIONS`.

    """

    rule: Rule
    direction: str

    @property
    def storage(self) -> bool:
        """Tell whether it is a disk."""
        return BULK_ONLY in self.rule.interfaces

    def as_json(self) -> dict[str, Any]:
        """Return the content of an order."""
        return {"device": self.rule.as_json(), "direction": self.direction}


def exception_problems(where: str, raw: Any) -> tuple[DeviceException | None, list[Problem]]:
    """Return the exception of an order's content, or None and what is wrong with it."""
    problems: list[Problem] = []

    def wrong(key: str, got: object, expected: str) -> None:
        problems.append(Problem(where, key, printable(got, 80), expected, "6-iii-c"))

    if not isinstance(raw, Mapping) or set(raw) != {"device", "direction"}:
        wrong("", raw, "a mapping with exactly device and direction")
        return None, problems
    rule = parse_rule(f"{where}.device", raw["device"], problems, _NEVER)
    if raw["direction"] not in DIRECTIONS:
        wrong("direction", raw["direction"], f"one of {', '.join(DIRECTIONS)}")
    if rule is None or problems:
        return None, problems
    _fits_together(rule, raw["direction"], wrong)
    if problems:
        return None, problems
    return DeviceException(rule, raw["direction"]), []


def _fits_together(rule: Rule, direction: str, wrong: Callable[[str, object, str], None]) -> None:
    """Refuse a disk beside anything else, and whatever carries files but not as a disk."""
    if rule.count != 1:
        wrong("device.count", rule.count, "one device, so no count")
    if any(code[:2] == STORAGE for code in rule.interfaces):
        if not {BULK_ONLY} <= rule.interfaces <= {BULK_ONLY, UAS}:
            expected = f"{BULK_ONLY}, with {UAS} or alone: nothing else beside a disk"
            wrong("device.interfaces", sorted(rule.interfaces), expected)
        if direction == "none":
            wrong("direction", "none", "in or out, for a disk")
        return
    for code in sorted(rule.interfaces):
        if code[:2] not in _OTHER:
            expected = f"storage ({BULK_ONLY}), input (03:…) or a smart-card reader (0b:…)"
            wrong("device.interfaces", code, expected)
    if direction != "none":
        wrong("direction", direction, "none: only a disk has a direction")


def parse_exception(where: str, raw: Any) -> DeviceException:
    """Return the exception of an order's content; `SekishoError` with every problem otherwise."""
    found, problems = exception_problems(where, raw)
    if found is None:
        raise SekishoError("the device exception was refused", tuple(problems))
    return found


def decide_excepted(device: Device, exception: DeviceException, *, taken: bool) -> Decision:
    """Return whether ``device`` is the one excepted; total, like `sekisho.devices.policy.decide`.

    ``taken``: another attached device is in use by this exception already.
    """
    rule = exception.rule
    if not device.interfaces or not device.serial:
        return Decision(admit=False, rule="", reason="it cannot be told apart", code="unreadable")
    classes = {text[:2] for text in device.interfaces} | {device.device_class or "00"}
    for code, what in _NEVER.items():
        if code in classes:
            return Decision(admit=False, rule="", reason=f"it has a {what} interface", code="never")
    if (device.vendor, device.product) != (rule.vendor, rule.product):
        return Decision(admit=False, rule="", reason="not listed", code="not-listed")
    code, reason = differs(device, rule)
    if not code and taken:
        code, reason = "count", f"{rule.name} admits one, and it is here"
    if code:
        return Decision(admit=False, rule="", reason=reason, code=code)
    said = f"excepted as {rule.name}"
    return Decision(admit=True, rule=rule.name, reason=said, code="excepted")
