"""Garbled descriptors: what a lenient reader sees, the strict one sees, or refuses the device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labkit.models import MODELS, Model, keyboard

from sekisho.devices.attempts import descriptor_interfaces
from sekisho.devices.descriptors import DescriptorError, parse_descriptors
from sekisho.devices.policy import NEVER, Device, decide, device_from_sysfs, parse_devices

KEYBOARD = {
    "name": "console-keyboard",
    "vendor": "0627",
    "product": "0001",
    "serial": "SEKISHO-KBD-1",
    "port": "1",
    "interfaces": ["03:01:01"],
}
RULES = parse_devices([KEYBOARD])
HERE = {"serial": "SEKISHO-KBD-1", "devpath": "1"}


def descriptors(model: Model) -> bytes:
    """Return what the kernel shows in sysfs: the device, then every configuration."""
    whole = [model.configuration(index) for index in range(len(model.configurations))]
    return model.device() + b"".join(whole)


STAGES = {
    **MODELS,
    **{f"{name}, later": model.then for name, model in MODELS.items() if model.then is not None},
}
LISTED = Model((keyboard(0),), vendor=0x0627, product=0x0001, serial="SEKISHO-KBD-1")
SEEDS = [descriptors(LISTED), *(descriptors(model) for model in STAGES.values())]


@st.composite
def garbled(draw: st.DrawFn) -> bytes:
    """Draw a device's descriptors with a few bytes changed, cut, doubled or put in."""
    raw = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        match draw(st.integers(0, 3)):
            case 0 if raw:
                raw[at] = draw(st.integers(0, 255))
            case 1:
                del raw[at : at + draw(st.integers(1, 12))]
            case 2:
                raw[at:at] = raw[at : at + draw(st.integers(1, 30))]
            case _:
                raw[at:at] = draw(st.binary(max_size=12))
    return bytes(raw)


@pytest.mark.parametrize("name", STAGES)
def test_a_model_of_the_lab_is_read_and_only_the_keyboard_itself_is_listed(name: str) -> None:
    device = device_from_sysfs("1-1", HERE, descriptors(STAGES[name]))
    assert device.interfaces is not None
    assert decide(device, RULES).admit == (name == "changing")  # its first stage is the keyboard


@given(garbled())
def test_what_a_lenient_reader_sees_is_seen_or_the_device_is_refused(raw: bytes) -> None:
    try:
        told = parse_descriptors(raw)
    except DescriptorError:
        return
    assert set(descriptor_interfaces(raw)) <= set(told.interfaces)


@given(garbled())
def test_no_garbled_device_with_a_forbidden_interface_is_let_in(raw: bytes) -> None:
    if any(code[:2] in NEVER for code in descriptor_interfaces(raw)):
        assert not decide(device_from_sysfs("1-1", HERE, raw), RULES).admit


def identities(data: Path) -> Iterator[tuple[str, str]]:
    """Yield vendor and product of every device that some list says carries files or changes."""
    for name in ("69-libmtp.hwdb", "20-libgphoto2-6.hwdb"):
        text = (data / "usb" / name).read_text(errors="replace")
        for found in re.findall(r"^usb:v([0-9A-F]{4})p([0-9A-F]{4})", text, re.MULTILINE):
            yield found[0].lower(), found[1].lower()
    for path in (data / "usb/modeswitch").iterdir():
        found_name = re.match(r"([0-9a-f]{4}):([0-9a-f]{4})", path.name)
        if found_name:
            yield found_name[1], found_name[2]
    alias = (data / "usb/debian-6.1.0-56-amd64.usb.modules.alias").read_text()
    carriers = r"usb_storage|uas|ums_\w+|usbnet|cdc_\w+|rndis_\w+|ipheth|usblp|\w*serial|btusb"
    pattern = rf"^alias usb:v([0-9A-F]{{4}})p([0-9A-F]{{4}})\S* (?:{carriers})$"
    for vendor, product in re.findall(pattern, alias, re.MULTILINE):
        yield vendor.lower(), product.lower()


SETS = (
    {"03:01:01"},
    {"06:01:01"},
    {"08:06:50"},
    {"ff:ff:ff"},
    {"03:01:01", "08:06:50"},
    {"02:06:00"},
)


def test_no_known_carrier_is_let_in_by_a_list_that_does_not_name_it(shared_data: Path) -> None:
    """Players, cameras, modems: at the listed port, with the listed serial, whatever they say."""
    seen = set(identities(shared_data))
    assert len(seen) > 3000
    for vendor, product in seen - {("0627", "0001")}:
        for interfaces in SETS:
            device = Device(
                "1-1", vendor, product, "SEKISHO-KBD-1", "1", "00", frozenset(interfaces)
            )
            assert not decide(device, RULES).admit
