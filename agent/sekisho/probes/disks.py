"""The machine's own disks and no other: what is there, and whether the kernel's wall stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.core.errors import SekishoError
from sekisho.devices.disks import LIST, Disk, Named, Seen, fits_list, judge_disk, parse_disks
from sekisho.probes.host_policy import POLICY, policy_of
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, files, text_of

STATE = "/run/sekisho-disk-wall"
NEWCOMERS = f"{STATE}.newcomers"
CARDS = f"{STATE}.cards"
CARD_LIST = "/etc/sekisho/cards"
HELPER = "/usr/lib/sekisho/disk-wall"
UDEV = "/etc/udev/rules.d/61-sekisho-disks.rules"
_UNITS = {
    "/etc/systemd/system/sysinit.target.wants/sekisho-disks.service": "sekisho-disks",
    "/etc/systemd/system/multi-user.target.wants/sekisho-disks-seal.service": "sekisho-disks-seal",
}
_INITRD = (
    "/usr/share/initramfs-tools/hooks/sekisho-disks",
    "/usr/share/initramfs-tools/scripts/init-top/a-sekisho-disks",
)
_BLOCK = "/sys/class/block"
_ATA = re.compile(r"/(ata[0-9]+)/host[0-9]+/", re.ASCII)
_HEX = re.compile(r"(\\x[0-9a-f]{2}|[\x00-\x1f])", re.ASCII)
#: PCI classes of network and wireless cards, and those that hold or carry disks (storage, SD hosts,
#: FireWire, USB4); as the wall's own list.
_NETWORK = re.compile(r"0x0(2|d)[0-9a-f]{4}", re.ASCII)
_STORAGE = re.compile(r"0x(01[0-9a-f]{4}|0805[0-9a-f]{2}|0c00[0-9a-f]{2}|0c0340)", re.ASCII)


def _policy(found: Mapping[str, FileOutcome]) -> list[Any]:
    """Return the policy's own entries as they stand there; judging compares them whole."""
    try:
        return [one.as_json() for one in policy_of(found).disks]
    except ProbeError:
        return []


def _vital(text: str) -> str:
    """Return the serial number of SCSI's page 80h: four bytes of heading, then text."""
    return _HEX.sub("\0", text).lstrip("\0").strip("\0 ") if text else ""


def _seen(name: str, target: str, attributes: Mapping[str, str], ports: Mapping[str, str]) -> Seen:
    def first(*keys: str) -> str:
        return next((attributes[key].strip() for key in keys if attributes.get(key)), "")

    place = target.replace("../", "/")
    ata = _ATA.search(place)
    port = ports.get(ata[1], "") if ata else first("nsid")
    serial = first("serial", "device/serial") or _vital(attributes.get("device/vpd_pg80", ""))
    return Seen(name, place, port, serial, first("wwid", "device/wwid"))


def _attributes(found: Mapping[str, FileOutcome]) -> dict[str, dict[str, str]]:
    held: dict[str, dict[str, str]] = {}
    for path, entry in found.items():
        name, _, key = path.removeprefix(f"{_BLOCK}/").partition("/")
        if entry.text is not None:  # a disk without a serial number answers with an error
            held.setdefault(name, {})[key] = entry.text
    return held


def _disks(raw: Mapping[str, Any]) -> dict[str, Any]:
    attributes = _attributes(files(raw, "attributes"))
    ports = {path.split("/")[4]: (e.text or "").strip() for path, e in files(raw, "ports").items()}
    policy = _policy(files(raw, "policy"))
    try:
        rules: tuple[Disk, ...] = parse_disks(policy)
    except SekishoError:
        rules = ()
    named: dict[str, Named] = {}
    present: list[Any] = []
    foreign: dict[str, str] = {}
    writable: list[str] = []
    virtual: list[str] = []
    for path, entry in sorted(files(raw, "links").items()):
        name = path.rpartition("/")[2]
        if entry.target is None:
            raise ProbeError(f"{path}: {entry.error or 'not a link'}")
        held = attributes.get(name, {})
        if "partition" in held:
            continue
        if "/virtual/" in entry.target:
            virtual.append(name)
            continue
        seen = _seen(name, entry.target, held, ports)
        told = named[name] = judge_disk(seen, rules)
        if told.disk is None:
            present.append(seen.as_json())
            foreign[name] = told.reason
            continue
        present.append(next(one for one in policy if one.get("name") == told.disk.name))
        if told.disk.mode == "read-only" and held.get("ro", "").strip() != "1":
            writable.append(name)
    if not named:
        raise ProbeError("this machine shows no disk at all, not even its own")
    foreign |= _made(virtual, attributes, raw, {n for n, one in named.items() if one.disk})
    return {"present": present, "foreign": foreign, "writable": writable}


def _made(
    virtual: list[str], attributes: Mapping[str, Mapping[str, str]], raw: Mapping[str, Any],
    own: set[str],
) -> dict[str, str]:  # fmt: skip
    """Return the block devices made in software of something that is not the machine's own."""
    below: dict[str, set[str]] = {}
    for path in files(raw, "slaves"):
        name, _, rest = path.removeprefix(f"{_BLOCK}/").partition("/slaves/")
        below.setdefault(name, set()).add(rest)
    parts = {
        path.rpartition("/")[2]: (entry.target or "").split("/")[-2]
        for path, entry in files(raw, "links").items()
        if "partition" in attributes.get(path.rpartition("/")[2], {})
    }
    sound = _sound(
        own,
        {name: {parts.get(one, one) for one in below[name]} for name in virtual if name in below},
    )
    found = {}
    for name in virtual:
        held = attributes.get(name, {})
        if held.get("loop/backing_file", "").strip():
            found[name] = "a file mounted as a disk"
        elif name in sound or held.get("size", "0").strip() == "0":
            continue
        elif re.fullmatch(r"(zram|ram)[0-9]+", name):
            continue  # memory: gone with the power; swap on it is another check's
        else:
            found[name] = "made of something that is not the machine's own disk"
    return found


