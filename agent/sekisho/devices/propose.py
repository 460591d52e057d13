"""A rule for review, from a device that is there. Pure; refuses whatever can carry files."""

from __future__ import annotations

import json
import re
from typing import Any

from sekisho.core.errors import SekishoError, printable
from sekisho.devices.attempts import interface_label, tame, worst
from sekisho.devices.policy import NAME, Device, decide, hash_serial, parse_devices

#: What a rule may be proposed for, and nothing else, known today or not.
PROPOSABLE = frozenset({"keyboard", "pointer", "hid", "smartcard"})
_NOT_UNIQUE = re.compile(r"(.)\1*|0?123456789.*|.{0,3}", re.ASCII | re.DOTALL)
_SITE_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:+-]{0,62}", re.ASCII)
_SITE_PORT = re.compile(r"[1-9][0-9]?(\.[1-9][0-9]?){0,5}", re.ASCII)

_WHY = {
    "storage": ("stores files", "ファイルを保存するデバイスです"),
    "media": ("hands out files (MTP, PTP)", "ファイルを受け渡すデバイスです(MTP・PTP)"),
    "network": ("is a network of its own", "ネットワークデバイスです"),
    "serial": ("is a serial line or modem", "シリアル回線またはモデムです"),
    "wireless": ("is a radio", "無線デバイスです"),
    "printer": ("is a printer", "プリンタです"),
    "vendor": ("speaks a protocol of its own", "独自の方式で通信するデバイスです"),
    "audio": ("carries sound, and data in it", "音声デバイスです(音に情報を載せられます)"),
    "video": ("carries pictures", "映像デバイスです"),
    "hub": ("is a hub: more can be plugged into it", "ハブです(さらにデバイスをつなげます)"),
}


class RefusedError(Exception):
    """No rule is proposed; ``english`` and ``japanese`` say why.

    Attributes:
        unknown: True when something about the device is not known, else it is of a refused kind.

    """

    def __init__(self, english: str, japanese: str, *, unknown: bool = False) -> None:
        super().__init__(english)
        self.english = english
        self.japanese = japanese
        self.unknown = unknown


def propose(  # noqa: PLR0913 - the options of a command
    device: Device | None,
    *,
    title: str = "",
    label: str | None = None,
    name: str | None = None,
    key: bytes | None = None,
    certain: bool = True,
) -> str:
    """Return a YAML list of one rule, for `devices` of the machine's site file.

    Args:
        device: the device; None where it is no USB device.
        title: names it claims.
        label: a worse label than its interfaces', where something else gives it away.
        name: the rule's name; default from kind and port.
        key: 16 bytes: write the serial number's keyed hash instead of it.
        certain: the serial number is the device's own, not as udev rewrote it.

    Raises:
        RefusedError: it can carry files, or cannot be told apart from others.
        SekishoError: ``name`` is no name.

    """
    if device is None:
        raise RefusedError(
            "it is no USB device: no rule can name it", "USBデバイスではなく、一覧に書けません"
        )
    kind = _kind(device, label)
    serial, port = device.serial or "", device.port or ""
    entry: dict[str, Any] = {
        "name": name if name is not None else f"{kind}-{port.replace('.', '-')}",
        "vendor": device.vendor,
        "product": device.product,
    }
    if key is None:
        if not _SITE_SERIAL.fullmatch(serial):
            raise RefusedError(
                f"its serial number {printable(tame(serial), 80)!r} cannot stand in a site file; "
                "--hash-serial writes its hash",
                "製造番号に使えない文字があります(--hash-serial でハッシュを書けます)",
            )
        entry["serial"] = serial
    else:
        entry["serial_hash"] = hash_serial(serial, key)
    entry |= {"port": port, "interfaces": sorted(device.interfaces or ())}
    if not NAME.fullmatch(entry["name"]):
        raise SekishoError(
            f"no name for a rule: {printable(entry['name'], 60)!r}; "
            "expected lower-case letters, digits and dashes"
        )
    rules = parse_devices([entry])
    if not decide(device, rules).admit:  # never hand out a rule that would not do
        raise RefusedError("no rule fits it", "合う規則を作れません", unknown=True)
    return _text(entry, device, title, certain=certain)


def _kind(device: Device, label: str | None) -> str:
    """Return the device's kind, or refuse it."""
    if label == "hub":  # the machine's own controllers too
        raise RefusedError(f"it {_WHY['hub'][0]}", _WHY["hub"][1])
    if not device.interfaces or device.vendor is None or device.product is None:
        raise RefusedError(
            "its interfaces or its identity are not known",
            "インターフェースまたは機種が分かりません",
            unknown=True,
        )
    labels = [interface_label(code) for code in device.interfaces]
    if label is not None:
        labels.append(label)
    bad = worst([one for one in labels if one not in PROPOSABLE])
    if any(one not in PROPOSABLE for one in labels):
        english, japanese = _WHY.get(bad, ("is of an unknown kind", "種類の分からないデバイスです"))
        codes = ", ".join(sorted(device.interfaces))
        raise RefusedError(f"it {english} ({codes})", japanese)
    reason = decide(device, ())
    if reason.code in ("never", "unreadable"):
        raise RefusedError(reason.reason, "どの規則でも許可できない種類です")
    if not device.serial:
        raise RefusedError(
            "it has no serial number: it cannot be told apart from another of its kind",
            "製造番号がなく、同じ機種の別のデバイスと見分けられません",
        )
    if device.port is None or not _SITE_PORT.fullmatch(device.port):
        raise RefusedError("its port is not known", "差込口が分かりません", unknown=True)
    return worst(labels)


def _text(entry: dict[str, Any], device: Device, title: str, *, certain: bool) -> str:
    """Return the proposal with what its reviewer has to look at."""
    notes = [
        "# A proposal: nothing is admitted before it stands in the machine's site file",
        "# (sekisho_machine: devices:) and is applied. Reviewed by: ________  on: ________",
        "# 提案です。サイトのファイルに書かれ、適用されるまで何も許可されません。",
        "# 確認者: ________ 日付: ________",
        f"# The device says it is デバイスの名乗り: {tame(title) or '-'}",
    ]
    if "03:00:00" in (device.interfaces or ()):
        notes.append(
            "# Look 確認: 03:00:00 is an input interface of free form: what it sends is its own. "
            "自由形式の入力です。"
        )
    if _NOT_UNIQUE.fullmatch(device.serial or ""):
        notes.append(
            "# Look 確認: a serial number that many devices share. "
            "多くのデバイスに共通の製造番号です。"
        )
    if not certain:
        notes.append(
            "# Look 確認: the serial number is as udev rewrote it: compare it with the machine's. "
            "製造番号はudevが書き換えた形です。実機と比べてください。"
        )
    rows = [f"{name}: {json.dumps(value)}" for name, value in entry.items()]
    return "\n".join([*notes, f"- {rows[0]}", *(f"  {row}" for row in rows[1:])]) + "\n"
