"""When the module wall closes: total, pure, and open only for a reason that is told."""

from __future__ import annotations

from dataclasses import dataclass

from sekisho.devices.module_list import Wanted

#: Buses whose newcomers get no driver once the machine is up: hot-plug ends there. Not usb, hid and
#: serio: keyboards come that way, and USB has a gate of its own.
QUIET_BUSES = (
    "pci",
    "scsi",
    "virtio",
    "mmc",
    "memstick",
    "firewire",
    "thunderbolt",
    "pcmcia",
    "pci_express",
)


@dataclass(frozen=True, slots=True)
class State:
    """What is known when the wall is judged.

    Attributes:
        closed: `kernel.modules_disabled` is 1 already.
        proven: a boot with exactly this list was come back into.
        maintenance: the id of an order in force that opens this boot, or "".

    """

    closed: bool
    proven: bool
    maintenance: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to close now, and why."""

    close: bool
    why: str


def decide(wanted: Wanted, state: State) -> Decision:
    """Say whether the wall closes at this boot."""
    if state.closed:
        return Decision(close=False, why="closed already")
    if wanted.lock == "off":
        return Decision(close=False, why="the site leaves it open")
    if wanted.lock == "dry-run":
        return Decision(close=False, why="dry run: only told what would be refused")
    if state.maintenance:
        return Decision(close=False, why=f"maintenance order {state.maintenance}")
    if not state.proven:
        return Decision(close=False, why="trial boot: the list is not proven yet")
    return Decision(close=True, why="the list is proven")
