"""The USB devices of this machine, as the site's list is compared with them. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sekisho.devices.policy import Device, Rule
from sekisho.host.devices.admit import held_by
from sekisho.host.kernel.udev import device_value, outcome, present


def usb_present(
    sys: Path, rules: Sequence[Rule]
) -> Iterator[tuple[str, Device, str, bool, Mapping[str, int]]]:
    """Yield path, device, title, whether it works, and which rules other devices hold."""
    for attempt, folder in present(sys):
        if attempt.subsystem != "usb":
            continue
        became = outcome(folder)
        held = held_by(rules, folder.name, sys / "bus/usb/devices") if rules else {}
        works = became is not None and became.authorized and bool(became.live)
        yield attempt.path, device_value(folder), attempt.title, works, held
