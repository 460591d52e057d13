"""What would happen to every device of a machine, and by which rule. Pure.

Judged are all USB devices and whatever else can carry files. A site names USB devices, a machine's
network cards (name and MAC address together) and their own disks (place, and serial number or WWN;
partitions go with their disk); nothing else can be named, so nothing else is ever admitted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sekisho.core.text import is_number
from sekisho.devices.attempts import tame
from sekisho.devices.carriers import (
    carries,
    label_of_interfaces,
    label_of_record,
    mark_of,
    software,
    worse,
)
from sekisho.devices.disks import PATH, Disk, Seen, judge_disk
from sekisho.devices.export_db import Dump, Record
from sekisho.devices.policy import Decision, Device, Rule, decide
from sekisho.devices.recorded import USB_NAME, device_of

#: Reason → the same in Japanese; every `Decision.code` and every code made here.
REASONS_JA = {
    "listed": "一覧にあります",
    "not-listed": "一覧にありません",
    "serial": "製造番号が一覧と違います",
    "port": "差込口が一覧と違います",
    "interfaces": "インターフェースの組が一覧と違います",
    "count": "同時に使える台数を超えます",
    "never": "どの規則でも許可できない種類です",
    "unreadable": "インターフェースが分かりません",
    "no-serial": "製造番号がありません",
    "garbled": "記録が壊れています",
    "marked": "ファイルを運べるデバイスです",
    "behind": "その先にファイルを運べるデバイスがあります",
    "not-usb": "USBデバイスではなく、一覧に書けません",
    "path": "機械自身のディスクですが、接続場所が一覧と違います",
    "wwn": "WWNが一覧と違います",
    "unknown": "製造番号かWWNが分かりません",
    "controller": "機械自身のUSBコントローラです",
    "refused-parent": "つながる先のUSBデバイスが拒否されています",
}
#: Codes that mean "could not tell": denied because something is not known.
UNKNOWN = frozenset({"unreadable", "garbled", "unknown"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """One device and what the policy says of it.

    Attributes:
        path: its place under /sys.
        subsystem: the kernel's word.
        label: what it is, worst of its interfaces.
        decision: verdict, rule, reason.
        device: identity of a USB device, or None.
        source: where its interfaces are known from, or "".
        title: names the device claims, tamed.
        software: the kernel's own making, attached to nothing.
        upstream: name of the refused USB device it hangs on, or "": it never comes so far.

    """

    path: str
    subsystem: str
    label: str
    decision: Decision
    device: Device | None = None
    source: str = ""
    title: str = ""
    software: bool = False
    upstream: str = ""

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.path.rpartition("/")[2]

    @property
    def unknown(self) -> bool:
        """Denied because something is not known."""
        return self.decision.code in UNKNOWN

    @property
    def breach(self) -> bool:
        """A USB device that can carry files is admitted."""
        return self.decision.admit and self.device is not None and carries(self.label)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, safe to print."""
        usb = self.device
        told: dict[str, Any] = {
            "path": "/".join(tame(part) for part in self.path.split("/")),
            "name": tame(self.name),
            "subsystem": tame(self.subsystem),
            "class": self.label,
            "can_carry_files": carries(self.label),
            "software": self.software,
            "title": self.title,
        }
        if usb is not None:
            told |= {
                "behind_refused": tame(self.upstream),
                "vendor": usb.vendor,
                "product": usb.product,
                "serial": None if usb.serial is None else tame(usb.serial),
                "port": usb.port,
                "interfaces": None if usb.interfaces is None else sorted(usb.interfaces),
                "interfaces_from": self.source,
            }
        return told | {
            "verdict": "admit" if self.decision.admit else "deny",
            "rule": self.decision.rule or f"deny:{self.decision.code}",
            "reason": self.decision.reason,
            "reason_ja": REASONS_JA.get(self.decision.code, ""),
        }


def _deny(code: str, reason: str) -> Decision:
    return Decision(admit=False, rule="", reason=reason, code=code)


def judge_device(device: Device, rules: Sequence[Rule], held: Mapping[str, int]) -> Verdict:
    """Return the verdict on one USB device that is not from a dump."""
    return Verdict(
        path=device.sysname,
        subsystem="usb",
        label=label_of_interfaces(device.interfaces),
        decision=decide(device, rules, held),
        device=device,
    )


def judge_dump(
    dump: Dump, rules: Sequence[Rule], cards: Mapping[str, str], disks: Sequence[Disk] = ()
) -> tuple[Verdict, ...]:
    """Return a verdict on every USB device and everything that can carry files, by path.

    Args:
        dump: the database.
        rules: the site's list of USB devices.
        cards: network interface → MAC address, those the site names.
        disks: the machine's own disks, those the site names.

    """
    usb = {path for path, record in dump.records.items() if _is_usb(record)}
    others = {
        path: (label, _parent(path, usb))
        for path, record in dump.records.items()
        if path not in usb and (label := label_of_record(record)) is not None
    }
    children: dict[str, list[Record]] = {path: [] for path in usb}
    for path, record in dump.records.items():
        above, _, name = path.rpartition("/")
        if above in usb and name.startswith(f"{above.rpartition('/')[2]}:"):
            children[above].append(record)
    behind: dict[str, str] = {}
    for label, parent in others.values():
        if parent is not None:
            behind[parent] = worse(label, behind.get(parent, label))
    held: Counter[str] = Counter()
    verdicts: dict[str, Verdict] = {}
    for path in sorted(usb | set(others)):  # a parent's path sorts before what hangs on it
        record = dump.records[path]
        if path in usb:
            told = _usb(record, children[path], behind.get(path), rules, held)
            if told.decision.admit:
                held[told.decision.rule] += 1
            told = replace(told, upstream=_refused_above(verdicts, _parent(path, usb)))
        else:
            label, parent = others[path]
            above_told = verdicts[parent] if parent is not None else None
            told = _other(record, label, above_told, cards)
            if above_told is None and label == "block" and not record.garbled:
                told = replace(told, decision=_disk(record, dump, disks) or told.decision)
        verdicts[path] = told
    return tuple(verdicts.values())


