"""Who may attach: exact, total, monotone, and never storage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from sekisho.core.errors import SekishoError
from sekisho.devices.policy import (
    NEVER,
    Device,
    Rule,
    decide,
    device_from_sysfs,
    hash_serial,
    parse_devices,
    serial_fits,
)

KEYBOARD = {
    "name": "console-keyboard",
    "vendor": "0627",
    "product": "0001",
    "serial": "SEKISHO-KBD-1",
    "port": "1.2",
    "interfaces": ["03:01:01"],
}
RULES = parse_devices([KEYBOARD])
LISTED = Device(
    sysname="1-1.2",
    vendor="0627",
    product="0001",
    serial="SEKISHO-KBD-1",
    port="1.2",
    device_class="00",
    interfaces=frozenset({"03:01:01"}),
)


def test_the_listed_device_is_admitted_by_name() -> None:
    told = decide(LISTED, RULES)
    assert (told.admit, told.rule) == (True, "console-keyboard")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vendor": "0628"}, "not listed"),
        ({"vendor": None}, "not listed"),
        ({"product": "0002"}, "not listed"),
        ({"serial": "SEKISHO-KBD-2"}, "not the serial"),
        ({"serial": "SEKISHO-KBD-1 "}, "not the serial"),
        ({"serial": ""}, "no serial"),
        ({"serial": None}, "no serial"),
        ({"port": "1", "sysname": "1-1"}, "not the port"),
        ({"port": "1.2.1", "sysname": "1-1.2.1"}, "not the port"),
        ({"port": None}, "not the port"),
        ({"interfaces": None}, "descriptors"),
        ({"interfaces": frozenset()}, "descriptors"),
        ({"interfaces": frozenset({"03:01:01", "03:01:02"})}, "not the interfaces"),
        ({"interfaces": frozenset({"03:01:02"})}, "not the interfaces"),
        ({"interfaces": frozenset({"03:01:01", "08:06:50"})}, "storage"),
        ({"interfaces": frozenset({"03:01:01", "06:01:01"})}, "imaging"),
        ({"device_class": "08"}, "storage"),
    ],
)
def test_a_device_that_differs_in_one_thing_is_denied(change: dict[str, Any], reason: str) -> None:
    told = decide(replace(LISTED, **change), RULES)
    assert told.admit is False
    assert reason in told.reason


def test_a_port_may_name_its_bus() -> None:
    rules = parse_devices([KEYBOARD | {"port": "1-1.2"}])
    assert decide(LISTED, rules).admit
    assert not decide(replace(LISTED, sysname="2-1.2"), rules).admit


HASHED = {key: value for key, value in KEYBOARD.items() if key != "serial"} | {
    "serial_hash": hash_serial("SEKISHO-KBD-1", bytes(range(16)))
}


def test_a_keyed_hash_stands_for_the_serial_number_and_for_no_other() -> None:
    rules = parse_devices([HASHED])
    assert "SEKISHO" not in json.dumps([rule.as_json() for rule in rules])
    assert parse_devices([rule.as_json() for rule in rules]) == rules
    assert decide(LISTED, rules).admit
    for serial in ("SEKISHO-KBD-2", "SEKISHO-KBD-1 ", "", None):
        assert not decide(replace(LISTED, serial=serial), rules).admit


@given(st.text(), st.text(), st.binary(min_size=16, max_size=16))
def test_a_hash_fits_exactly_its_own_serial(one: str, other: str, key: bytes) -> None:
    assert serial_fits(hash_serial(one, key), one) == bool(one)
    assert serial_fits(hash_serial(one, key), other) == (one == other != "")
    assert not serial_fits(one, other)  # no hash at all


def test_a_hash_of_another_form_is_refused() -> None:
    for wrong in ("", "sha256:00", HASHED["serial_hash"].upper(), HASHED["serial_hash"] + "0"):
        with pytest.raises(SekishoError):
            parse_devices([HASHED | {"serial_hash": wrong}])
    with pytest.raises(ValueError, match="a key of 3 bytes"):
        hash_serial("x", b"abc")


def test_a_rule_admits_one_at_a_time_unless_it_says_more() -> None:
    assert decide(LISTED, RULES, {"other": 5}).admit
    told = decide(LISTED, RULES, {"console-keyboard": 1})
    assert (told.admit, told.code) == (False, "count")
    two = parse_devices([KEYBOARD | {"count": 2}])
    assert decide(LISTED, two, {"console-keyboard": 1}).admit
    assert not decide(LISTED, two, {"console-keyboard": 2}).admit


def test_an_empty_list_admits_nothing() -> None:
    assert not decide(LISTED, parse_devices([])).admit


def test_a_rule_built_past_the_parser_admits_no_storage() -> None:
    disk = frozenset({"08:06:50"})
    rule = replace(RULES[0], interfaces=disk)
    assert not decide(replace(LISTED, interfaces=disk), [rule]).admit


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"name": "Console"}, "name"),
        ({"name": 'x"'}, "name"),
        ({"vendor": "627"}, "vendor"),
        ({"vendor": "062A"}, "vendor"),
        ({"product": "*"}, "product"),
        ({"serial": ""}, "serial"),
        ({"serial": " x"}, "serial"),
        ({"serial": "x*"}, "serial"),
        ({"serial": 'x", ATTR{authorized}="1'}, "serial"),
        ({"serial": "x\n"}, "serial"),
        ({"serial": "x\\"}, "serial"),
        ({"serial": "x|y"}, "serial"),
        ({"serial": "$env{X}"}, "serial"),
        ({"serial": "\uff05x"}, "serial"),
        ({"serial": "x" * 127}, "serial"),
        ({"serial": 7}, "serial"),
        ({"port": ""}, "port"),
        ({"port": "0"}, "port"),
        ({"port": "1.*"}, "port"),
        ({"port": "1\n"}, "port"),
        ({"interfaces": []}, "interfaces"),
        ({"interfaces": ["03:01"]}, "interfaces"),
        ({"interfaces": ["03:01:01", "03:01:01"]}, "interfaces"),
        ({"interfaces": ["03:**:**"]}, "interfaces"),
        ({"interfaces": ["03:01:01", "08:06:50"]}, "interfaces"),
        ({"interfaces": ["06:01:01"]}, "interfaces"),
        ({"interfaces": "03:01:01"}, "interfaces"),
        ({"more": 1}, ""),
        ({"serial_hash": "hmac-sha256:" + "0" * 32 + ":" + "0" * 64}, ""),
        ({"count": 0}, "count"),
        ({"count": 17}, "count"),
        ({"count": True}, "count"),
        ({"count": "2"}, "count"),
        ({"count": None}, "count"),
    ],
)
def test_a_rule_with_one_wrong_thing_is_refused_and_named(change: dict[str, Any], key: str) -> None:
    with pytest.raises(SekishoError) as caught:
        parse_devices([KEYBOARD | change])
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize("key", KEYBOARD)
def test_a_rule_that_lacks_anything_is_refused(key: str) -> None:
    with pytest.raises(SekishoError):
        parse_devices([{k: v for k, v in KEYBOARD.items() if k != key}])


@pytest.mark.parametrize("raw", [None, {}, "x", 1, [None], [[]], [KEYBOARD] * 257])
def test_what_is_no_list_of_devices_is_refused(raw: Any) -> None:
    with pytest.raises(SekishoError):
        parse_devices(raw)


def test_the_same_device_under_two_names_is_refused() -> None:
    with pytest.raises(SekishoError, match="refused"):
        parse_devices([KEYBOARD, KEYBOARD | {"name": "other"}])


# -- properties ------------------------------------------------------------------------------------

TRIPLE = st.sampled_from(["03:01:01", "03:00:00", "08:06:50", "06:01:01", "0b:00:00", "ff:00:00"])
SETS = st.frozensets(TRIPLE, max_size=3)
TEXT = st.sampled_from(["", "0627", "0001", "A", "B", "1", "1.2", "1-1"]) | st.text(max_size=4)
MAYBE = st.none() | TEXT
DEVICES = st.builds(
    Device,
    sysname=TEXT,
    vendor=MAYBE,
    product=MAYBE,
    serial=MAYBE,
    port=MAYBE,
    device_class=st.none() | st.sampled_from(["00", "08", "09", "ef"]),
    interfaces=st.none() | SETS,
)
ANY_RULE = st.builds(
    Rule,
    name=TEXT,
    vendor=TEXT,
    product=TEXT,
    serial=TEXT,
    port=TEXT,
    interfaces=SETS,
    serial_hash=st.just("") | TEXT | st.builds(hash_serial, TEXT, st.just(bytes(16))),
    count=st.integers(-1, 3),
)
HELD = st.dictionaries(TEXT, st.integers(0, 3), max_size=3)
RULE_LISTS = st.lists(ANY_RULE, max_size=4)


@st.composite
def likely(draw: Any) -> tuple[Device, list[Rule]]:
    """Draw rules, and a device that often fits one of them: else every property holds vacuously."""
    rules = draw(st.lists(ANY_RULE, min_size=1, max_size=4))
    rule = draw(st.sampled_from(rules))
    device = Device(
        sysname="1-" + rule.port,
        vendor=rule.vendor,
        product=rule.product,
        serial=draw(st.just(rule.serial) | TEXT),
        port=rule.port,
        device_class="00",
        interfaces=rule.interfaces,
    )
    change = draw(st.sampled_from(["", "", "serial", "port", "interfaces", "vendor"]))
    return (
        replace(device, **{change: getattr(draw(DEVICES), change)}) if change else device
    ), rules


CASES = likely() | st.tuples(DEVICES, RULE_LISTS)


@given(CASES, HELD)
def test_deciding_is_total_and_names_the_rule_that_fits_whole(
    case: tuple[Device, list[Rule]], held: dict[str, int]
) -> None:
    device, rules = case
    told = decide(device, rules, held)
    assert told.reason
    assert told.code
    if not told.admit:
        assert (told.rule, told.code != "listed") == ("", True)
        return
    assert any(
        rule.name == told.rule
        and device.interfaces == rule.interfaces
        and (device.vendor, device.product) == (rule.vendor, rule.product)
        and (serial_fits(rule.serial_hash, device.serial) or device.serial == rule.serial != "")
        and rule.port in (device.port, device.sysname)
        and held.get(rule.name, 0) < rule.count
        for rule in rules
    )


@given(CASES, HELD, st.data())
def test_taking_a_rule_away_never_admits(
    case: tuple[Device, list[Rule]], held: dict[str, int], data: Any
) -> None:
    device, rules = case
    fewer = [rule for rule in rules if data.draw(st.booleans())]
    if decide(device, fewer, held).admit:
        assert decide(device, rules, held).admit


@given(CASES, HELD, HELD)
def test_more_devices_in_use_never_admit(
    case: tuple[Device, list[Rule]], held: dict[str, int], more: dict[str, int]
) -> None:
    device, rules = case
    added = {name: held.get(name, 0) + more.get(name, 0) for name in {*held, *more}}
    if decide(device, rules, added).admit:
        assert decide(device, rules, held).admit


@given(CASES, TRIPLE)
def test_an_interface_more_never_admits_unless_a_rule_names_that_very_set(
    case: tuple[Device, list[Rule]], extra: str
) -> None:
    device, rules = case
    worse = replace(device, interfaces=(device.interfaces or frozenset()) | {extra})
    if worse.interfaces not in [rule.interfaces for rule in rules] or extra[:2] in NEVER:
        assert not decide(worse, rules).admit


@given(CASES)
def test_losing_any_mark_of_identity_never_admits(case: tuple[Device, list[Rule]]) -> None:
    device, rules = case
    for gone in ("vendor", "product", "serial", "interfaces"):
        assert not decide(replace(device, **{gone: None}), rules).admit


def test_the_drawn_cases_do_admit_some() -> None:
    """The properties above would hold of a policy that admits nothing at all."""
    find(CASES, lambda case: decide(*case).admit)
    find(CASES, lambda case: decide(*case).code == "serial")


@given(DEVICES, RULE_LISTS)
def test_no_device_with_a_forbidden_interface_is_admitted(
    device: Device, rules: list[Rule]
) -> None:
    if any(text[:2] in NEVER for text in device.interfaces or ()):
        assert not decide(device, rules).admit


@given(DEVICES)
def test_without_rules_nothing_is_admitted(device: Device) -> None:
    assert not decide(device, []).admit


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(sorted(KEYBOARD)) | st.text(max_size=3), inner, max_size=6
            )
        ),
    )
)
def test_a_policy_of_any_shape_is_read_or_refused(raw: Any) -> None:
    try:
        parse_devices(raw)
    except SekishoError:
        return


# -- real devices ----------------------------------------------------------------------------------


def recorded(data: Path) -> Iterator[Device]:
    """Yield every recorded device with raw descriptors (umockdev's ``N:`` and ``H:`` lines)."""
    for path in sorted((data / "umockdev/devices").glob("*/*.umockdev")):
        for block in re.split(r"\n(?=P: )", path.read_text(errors="replace")):
            raw = re.search(r"^H: descriptors=([0-9A-F]+)$", block, re.MULTILINE)
            if raw is None:
                continue
            attributes = dict(re.findall(r"^A: (serial|devpath)=(.*)$", block, re.MULTILINE))
            name = block.splitlines()[0].rpartition("/")[2]
            yield device_from_sysfs(name, attributes, bytes.fromhex(raw[1]))


def listed_elsewhere(data: Path) -> Iterator[Device]:
    """Yield every USB device of many machines' udev dumps: identity and interfaces only."""
    for path in sorted((data / "usb/checkbox-udevadm").glob("*.txt")):
        for block in path.read_text(errors="replace").split("\n\n"):
            held = dict(re.findall(r"^E: ([A-Z_0-9]+)=(.*)$", block, re.MULTILINE))
            if held.get("DEVTYPE") != "usb_device" or "PRODUCT" not in held:
                continue
            vendor, product, _ = (f"{int(part, 16):04x}" for part in held["PRODUCT"].split("/"))
            triples = re.findall(
                r"([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2}):", held.get("ID_USB_INTERFACES", "")
            )
            name = held.get("DEVPATH", "/").rpartition("/")[2]
            yield Device(
                sysname=name,
                vendor=vendor,
                product=product,
                serial=held.get("ID_SERIAL_SHORT"),
                port=name.partition("-")[2],
                device_class=f"{int(held.get('TYPE', '0/0/0').split('/')[0]):02x}",
                interfaces=frozenset(":".join(triple) for triple in triples),
            )


def emulated(data: Path) -> Iterator[Device]:
    """Yield every device of fwupd's recordings: parsed descriptors as JSON."""
    for path in sorted((data / "usb/fwupd-emulation").glob("*.json")):
        for one in json.loads(path.read_text()).get("UsbDevices", []):
            name = str(one.get("PlatformId", ""))
            yield Device(
                sysname=name,
                vendor=f"{one.get('IdVendor', 0):04x}",
                product=f"{one.get('IdProduct', 0):04x}",
                serial="recorded",
                port=name.partition("-")[2],
                device_class=f"{one.get('DeviceClass', 0):02x}",
                interfaces=frozenset(
                    f"{i.get('InterfaceClass', 0):02x}:{i.get('InterfaceSubClass', 0):02x}:"
                    f"{i.get('InterfaceProtocol', 0):02x}"
                    for i in one.get("UsbInterfaces", [])
                ),
            )


def test_every_recorded_descriptor_is_read_to_the_last_byte(shared_data: Path) -> None:
    devices = list(recorded(shared_data))
    assert len(devices) >= 5
    assert [device.sysname for device in devices if device.interfaces is None] == []


def test_a_policy_that_does_not_name_a_device_admits_nothing_real(shared_data: Path) -> None:
    devices = [
        *recorded(shared_data),
        *listed_elsewhere(shared_data),
        *emulated(shared_data),
    ]
    assert len(devices) > 280
    assert [device for device in devices if decide(device, RULES).admit] == []
    assert [device for device in devices if decide(device, []).admit] == []


def test_a_real_device_is_admitted_only_when_it_is_listed_whole(shared_data: Path) -> None:
    admitted = 0
    for device in listed_elsewhere(shared_data):
        entry = {
            "name": "real",
            "vendor": device.vendor,
            "product": device.product,
            "serial": device.serial,
            "port": device.port,
            "interfaces": sorted(device.interfaces or ()),
        }
        try:
            rules = parse_devices([entry])
        except SekishoError:
            continue  # no serial number, a root hub, storage, or a name udev could misread
        assert decide(device, rules).admit
        admitted += 1
        assert not decide(replace(device, port="9.9", sysname="9-9.9"), rules).admit
        assert not decide(
            replace(device, interfaces=(device.interfaces or frozenset()) | {"08:06:50"}), rules
        ).admit
    assert admitted > 20


def test_no_real_storage_device_can_even_be_listed(shared_data: Path) -> None:
    disks = [
        device
        for device in listed_elsewhere(shared_data)
        if any(text.startswith("08:") for text in device.interfaces or ())
    ]
    assert len(disks) >= 25
    for device in disks:
        with pytest.raises(SekishoError):
            parse_devices([KEYBOARD | {"interfaces": sorted(device.interfaces or ())}])
