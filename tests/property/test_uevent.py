"""Announcements of devices: whatever bytes come, a value that stays below /sys, or an error."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from sekisho.core.errors import SekishoError
from sekisho.devices.uevent import parse_uevent

PIECE = st.one_of(
    st.binary(max_size=12).filter(lambda data: b"\0" not in data),
    st.sampled_from([b"..", b".", b"", b"/", b"devices", b"usb1", b"=", b"@"]),
)


@st.composite
def announcements(draw: st.DrawFn) -> tuple[bytes, bytes, list[bytes]]:
    path = b"/" + b"/".join(draw(st.lists(PIECE, max_size=5)))
    action = draw(st.sampled_from([b"add", b"remove", b"", b"a@b"]))
    keys = st.sampled_from([b"ACTION", b"DEVPATH", b"SUBSYSTEM", b"DEVTYPE", b"PRODUCT", b"DEVNUM"])
    more = draw(st.lists(st.tuples(keys, PIECE).map(b"=".join), max_size=6))
    return action, path, more


@given(announcements())
@example((b"add", b"/devices/../../etc", []))
@example((b"add", b"/devices/usb1/1-1", [b"SUBSYSTEM=usb", b"SUBSYSTEM=block"]))
def test_the_kernels_own_words_are_read_and_later_ones_change_nothing(
    told: tuple[bytes, bytes, list[bytes]],
) -> None:
    action, path, more = told
    fields = [action + b"@" + path, b"ACTION=" + action, b"DEVPATH=" + path, *more]
    data = b"".join(field + b"\0" for field in fields)
    stays = not {b"", b".", b".."} & set(path[1:].split(b"/"))
    try:
        event = parse_uevent(data)
    except SekishoError:
        assert not (action and stays)
        return
    assert action
    assert stays
    assert (os.fsencode(event.action), os.fsencode(event.path)) == (action, path)
    assert not os.path.relpath(Path("/sys") / event.path[1:], "/sys").startswith("..")
    firsts = [one for one in more if one.startswith(b"SUBSYSTEM=")]
    assert os.fsencode(event.subsystem) == (firsts[0].partition(b"=")[2] if firsts else b"")
    attempt = event.attempt()
    assert all(text.isprintable() for text in (attempt.path, attempt.name, attempt.vendor))
    assert event.number is None or event.number[1] >= 0


@given(st.binary(max_size=200))
@example(b"add@/devices/a\0ACTION=add\0DEVPATH=/devices/a\0SUBSYSTEM=usb")  # cut off
def test_other_bytes_are_an_error(data: bytes) -> None:
    said = ""
    try:
        parse_uevent(data)
    except SekishoError as error:
        said = error.diagnostics()
    assert data.endswith(b"\0") or said
    assert len(said) < 1000
