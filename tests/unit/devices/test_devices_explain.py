"""Whole machines judged from their udev databases: nothing unnamed is admitted, nothing crashes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sekisho.core.errors import SekishoError
from sekisho.devices import export_db
from sekisho.devices.carriers import HARMLESS
from sekisho.devices.disks import parse_disks
from sekisho.devices.explain import REASONS_JA, Verdict, judge_dump
from sekisho.devices.export_db import parse_export_db
from sekisho.devices.policy import Rule, parse_devices

BUS = "/devices/pci0000:00/0000:00:14.0/usb1"
KEYBOARD = {
    "name": "console-keyboard",
    "vendor": "0627",
    "product": "0001",
    "serial": "SEKISHO-KBD-1",
    "port": "2",
    "interfaces": ["03:01:01"],
}
RULES = parse_devices([KEYBOARD])


def record(path: str, **fields: str | None) -> str:
    rows = [f"E: {key}={value}" for key, value in fields.items() if value is not None]
    return "\n".join([f"P: {path}", f"E: DEVPATH={path}", *rows, ""])


def keyboard(path: str = f"{BUS}/1-2", **change: str | None) -> str:
    fields: dict[str, str | None] = {
        "SUBSYSTEM": "usb",
        "DEVTYPE": "usb_device",
        "PRODUCT": "627/1/100",
        "TYPE": "0/0/0",
        "ID_SERIAL_SHORT": "SEKISHO-KBD-1",
        "ID_USB_INTERFACES": ":030101:",
    }
    return record(path, **(fields | change))


def judge(*records: str, rules: tuple[Rule, ...] = RULES, **cards: str) -> dict[str, Verdict]:
    dump = parse_export_db("\n".join(records).encode(), "test")
    return {told.name: told for told in judge_dump(dump, rules, cards)}


def code(*records: str, name: str = "1-2") -> str:
    return judge(*records)[name].decision.code


def test_the_listed_keyboard_is_admitted_by_its_rule() -> None:
    told = judge(keyboard())["1-2"]
    assert (told.decision.admit, told.decision.rule, told.label) == (
        True,
        "console-keyboard",
        "keyboard",
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ID_USB_INTERFACES": None}, "unreadable"),
        ({"ID_USB_INTERFACES": ""}, "unreadable"),
        ({"ID_USB_INTERFACES": ":0301"}, "unreadable"),
        ({"ID_USB_INTERFACES": ":030101:" + "".join(f"03{i:02x}00:" for i in range(64))}, "unread"),
        ({"ID_USB_INTERFACES": ":030101:080650:"}, "never"),
        ({"ID_USB_INTERFACES": ":030101:ff0000:"}, "interfaces"),
        ({"PRODUCT": "627/2/100"}, "not-listed"),
        ({"PRODUCT": None}, "unreadable"),
        ({"PRODUCT": "627/1"}, "unreadable"),
        ({"ID_VENDOR_ID": "0628"}, "unreadable"),
        ({"TYPE": "8/6/80"}, "never"),
        ({"TYPE": "999/0/0"}, "unreadable"),
        ({"ID_SERIAL_SHORT": None}, "no-serial"),
        ({"ID_SERIAL_SHORT": "sekisho-kbd-1"}, "serial"),
        ({"ID_SERIAL_SHORT": "SEKISHO-KBD-1\\x0a"}, "unreadable"),
        ({"ID_MTP_DEVICE": "1"}, "marked"),
        ({"ID_GPHOTO2": "1"}, "marked"),
        ({"DRIVER": "usb-storage"}, "marked"),
        ({"SUBSYSTEM": None}, "listed"),
        ({"DEVTYPE": None}, "listed"),
    ],
)
def test_a_device_that_differs_or_is_not_known_is_denied(
    change: dict[str, str | None], reason: str
) -> None:
    assert code(keyboard(**change)).startswith(reason)


def test_interfaces_come_from_the_children_where_udev_read_none() -> None:
    child = record(f"{BUS}/1-2/1-2:1.0", SUBSYSTEM="usb", INTERFACE="3/1/1")
    assert judge(keyboard(ID_USB_INTERFACES=None), child)["1-2"].source == "interfaces in use"
    assert code(keyboard(ID_USB_INTERFACES=None), child) == "listed"


@pytest.mark.parametrize(
    "child",
    [
        {"INTERFACE": "8/6/80"},
        {"INTERFACE": "255/0/0"},
        {"INTERFACE": "nonsense"},
        {},
        {"INTERFACE": "3/1/1", "DRIVER": "uas"},
        {"MODALIAS": "usb:v0627p0001d0100dc00dsc00dp00ic08isc06ip50in00"},
    ],
)
@pytest.mark.parametrize("packed", [":030101:", None])
def test_a_child_can_only_make_it_worse(child: dict[str, str], packed: str | None) -> None:
    below = record(f"{BUS}/1-2/1-2:1.0", SUBSYSTEM="usb", **child)
    assert not judge(keyboard(ID_USB_INTERFACES=packed), below)["1-2"].decision.admit


def test_what_hangs_on_a_listed_keyboard_denies_both() -> None:
    disk = record(f"{BUS}/1-2/1-2:1.0/block/sda", SUBSYSTEM="block", DEVTYPE="disk")
    told = judge(keyboard(), disk)
    assert told["1-2"].decision.code == "behind"
    assert told["sda"].decision.code == "refused-parent"
    assert told["1-2"].label == "block"


def test_a_second_of_a_kind_on_another_bus_is_one_too_many() -> None:
    told = judge(keyboard(), keyboard(BUS.replace("usb1", "usb2") + "/2-2"))
    assert [one.decision.code for one in told.values()] == ["listed", "count"]


def test_a_device_behind_a_refused_hub_says_so() -> None:
    hub = keyboard(f"{BUS}/1-1", TYPE="9/0/1", ID_USB_INTERFACES=":090000:")
    told = judge(
        hub,
        keyboard(f"{BUS}/1-1/1-1.2"),
        rules=parse_devices([KEYBOARD | {"port": "1.2"}]),
    )
    assert (told["1-1.2"].decision.admit, told["1-1.2"].upstream) == (True, "1-1")


def test_raw_descriptors_outweigh_what_udev_read() -> None:
    def raw(interface: str) -> str:
        body = bytes.fromhex(f"0904000000{interface}00")
        head = bytes([18, 1, 0, 2, 0, 0, 0, 64, 0x27, 6, 1, 0, 0, 1, 1, 2, 3, 1])
        return (head + bytes([9, 2, 18, 0, 1, 1, 0, 0x80, 50]) + body).hex().upper()

    base = keyboard(ID_USB_INTERFACES=None)
    assert judge(base + f"H: descriptors={raw('030101')}\n")["1-2"].source == "descriptors"
    assert code(base + f"H: descriptors={raw('030101')}\n") == "listed"
    assert code(keyboard() + f"H: descriptors={raw('080650')}\n") == "never"
    assert code(keyboard() + "H: descriptors=1201\n") == "unreadable"
    assert code(keyboard() + "H: descriptors=no hex\n") == "unreadable"
    assert code(base + f"H: descriptors={raw('030101')}\nA: idVendor=0628\\n\n") == "unreadable"


@pytest.mark.parametrize(
    "forged",
    [
        keyboard() + "\n" + keyboard(),
        keyboard() + "a line from a device's own name\n",
        keyboard() + "E: TYPE=9/0/0\n",
        keyboard() + "E: no value\n",
        keyboard().replace("E: DEVPATH=", "E: DEVPATH=/x"),
        "\ufeff" + keyboard() + "H: descriptors=00\nH: descriptors=01\n",
    ],
)
def test_a_record_that_contradicts_itself_is_denied(forged: str) -> None:
    told = judge(forged)["1-2"]
    assert (told.decision.admit, told.unknown) == (False, True)


def test_a_controller_is_named_and_nothing_else_can_pose_as_one() -> None:
    told = judge(keyboard(BUS, TYPE="9/0/1"), keyboard(f"{BUS}/usb7", TYPE="3/0/0"))
    assert told["usb1"].decision.code == "controller"
    assert told["usb7"].decision.code != "controller"
    assert not any(one.decision.admit for one in told.values())


def test_a_network_card_is_admitted_only_by_name_and_address_together() -> None:
    def card(path: str, name: str, mac: str) -> str:
        return record(
            f"{path}/net/{name}", SUBSYSTEM="net", INTERFACE=name, ID_NET_NAME_MAC=f"enx{mac}"
        )

    named = {"eth0": "52:54:00:77:00:13"}
    pci = "/devices/pci0000:00/0000:00:03.0"
    ours = card(pci, "eth0", "525400770013")
    told = judge(ours, **named)["eth0"]
    assert (told.decision.admit, told.decision.rule, told.breach) == (
        True,
        "interfaces.eth0",
        False,
    )
    assert not judge(ours)["eth0"].decision.admit
    assert not judge(card(pci, "eth1", "525400770013"), **named)["eth1"].decision.admit
    assert not judge(card(pci, "eth0", "525400770014"), **named)["eth0"].decision.admit
    assert not judge(card("/devices/virtual", "eth0", "525400770013"), **named)[
        "eth0"
    ].decision.admit
    behind = judge(
        keyboard(ID_USB_INTERFACES=":020600:"),
        card(f"{BUS}/1-2/1-2:1.0", "eth0", "525400770013"),
        **named,
    )
    assert not behind["eth0"].decision.admit


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "no device"),
        (b"\x00\xff" * 100, "no device"),
        (b"E: DEVTYPE=usb_device\n", "no device"),
        (b"P: /" + b"a" * 2000, "a path of"),
        ("P: /devices/usb1".encode("utf-16"), "no device"),
    ],
)
def test_what_is_no_dump_is_a_clear_error(raw: bytes, said: str) -> None:
    with pytest.raises(SekishoError) as caught:
        parse_export_db(raw, "FILE")
    assert said in caught.value.diagnostics()
    assert "FILE" in caught.value.diagnostics()


def test_a_dump_has_a_size_and_a_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_db, "MAX_BYTES", 10)
    with pytest.raises(SekishoError, match="not read"):
        parse_export_db(b"P: /a\n" * 3, "x")
    monkeypatch.setattr(export_db, "MAX_BYTES", 1000)
    monkeypatch.setattr(export_db, "MAX_RECORDS", 1)
    with pytest.raises(SekishoError, match="not read"):
        parse_export_db(b"P: /a\n\nP: /b\n", "x")


def test_line_ends_of_another_system_change_nothing() -> None:
    assert code(keyboard().replace("\n", "\r\n")) == "listed"


# -- properties ------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "P: /devices/usb1/1-2",
        "P: /devices/usb1/1-2/1-2:1.0",
        "P: ",
        "E: DEVTYPE=usb_device",
        "E: SUBSYSTEM=usb",
        "E: SUBSYSTEM=block",
        "E: PRODUCT=627/1/100",
        "E: TYPE=0/0/0",
        "E: INTERFACE=3/1/1",
        "E: INTERFACE=8/6/80",
        "E: ID_USB_INTERFACES=:030101:",
        "E: ID_SERIAL_SHORT=SEKISHO-KBD-1",
        "E: DRIVER=uas",
        "H: descriptors=12",
        "A: serial=x\\n",
        "N",
        "",
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=12), max_size=25).map("\n".join)


@given(st.binary(max_size=300) | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"P: /\nE: DEVTYPE=usb_device")
@example(b"P: \nE: DEVTYPE=usb_device")
def test_any_bytes_are_judged_or_refused_and_told_on_one_line(raw: bytes) -> None:
    try:
        dump = parse_export_db(raw, "x")
    except SekishoError:
        return
    told = judge_dump(dump, RULES, {})
    assert [one.path for one in told] == sorted(one.path for one in told)
    for one in told:
        shown = json.dumps(one.as_json(), ensure_ascii=False)
        assert shown.isprintable()
        assert one.decision.code in REASONS_JA
        assert one.as_json()["rule"]


@given(TEXTS)
def test_without_a_rule_nothing_of_any_dump_is_admitted(text: str) -> None:
    try:
        dump = parse_export_db(text.encode("utf-8", "surrogatepass"), "x")
    except SekishoError:
        return
    assert not any(one.decision.admit for one in judge_dump(dump, (), {}))


@given(st.lists(PIECES, max_size=4), st.integers(0, 6))
def test_a_line_more_in_its_record_never_admits_a_denied_device(lines: list[str], at: int) -> None:
    """Only a missing mark of identity can be made good; a storage device stays one."""
    rows = keyboard(ID_USB_INTERFACES=":030101:080650:").splitlines()
    more = [line for line in lines if not line.startswith("P: ") and line]
    text = "\n".join([*rows[: at + 1], *more, *rows[at + 1 :]])
    assert not judge(text)["1-2"].decision.admit


# -- real machines ---------------------------------------------------------------------------------


def machines(data: Path) -> Iterator[tuple[str, export_db.Dump]]:
    for path in sorted((data / "usb/checkbox-udevadm").glob("*.txt")):
        yield path.stem, parse_export_db(path.read_bytes(), path.name)
    for path in sorted((data / "umockdev/devices").glob("*/*.umockdev")):
        yield path.stem, parse_export_db(path.read_bytes(), path.name)


def as_rule(told: Verdict) -> dict[str, Any] | None:
    usb = told.device
    if usb is None or not usb.serial or not usb.interfaces or usb.port is None:
        return None
    return {
        "name": "real",
        "vendor": usb.vendor,
        "product": usb.product,
        "serial": usb.serial,
        "port": usb.port,
        "interfaces": sorted(usb.interfaces),
    }


def test_no_real_machine_has_anything_admitted_that_is_not_named(shared_data: Path) -> None:
    seen: Counter[str] = Counter()
    for _, dump in machines(shared_data):
        for rules in ((), RULES):
            told = judge_dump(dump, rules, {})
            assert [one.path for one in told if one.decision.admit] == []
        usb = [one for one in told if one.device is not None]
        marked = [r for r in dump.records.values() if r.fields.get("DEVTYPE") == "usb_device"]
        assert len(usb) == len(marked)  # every one of them, once
        blocks = {r.path for r in dump.records.values() if r.subsystem in ("block", "net")}
        assert blocks <= {one.path for one in told}
        seen.update(dumps=1, usb=len(usb), all=len(told))
        seen.update(unknown=sum(one.device is not None and one.unknown for one in told))
    assert seen["dumps"] >= 40
    assert seen["usb"] >= 250
    assert seen["all"] >= 3000
    assert seen["unknown"] == 0  # denied for what they are, not for want of knowing


def test_what_can_carry_files_is_admitted_on_no_real_machine_by_anothers_rule(
    shared_data: Path,
) -> None:
    """Every real device that a rule can be written for, against every other device there is."""
    dumps = dict(machines(shared_data))
    told = {name: judge_dump(dump, (), {}) for name, dump in dumps.items()}
    pairs = admitted = 0
    for home, verdicts in told.items():
        for one in verdicts:
            entry = as_rule(one)
            try:
                rules = parse_devices([entry]) if entry is not None else ()
            except SekishoError:
                continue
            if not rules:
                continue
            for name, dump in dumps.items():
                pairs += 1
                for other in judge_dump(dump, rules, {}):
                    if not other.decision.admit:
                        continue
                    admitted += 1
                    assert as_rule(other) == entry  # it is named whole, wherever it stands
                    assert other.decision.rule == "real"
                    assert (name, other.path) == (home, one.path) or other.label in HARMLESS
    assert pairs > 500
    assert admitted > 10  # the positive control: what is named whole does get in


@pytest.mark.slow
def test_real_storage_and_players_are_told_for_what_they_are(shared_data: Path) -> None:
    labels = Counter(
        told.label
        for _, dump in machines(shared_data)
        for told in judge_dump(dump, (), {})
        if told.device is not None
    )
    assert labels["storage"] >= 25
    assert labels["media"] >= 2
    assert labels["network"] >= 1


def test_a_disk_is_told_as_named_or_not_and_its_partitions_with_it() -> None:
    place = "/devices/pci0000:00/0000:00:03.0/virtio0/block/vda"
    same = {"SUBSYSTEM": "block", "ID_PATH": "pci-0000:00:03.0", "ID_SERIAL": "D13"}
    records = (
        record(place, DEVTYPE="disk", **same)
        + record(f"{place}/vda1", DEVTYPE="partition", **same)
        + record(place.replace("03.0", "09.0").replace("vda", "vdb"), DEVTYPE="disk", **same)
        + record("/devices/virtual/block/dm-0", SUBSYSTEM="block", DEVTYPE="disk")
    )
    own = parse_disks([{"name": "system", "path": "pci-0000:00:03.0", "serial": "D13"}])
    dump = parse_export_db(records.encode(), "x")
    told = {one.name: one.decision for one in judge_dump(dump, (), {}, own)}
    assert (told["vda"].admit, told["vda"].rule) == (True, "disks.system")
    assert told["vda1"].admit
    assert (told["vdb"].admit, told["vdb"].code) == (False, "path")
    assert (told["dm-0"].admit, told["dm-0"].code) == (False, "not-usb")