def _sound(own: set[str], parts: Mapping[str, set[str]]) -> set[str]:
    """Return the machine's own devices, and those made of nothing but such (mapped on mapped)."""
    waits = {name: held - own for name, held in parts.items()}
    above: dict[str, list[str]] = {}
    for name, wanted in waits.items():
        for one in wanted:
            above.setdefault(one, []).append(name)
    sound = set(own)
    ready = [name for name, wanted in waits.items() if not wanted]
    while ready:  # each is asked once for each of its parts
        one = ready.pop()
        sound.add(one)
        for name in above.get(one, ()):
            waits[name].discard(one)
            if not waits[name]:
                ready.append(name)
    return sound


def _wall(raw: Mapping[str, Any]) -> dict[str, Any]:
    policy = _policy(files(raw, "policy"))
    held = files(raw, "files")
    state = held.get(STATE)
    words = (state.text or "").split() if state else []
    taken = held.get(NEWCOMERS)
    early = next((word[6:] for word in words if word.startswith("early=")), "")
    switches = files(raw, "switches")
    open_buses = sorted(
        path.split("/")[3] if "/bus/" in path else "scsi"
        for path, entry in switches.items()
        if (entry.text or "?").strip() not in ("0", "none")
    )
    listed = {one.get("path", "")[4:16] for one in policy if isinstance(one, dict)}
    own_cards = set(text_of(held, CARD_LIST).split()) if CARD_LIST in held else set()
    drivers = files(raw, "drivers")
    loose, cards = [], "not needed"  # no card on PCI; what its list says of that is not believed
    for path, entry in sorted(files(raw, "classes").items()):
        at, kind = path.split("/")[5], (entry.text or "").strip()
        driver = drivers.get(f"/sys/bus/pci/devices/{at}/driver")
        bound = (driver.target or "?").rpartition("/")[2] if driver else ""
        if _NETWORK.fullmatch(kind):
            cards = "up" if CARDS in held else "open"
            own = at in own_cards
        elif _STORAGE.fullmatch(kind):
            own = at in listed or _idle(bound, at, raw)
        else:
            continue
        if not own and bound not in ("", "pci-stub"):
            loose.append(f"{at} {bound}")
    initrd = "in place" if files(raw, "boot") else "not needed"
    if initrd == "in place" and not all(path in held for path in _INITRD):
        initrd = "missing"
    helper = held.get(HELPER)
    return {
        "list": "compiled" if fits_list(text_of(held, LIST), policy) else "changed",
        "units": sorted(name for path, name in _UNITS.items() if path in files(raw, "wants")),
        "helper": "missing"
        if helper is None or helper.kind != "file"
        else "writable"
        if helper.uid != 0 or helper.mode & 0o022
        else "in place",
        "udev": "in place" if UDEV in held else "missing",
        "initrd": initrd,
        "state": words[0] if words else "never raised",
        "newcomers": ((taken.text or "").strip() if taken else "") or "anybody's",
        "cards": cards,
        "before_the_wall": sorted(word for word in early.split(",") if word),
        "open_buses": open_buses,
        "loose": loose,
    }


def _idle(driver: str, at: str, raw: Mapping[str, Any]) -> bool:
    """Tell whether a virtio function holds only a device without a driver of its own."""
    if driver != "virtio-pci":
        return False
    return not any(
        f"/{at}/" in (entry.target or "") + "/" for entry in files(raw, "virtio").values()
    )


PROBES = (
    Probe(
        name="disks",
        operations={
            "links": Read((f"{_BLOCK}/*",), content=False),
            "attributes": Read(
                tuple(
                    f"{_BLOCK}/*/{name}"
                    for name in (
                        "partition", "size", "ro", "serial", "wwid", "nsid", "device/serial",
                        "device/wwid", "device/vpd_pg80", "loop/backing_file",
                    )
                )
            ),
            "slaves": Read((f"{_BLOCK}/*/slaves/*",), content=False),
            "ports": Read(("/sys/class/ata_port/*/port_no",)),
            "policy": Read((POLICY,)),
        },
        parse=_disks,
    ),
    Probe(
        name="disk-wall",
        operations={
            "files": Read((STATE, NEWCOMERS, CARDS, CARD_LIST, LIST, HELPER, UDEV, *_INITRD)),
            # a machine whose kernel is handed to it has no boot menu, and no initrd of its own
            "boot": Read(("/boot/grub/grub.cfg",), content=False),
            "wants": Read(tuple(_UNITS), content=False),
            "switches": Read(
                ("/sys/bus/virtio/drivers_autoprobe", "/sys/module/scsi_mod/parameters/scan")
            ),
            "classes": Read(("/sys/bus/pci/devices/*/class",)),
            "drivers": Read(("/sys/bus/pci/devices/*/driver",), content=False),
            "virtio": Read(("/sys/bus/virtio/drivers/virtio_*/virtio*",), content=False),
            "policy": Read((POLICY,)),
        },
        parse=_wall,
    ),
)  # fmt: skip
