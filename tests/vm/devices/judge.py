"""What the kernel told of a device → what leaked, and what a control shows. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.vm.devices.plan import Device

Event = dict[str, Any]
#: Kernel subsystems through which something can go in or out.
WAYS = frozenset({
    "block", "net", "tty", "sound", "input", "hidraw", "usbmisc", "scsi_generic", "bsg",
    "video4linux", "bluetooth", "mtd", "nvme", "ieee80211",
})  # fmt: skip
MASS_STORAGE = 8
#: What a probe may get of a device that was let in; of one that was not, nothing at all.
TRIED = ("user", "mtp", "bulk", "alternate")


@dataclass(slots=True)
class Seen:
    """What one device did at one moment.

    Attributes:
        came: how often the kernel saw it (0: the case proves nothing).
        leaks: ways that opened, each once.
        got: what a probe got, of ``Device.gives``'s words.
        open: what stays open to root alone and is told, not counted.

    """

    came: int = 0
    leaks: list[str] = field(default_factory=list)
    got: set[str] = field(default_factory=set)
    open: list[str] = field(default_factory=list)

    def leak(self, what: str) -> None:
        """Keep one leak, once."""
        if what not in self.leaks:
            self.leaks.append(what)


def judge(device: Device, events: Iterable[Event], probe: dict[str, Any] | None) -> Seen:
    """Return what ``device`` did according to the watcher and the probe."""
    seen = Seen()
    blocks: set[str] = set()
    for event in events:
        if event["k"] == "mount" and event["name"].removeprefix("/dev/") in blocks:
            seen.leak(f"mounted {event['name']}")
        if not device.owns(event.get("path", "")):
            continue
        kind, sub = event["k"], event.get("sub", "")
        added = kind == "there" or (kind == "event" and event["action"] in {"add", "move"})
        if kind == "event" and event["action"] == "add":
            seen.came += event["type"] == "usb_device" or sub == "pci"
        listed = device.turns and seen.came <= 1  # it is the listed keyboard, so far
        name = event.get("path", "").rpartition("/")[2]
        if added and sub in WAYS:
            seen.got.add(sub)
            if sub == "block":
                blocks.add(name)
            if not listed or sub not in {"input", "hidraw"}:
                seen.leak(f"{sub} {name}")
        elif kind == "event" and event["action"] == "add" and event["type"] == "usb_interface":
            if not listed:
                seen.leak(f"interface {name}")
        elif kind == "authorized" and event["value"] == "1" and not listed and ":" not in name:
            seen.leak(f"authorized {name}")
    if probe is not None:
        _tried(device, probe, seen)
    return seen


def _tried(device: Device, probe: dict[str, Any], seen: Seen) -> None:
    """Add what the probe found."""
    if probe["pci"] or probe["usb"]:
        seen.came = max(seen.came, 1)  # it was there before the watcher
    if device.turns and any(MASS_STORAGE in usb["classes"] for usb in probe["usb"]):
        seen.came = max(seen.came, 2)  # it is there as what it came back as
    for sub, names in probe["nodes"].items():
        if sub not in WAYS:
            continue
        seen.got.add(sub)
        for name in names:
            if not (device.turns and seen.came <= 1 and sub in {"input", "hidraw"}):
                seen.leak(f"{sub} {name}")
    for name in probe["text"]:
        seen.got.add("text")
        seen.leak(f"read from {name}")
    for usb in probe["usb"]:
        for what in usb["got"]:
            if what in TRIED:
                seen.got.add(what)
            if what == "ep0":
                seen.open.append(f"ep0 of {usb['name']}")
            elif usb["authorized"] != "1" or what in TRIED:
                seen.leak(f"usbfs {what} on {usb['name']}")
        if usb["authorized"] == "1" and not (device.turns and seen.came <= 1):
            seen.leak(f"authorized {usb['name']}")


#: What a machine that pretends a gadget has of it by itself: the gadget's own end of its network
#: card and its serial line.
_PRETENDING = re.compile(r"/platform/dummy_udc\.[0-9]+/gadget|/virtual/tty/ttyGS[0-9]+$", re.ASCII)


def strays(devices: Sequence[Device], events: Iterable[Event]) -> list[str]:
    """Return ways that opened at a place where none of ``devices`` sits."""
    found = []
    for event in events:
        added = event["k"] == "there" or (event["k"] == "event" and event["action"] == "add")
        path = event.get("path", "")
        if _PRETENDING.search(path):
            continue
        if added and event.get("sub") in WAYS and not any(d.owns(path) for d in devices):
            found.append(f"{event['sub']} {path}")
    return sorted(set(found))


def lost(events: Iterable[Event]) -> bool:
    """Return whether the watcher lost announcements of the kernel."""
    return any(event["k"] == "lost" for event in events)


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds from a plug to the journal: by this machine's clock, and inside the guest."""

    plug: tuple[float, ...]
    kernel: tuple[float, ...]


def delays(devices: Sequence[Device], events: Sequence[Event], plugged: dict[str, float]) -> Delays:
    """Return how long each plug took to be in the journal.

    ``plugged`` is when each kind was plugged in, by this machine's monotonic clock; the end is when
    the journal's line arrived here, so the way out of the guest is in it.
    """
    plug, kernel = [], []
    for device in devices:
        mine = [e for e in events if device.owns(e.get("path", ""))]
        came = [e for e in mine if e["k"] == "event" and e["action"] == "add"
                and (e["type"] == "usb_device" or e["sub"] == "pci")]  # fmt: skip
        told = [e for e in mine if e["k"] == "journal" and e["kind"] == "device.attempt"]
        if device.kind in plugged and came and told:
            plug.append(told[0]["host"] - plugged[device.kind])
            kernel.append(told[0]["t"] - came[0]["t"])
    return Delays(tuple(plug), tuple(kernel))


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value below which ``part`` of ``values`` lie (nearest rank); NaN of none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(part * len(ordered) + 0.5) - 1))]
