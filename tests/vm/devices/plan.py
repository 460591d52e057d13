"""Which devices at which moments: every kind the lab can plug in, times every moment. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from labkit.kinds import KINDS, PCI, USB, Kind
from labkit.models import MODELS

#: What only a boot shows, and what a running machine does; a control stands for its whole group.
BOOTS = ("cold-boot", "initramfs")
RUNS = ("running", "agent-stopped", "udev-stopped", "policy-reload", "burst", "resume")
MOMENTS = (*BOOTS, *RUNS)
#: Made inside the guest: configfs gadgets on dummy_hcd, and models over usbip (guest/pretend.py).
PRETENDED: Mapping[str, tuple[str, ...]] = {
    "gadget-keyboard-storage": ("block", "text", "input"),
    "gadget-rndis-storage": ("block", "text", "net"),
    "gadget-serial": ("tty",),
    "gadget-own-protocol": ("bulk",),
    "usbip-clone": ("block", "text"),
    "usbip-composite": ("block", "text", "input"),
    "usbip-vendor": ("bulk",),
}
PRETENDED_MOMENTS = ("running", "agent-stopped", "udev-stopped", "policy-reload")
#: Root ports. The first controller is the machine's own, the others come with the battery.
OWN = ("usb.0", "0000:00:02.0", 8)
MORE = tuple((f"dock{n}.0", f"0000:00:{0x1F - n:02x}.0", 15) for n in range(3))
#: These call themselves the listed keyboard, so each sits at the port that the list names.
LISTED_PORT = "1"
PLUGS = 100
FIRST_SLOT = 0x10


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the battery and where it sits.

    Attributes:
        kind: its kind's name.
        gives: what it becomes where nothing stops it.
        place: as the lab's driver takes it ("dock0.0:3", or a PCI slot); "" inside the guest.
        path: a regular expression for its path under /sys.
        serial: the serial number it is given.

    """

    kind: str
    gives: tuple[str, ...]
    place: str
    path: str
    serial: str = ""

    @property
    def what(self) -> Kind | None:
        """Return how the lab plugs it in; None when the guest pretends it."""
        return KINDS.get(self.kind)

    @property
    def cold(self) -> bool:
        """Return whether it is there from power-on and only its medium comes and goes."""
        return self.what is not None and bool(self.what.words)

    @property
    def turns(self) -> bool:
        """Return whether it comes as the listed keyboard and comes back as something else."""
        return self.what is not None and self.what.model in MODELS and (
            MODELS[self.what.model].then is not None
        )  # fmt: skip

    def owns(self, path: str) -> bool:
        """Return whether a path under /sys is this device's or below it."""
        return re.search(self.path, path) is not None


def _usb_path(controller: str, port: str) -> str:
    return rf"/{re.escape(controller)}/usb\d+/\d+-{re.escape(port)}(/|$)"


def devices() -> tuple[Device, ...]:
    """Return every kind once, each at a place of its own."""
    found = []
    special = iter((OWN, *MORE))
    free = iter([(bus, pci, str(port)) for bus, pci, count in MORE for port in range(2, count + 1)])
    slot = FIRST_SLOT
    for name, kind in KINDS.items():
        if kind.bus == PCI:
            place, path = f"{slot:x}", rf"/0000:00:{slot:02x}\.0(/|$)"
            slot += 1
        else:
            model = MODELS.get(kind.model)
            if model is not None and model.serial == "SEKISHO-KBD-1":
                bus, pci, _ = next(special)
                port = LISTED_PORT
            else:
                bus, pci, port = next(free)
            place, path = f"{bus}:{port}", _usb_path(pci, port)
        serial = "" if kind.model or "{serial}" not in "".join(kind.commands) else f"LAB-{name}"
        found.append(Device(name, kind.gives, place, path, serial))
    return tuple(found)


def pretended() -> tuple[Device, ...]:
    """Return what the guest pretends: gadgets on dummy_hcd's ports, models on vhci_hcd's.

    Each has a bus of its own: dummy_hcd.N in the order of the gadgets, usbip's port N + 1.
    """
    found, gadgets, lines = [], 0, 0
    for kind, gives in PRETENDED.items():
        if kind.startswith("gadget-"):
            path = rf"/dummy_hcd\.{gadgets}/usb\d+/\d+-1(/|$)"
            gadgets += 1
        else:
            lines += 1
            path = rf"/vhci_hcd\.0/usb\d+/\d+-{lines}(/|$)"
        found.append(Device(kind, gives, "", path))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Case:
    """One device at one moment.

    Attributes:
        device: what is plugged in.
        moment: one of ``MOMENTS``.
        control: the moment of the observation that shows what it would give without the wall.
        skipped: why it cannot be tried here, or "".

    """

    device: Device
    moment: str
    control: str
    skipped: str = ""

    @property
    def name(self) -> str:
        """Return the case's name."""
        return f"{self.device.kind}@{self.moment}"


def cases() -> tuple[Case, ...]:
    """Return every case: devices times moments, those that cannot be tried with the reason."""
    found = []
    for device in devices():
        for moment in MOMENTS:
            control = "cold-boot" if moment in BOOTS else "running"
            found.append(Case(device, moment, control, _cannot(device, moment)))
    for device in pretended():
        found += [Case(device, moment, "running") for moment in PRETENDED_MOMENTS]
    return tuple(found)


def _cannot(device: Device, moment: str) -> str:
    if moment == "burst" and device.what is not None and device.what.bus != USB:
        return "a PCI slot takes seconds to let go of a device: no burst of plugs"
    return ""
