"""What the host's policy says of USB devices, and whether its owner keeps a way in.

Standard library only; part of `sekisho.host.devices.admit`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError, printable
from sekisho.devices.policy import Device, Rule, decide
from sekisho.devices.udev_rules import render_rules
from sekisho.policy.host_policy import MAX_BYTES, HostPolicy

POLICY = Path("/etc/sekisho/policy.json")
#: The kernel's own consoles, and what a serial line is called among them.
CONSOLE = Path("/sys/class/tty/console/active")
SERIAL_LINES = ("ttyS", "ttyAMA", "hvc", "ttysclp")
#: The digest of the rule by which a listed keyboard was seen last.
SEEN = Path("/var/lib/sekisho/console.seen")
KEYBOARD = "03:01:01"


@dataclass(frozen=True, slots=True)
class HostList:
    """What the host's policy says of devices.

    Attributes:
        rules: the devices listed.
        console: the kind of the way in.
        attested: somebody wrote down that it was tried (`sekisho.site.model.ConsoleProof`).
        dry: what is not listed is told of, and not refused.
        udev: the udev rules that fit.

    """

    rules: tuple[Rule, ...]
    console: str
    attested: bool
    dry: bool
    udev: str


def read_policy(path: Path = POLICY) -> HostList:
    """Return what the host's policy says of devices.

    Raises:
        SekishoError: no policy, not root's alone to write, or one that `HostPolicy.parse` refuses.

    """
    try:
        with path.open("rb") as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o22:
                raise SekishoError(f"{path} is not a file that only root can write")
            data = stream.read(MAX_BYTES + 1)
    except OSError as bad:
        raise SekishoError(f"{path}: {bad.strerror}") from None
    policy = HostPolicy.parse(data, str(path))
    dry = policy.devices_mode == "dry-run"
    return HostList(
        rules=policy.devices,
        console=policy.console.value,
        attested=policy.console_proof is not None,
        dry=dry,
        udev=render_rules(policy.devices, dry=dry),
    )


def console_or_refuse(listed: HostList, attached: Iterable[Device]) -> None:
    """Raise `SekishoError` unless the owner is proven to keep a way in when the network is shut.

    A serial line is proven by the kernel's console being one; a listed keyboard by having been
    seen at its port, now or before; out-of-band, and whatever is not there now, by somebody's word
    in the site model. ``attached`` is what is at the ports now.
    """
    if listed.console not in ("serial", "listed-keyboard", "out-of-band"):
        raise _no_way_in(listed, "no kind of console that is known")
    if listed.console == "listed-keyboard" and not _keyboards(listed.rules):
        raise _no_way_in(listed, "no keyboard is listed")
    if listed.attested:
        return
    if listed.console == "serial":
        if not _serial_console():
            raise _no_way_in(listed, f"the kernel's console is no serial line ({CONSOLE})")
    elif listed.console == "out-of-band":
        raise _no_way_in(listed, "nobody's word for it in the site model")
    elif not _keyboard_seen(listed.rules, attached):
        raise _no_way_in(listed, "the listed keyboard was never seen at its port")


def _no_way_in(listed: HostList, why: str) -> SekishoError:
    return SekishoError(
        f"no proven way in at the console (console is {printable(listed.console, 40)!r}): {why}; "
        "plug the keyboard in once, or write reference and tested beside `console` in the site"
    )


def _keyboards(rules: Sequence[Rule]) -> dict[str, str]:
    """Return the listed keyboards: rule's name → digest of the rule."""
    return {
        rule.name: hashlib.sha256(canonical(rule.as_json())).hexdigest()
        for rule in rules
        if KEYBOARD in rule.interfaces
    }


def _serial_console() -> bool:
    try:
        return any(name.startswith(SERIAL_LINES) for name in CONSOLE.read_text().split())
    except OSError:
        return False


def _keyboard_seen(rules: Sequence[Rule], attached: Iterable[Device]) -> bool:
    """Tell whether a listed keyboard is at its port, or was under this very rule."""
    wanted = _keyboards(rules)
    for device in attached:
        decision = decide(device, rules)
        if decision.rule in wanted:
            remember_keyboard(rules, decision.rule)
            return True
    try:
        return SEEN.read_text().strip() in wanted.values()
    except (OSError, UnicodeDecodeError):
        return False


def remember_keyboard(rules: Sequence[Rule], name: str) -> None:
    """Remember that a listed keyboard was seen, if it is one; it does not matter if that fails."""
    digest = _keyboards(rules).get(name)
    if digest is not None:
        with contextlib.suppress(OSError):
            SEEN.write_text(digest + "\n")
