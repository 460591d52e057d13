"""The udev rules of a site's list of devices, and back. Pure.

The kernel denies (``usbcore authorized_default=0``); these rules only admit, and only by way of
``/usr/lib/sekisho/usb-admit``, which reads all descriptors and decides by the same policy. They
need no agent. udev(7) matches ATTR before it assigns, so one line can do both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sekisho.core.errors import Problem, SekishoError
from sekisho.core.text import lines_of
from sekisho.devices.policy import Rule, parse_devices

PATH = "/etc/udev/rules.d/60-sekisho-usb.rules"
_HEAD = """\
# Compiled from the site's policy; the next run of the playbooks overwrites a change made here.
# The kernel denies every USB device (usbcore authorized_default=0). These lines admit what the
# site lists, and shut what somebody else let in.
ACTION=="remove|unbind", GOTO="sekisho_end"
SUBSYSTEM=="block", SUBSYSTEMS=="usb", OWNER="root", GROUP="root", MODE="0600", OPTIONS+="nowatch"
SUBSYSTEM!="usb", GOTO="sekisho_end"
ENV{DEVTYPE}!="usb_device", GOTO="sekisho_end"
KERNEL=="usb[0-9]*", GOTO="sekisho_end"
ENV{SEKISHO_DEVICE}=""
"""
_TAIL = """\
# While an exception stands open, the helper decides on whatever comes.
TEST=="/run/sekisho-exception/open.json", ENV{SEKISHO_DEVICE}=="", ENV{SEKISHO_DEVICE}="exception"
ENV{SEKISHO_DEVICE}=="", ATTR{authorized}!="0", ATTR{authorized}="0"
ENV{SEKISHO_DEVICE}!="", RUN+="/usr/lib/sekisho/usb-admit $sys$devpath"
LABEL="sekisho_end"
"""
_LINE = re.compile(
    r'ATTR\{idVendor\}=="(?P<vendor>[^"]*)", ATTR\{idProduct\}=="(?P<product>[^"]*)", '
    r'ATTR\{serial\}=="(?P<serial>[^"]*)", (?P<kind>ATTR\{devpath\}|KERNEL)=="(?P<port>[^"]*)", '
    r'ENV\{SEKISHO_DEVICE\}="(?P<name>[^"]*)"',
    re.ASCII,
)
#: udev cannot hash: a device listed by its serial's hash is looked at by the helper, which can.
_ANY_SERIAL = "?*"


def _line(rule: Rule) -> str:
    serial = _ANY_SERIAL if rule.serial_hash else rule.serial
    where = "KERNEL" if "-" in rule.port else "ATTR{devpath}"
    return (
        f'ATTR{{idVendor}}=="{rule.vendor}", ATTR{{idProduct}}=="{rule.product}", '
        f'ATTR{{serial}}=="{serial}", {where}=="{rule.port}", '
        f'ENV{{SEKISHO_DEVICE}}="{rule.name}"'
    )


def _note(rule: Rule) -> str:
    """Return the comment before a rule's line: what only the helper compares."""
    words = sorted(rule.interfaces)
    if rule.count != 1:
        words.append(f"count={rule.count}")
    if rule.serial_hash:
        words.append(f"serial_hash={rule.serial_hash}")
    return f"# {rule.name}: {' '.join(words)}"


#: In a dry run nothing is shut: whatever comes is looked at, and told of.
_DRY = """\
# Compiled from the site's policy: DRY RUN. Nothing is refused; the helper says what it would do.
ACTION=="add", SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", KERNEL!="usb[0-9]*", \\
  RUN+="/usr/lib/sekisho/usb-admit $sys$devpath"
"""


def render(devices: Any, *, dry: bool = False) -> str:
    """Return the rules file of a policy's ``devices``; `SekishoError` when one is refused.

    No character is escaped because none that needs it is accepted: see `SERIAL` and `NAME`.
    """
    return render_rules(parse_devices(devices), dry=dry)


def render_rules(rules: Iterable[Rule], *, dry: bool = False) -> str:
    """Return the rules file that admits what ``rules`` list; a dry run's looks and tells only."""
    lines = []
    if dry:
        return _DRY
    for rule in rules:
        lines += [_note(rule) + "\n", _line(rule) + "\n"]
    return _HEAD + "".join(lines) + _TAIL


def parse(text: str) -> list[dict[str, Any]]:
    """Return the devices that a rules file made by `render` admits; `SekishoError` for any other.

    A line that `render` would not write could admit anything, so it is never skipped.
    """

    def refuse(line: int, got: str) -> SekishoError:
        return SekishoError(
            "the udev rules are not as the site compiles them",
            (Problem(f"{PATH}:{line}", "", got[:80], "a line made by sekisho", "6-iii-c"),),
        )

    if not text.startswith(_HEAD) or not text.endswith(_TAIL):
        raise refuse(1, "another head or tail")
    body = lines_of(text[len(_HEAD) : len(text) - len(_TAIL)])
    first = _HEAD.count("\n") + 1
    devices: list[dict[str, Any]] = []
    if len(body) % 2:
        raise refuse(first, "a line too many")
    for index in range(0, len(body), 2):
        name, _, note = body[index].removeprefix("# ").partition(": ")
        found = _LINE.fullmatch(body[index + 1])
        if found is None or found["name"] != name:
            raise refuse(first + index, body[index])
        devices.append(_entry(found, note.split()))
    if render(devices) != text:
        raise refuse(first, "lines in another form")
    return devices


def _entry(found: re.Match[str], words: list[str]) -> dict[str, Any]:
    """Return one device of the list; `render` of it is compared with the file afterwards."""
    more = dict(word.partition("=")[::2] for word in words if "=" in word)
    entry: dict[str, Any] = {key: found[key] for key in ("name", "vendor", "product", "port")}
    if "serial_hash" in more:
        entry["serial_hash"] = more["serial_hash"]
    else:
        entry["serial"] = found["serial"]
    entry["interfaces"] = [word for word in words if "=" not in word]
    if re.fullmatch(r"[0-9]{1,2}", more.get("count", ""), re.ASCII):
        entry["count"] = int(more["count"])
    return entry