def _refused_above(verdicts: Mapping[str, Verdict], parent: str | None) -> str:
    """Return the name of the USB device above when it is refused; a controller never is."""
    if parent is None:
        return ""
    above = verdicts[parent]
    if above.decision.admit or above.decision.code == "controller":
        return above.upstream
    return above.name


def _is_usb(record: Record) -> bool:
    """Tell whether a record is a USB device, also where it does not say so itself."""
    kind = record.fields.get("DEVTYPE")
    if kind == "usb_device":
        return True
    return (
        kind is None and record.subsystem == "usb" and USB_NAME.fullmatch(record.name) is not None
    )


def _parent(path: str, usb: set[str]) -> str | None:
    """Return the nearest USB device above ``path``, or None."""
    above = path.rpartition("/")[0]
    while above:
        if above in usb:
            return above
        above = above.rpartition("/")[0]
    return None


def _usb(
    record: Record,
    children: Sequence[Record],
    behind: str | None,
    rules: Sequence[Rule],
    held: Mapping[str, int],
) -> Verdict:
    device, source = device_of(record, children)
    label = label_of_interfaces(device.interfaces)
    marks = [mark for one in (record, *children) if (mark := mark_of(one)) is not None]
    for more in (*marks, behind):
        label = worse(label, more) if more is not None else label
    decision = decide(device, rules, held)
    if _is_controller(record):
        label = "hub"
        decision = _deny("controller", "the machine's own USB controller: no rule is asked")
    elif record.garbled:
        decision = _deny("garbled", record.garbled)
    elif marks:
        decision = _deny("marked", f"udev or its driver marks it as {marks[0]}")
    elif behind is not None and decision.admit:
        decision = _deny("behind", f"a {behind} device hangs on it")
    return Verdict(record.path, record.subsystem, label, decision, device, source, title_of(record))


def _is_controller(record: Record) -> bool:
    """Tell whether a record is a root hub: named so by the kernel, and below no USB device."""
    name = record.name
    return (
        name.startswith("usb")
        and is_number(name[3:])
        and not record.garbled
        and record.fields.get("TYPE", "").startswith("9/")
    )


def _other(record: Record, label: str, parent: Verdict | None, cards: Mapping[str, str]) -> Verdict:
    if record.garbled:
        decision = _deny("garbled", record.garbled)
    elif parent is not None:
        decision = (
            _deny("behind", f"it hangs on {tame(parent.name)}, which is no {label}")
            if parent.decision.admit
            else _deny("refused-parent", f"it hangs on {tame(parent.name)}, which is refused")
        )
    elif label == "network" and not software(record) and _card(record, cards):
        name = record.name
        decision = Decision(
            admit=True, rule=f"interfaces.{name}", reason=f"listed as {name}", code="listed"
        )
    else:
        decision = _deny("not-usb", f"a {label} device: the list of USB devices cannot name it")
    return Verdict(
        path=record.path,
        subsystem=record.subsystem,
        label=label,
        decision=decision,
        title=title_of(record),
        software=software(record),
    )


def _disk(record: Record, dump: Dump, disks: Sequence[Disk]) -> Decision | None:
    """Return the decision on a disk or its partition; None for what is no disk on hardware."""
    if record.subsystem != "block" or software(record):
        return None
    if record.fields.get("DEVTYPE") == "partition":
        above = dump.records.get(record.path.rpartition("/")[0])
        if above is None or above.garbled:
            return _deny("garbled", "a partition whose disk is not told")
        record = above
    fields = record.fields
    path = PATH.fullmatch(fields.get("ID_PATH", ""))
    wwn = fields.get("ID_WWN_WITH_EXTENSION") or fields.get("ID_WWN") or ""
    seen = Seen(
        record.name,
        record.path,
        (path[2] or path[3] or "") if path else "",
        fields.get("ID_SERIAL_SHORT") or fields.get("ID_SERIAL") or "",
        f"naa.{wwn[2:]}" if wwn.startswith("0x") else wwn,
    )
    told = judge_disk(seen, disks)
    if told.disk is None:
        return _deny(told.code, told.reason)
    return Decision(admit=True, rule=f"disks.{told.disk.name}", reason=told.reason, code="listed")


def _card(record: Record, cards: Mapping[str, str]) -> bool:
    """Tell whether a network card is one the site names, by name and MAC address together."""
    mac = cards.get(record.name, "").replace(":", "")
    return (
        bool(mac)
        and record.subsystem == "net"
        and record.fields.get("INTERFACE") == record.name
        and record.fields.get("ID_NET_NAME_MAC", "")[-12:].lower() == mac
    )


def title_of(record: Record) -> str:
    """Return the maker's and the product's names a record claims, tamed."""
    fields = record.fields
    parts = (
        fields.get("ID_VENDOR_FROM_DATABASE") or fields.get("ID_VENDOR"),
        fields.get("ID_MODEL_FROM_DATABASE") or fields.get("ID_MODEL"),
    )
    return " ".join(tame(part) for part in parts if part)
