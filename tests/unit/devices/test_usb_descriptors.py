"""Raw descriptors: every byte accounted for, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.devices.descriptors import DescriptorError, parse_descriptors

# A keyboard with a second interface, recorded from a real one (two HID interfaces).
KEYBOARD = bytes.fromhex(
    "1201100100000008D904031610030102000109023B00020100A0320904000001030101000921100100012"
    "23E000705810308000A0904010001030000000921100100012265000705820308000A"
)


def interface(number: int, triple: tuple[int, int, int], *, alternate: int = 0) -> bytes:
    return bytes([9, 4, number, alternate, 0, *triple, 0])


def configuration(body: bytes, interfaces: int, *, length: int | None = None) -> bytes:
    total = 9 + len(body) if length is None else length
    return bytes([9, 2, *total.to_bytes(2, "little"), interfaces, 1, 0, 0x80, 50]) + body


def device(*configurations: bytes, device_class: int = 0, count: int | None = None) -> bytes:
    number = len(configurations) if count is None else count
    head = bytes([18, 1, 0, 2, device_class, 0, 0, 64, 0x27, 6, 1, 0, 0, 1, 1, 2, 3, number])
    return head + b"".join(configurations)


def test_a_real_keyboard_is_read() -> None:
    told = parse_descriptors(KEYBOARD)
    assert (told.vendor, told.product, told.device_class) == ("04d9", "1603", "00")
    assert told.interfaces == {"03:01:01", "03:00:00"}


def test_a_second_configuration_cannot_hide_a_disk() -> None:
    raw = device(
        configuration(interface(0, (3, 1, 1)), 1), configuration(interface(0, (8, 6, 0x50)), 1)
    )
    assert parse_descriptors(raw).interfaces == {"03:01:01", "08:06:50"}


def test_an_alternate_setting_cannot_hide_a_disk() -> None:
    body = interface(0, (3, 1, 1)) + interface(0, (8, 6, 0x62), alternate=1)
    assert "08:06:62" in parse_descriptors(device(configuration(body, 1))).interfaces


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "0 bytes"),
        (KEYBOARD[:17], "17 bytes"),
        (KEYBOARD[:-1], "ends outside"),
        (KEYBOARD + b"\0", "after the last"),
        (device(), "no configuration"),
        (device(configuration(interface(0, (3, 1, 1)), 2)), "2 interfaces announced"),
        (device(configuration(b"", 0)), "0 interfaces"),
        (device(configuration(interface(0, (3, 1, 1)), 1), count=2), "no configuration"),
        (device(configuration(interface(0, (3, 1, 1)) + b"\1\4", 1)), "length 1"),
        (device(configuration(interface(0, (3, 1, 1)) + b"\0\0", 1)), "length 0"),
        (device(configuration(bytes([8, 4, 0, 0, 0, 3, 1, 1]), 1)), "an interface of length 8"),
        (device(configuration(interface(0, (3, 1, 1)) + b"\xff\4", 1)), "length 255"),
        (device(configuration(interface(0, (3, 1, 1)), 1, length=8)), "ends outside"),
        (
            device(configuration(interface(0, (3, 1, 1)) + configuration(b"", 0), 1)),
            "inside another",
        ),
    ],
)
def test_what_does_not_add_up_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(DescriptorError, match=why):
        parse_descriptors(raw)


TRIPLES = st.tuples(*[st.integers(0, 255)] * 3)


@given(
    st.lists(st.lists(TRIPLES, min_size=1, max_size=8), min_size=1, max_size=4),
    st.binary(max_size=6),
)
def test_every_interface_of_every_configuration_is_seen(
    wanted: list[list[tuple[int, int, int]]], extra: bytes
) -> None:
    noise = bytes([len(extra) + 2, 0x24]) + extra  # class-specific descriptors are passed over
    raw = device(
        *(
            configuration(b"".join(interface(i, t) + noise for i, t in enumerate(one)), len(one))
            for one in wanted
        )
    )
    assert parse_descriptors(raw).interfaces == {
        "{:02x}:{:02x}:{:02x}".format(*triple) for one in wanted for triple in one
    }


@given(st.binary(max_size=120))
def test_no_bytes_crash_the_reader(raw: bytes) -> None:
    try:
        parse_descriptors(raw)
    except DescriptorError:
        return


@given(st.integers(0, len(KEYBOARD) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_invents_less(at: int, flip: int) -> None:
    """Whatever one byte says, the reader refuses or accounts for as many interfaces."""
    raw = bytearray(KEYBOARD)
    raw[at] ^= flip
    try:
        told = parse_descriptors(bytes(raw))
    except DescriptorError:
        return
    assert 1 <= len(told.interfaces) <= 2


@given(st.integers(0, len(KEYBOARD) - 1))
def test_a_cut_is_always_refused(length: int) -> None:
    with pytest.raises(DescriptorError):
        parse_descriptors(KEYBOARD[:length])
