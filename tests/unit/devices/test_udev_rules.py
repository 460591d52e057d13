"""The udev rules: only what the site lists, and the same list read back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.core.errors import SekishoError
from sekisho.devices.policy import (
    HEX4,
    INTERFACE,
    NAME,
    NEVER,
    PORT,
    SERIAL,
    SERIAL_HASH,
    hash_serial,
)
from sekisho.devices.udev_rules import parse, render

KEYBOARD = {
    "name": "console-keyboard",
    "vendor": "0627",
    "product": "0001",
    "serial": "SEKISHO-KBD-1",
    "port": "1",
    "interfaces": ["03:01:01"],
}
INPUT = st.from_regex(INTERFACE, fullmatch=True).filter(lambda text: text[:2] not in NEVER)
DEVICE = st.fixed_dictionaries(
    {
        "name": st.from_regex(NAME, fullmatch=True),
        "vendor": st.from_regex(HEX4, fullmatch=True),
        "product": st.from_regex(HEX4, fullmatch=True),
        "serial": st.from_regex(SERIAL, fullmatch=True),
        "port": st.from_regex(PORT, fullmatch=True),
        "interfaces": st.lists(INPUT, min_size=1, max_size=4, unique=True).map(sorted),
    }
)
HASHED = st.builds(
    lambda one, hashed, count: (
        {key: value for key, value in one.items() if key != "serial"}
        | {"serial_hash": hashed, "count": count}
    ),
    DEVICE,
    st.from_regex(SERIAL_HASH, fullmatch=True),
    st.integers(2, 16),
)
LISTS = st.lists(
    DEVICE | HASHED,
    max_size=4,
    unique_by=(
        lambda one: one["name"],
        lambda one: (one["vendor"], one["product"], one.get("serial"), one["port"]),
    ),
)


def test_nothing_but_the_helper_ever_admits() -> None:
    text = render([KEYBOARD])
    assert 'ATTR{authorized}="1"' not in text
    assert text.count('RUN+="/usr/lib/sekisho/usb-admit $sys$devpath"') == 1


def test_an_empty_list_still_shuts_what_somebody_let_in() -> None:
    text = render([])
    assert 'ENV{SEKISHO_DEVICE}=="", ATTR{authorized}!="0", ATTR{authorized}="0"' in text
    assert "idVendor" not in text


def test_all_four_attributes_stand_in_one_line() -> None:
    line = next(line for line in render([KEYBOARD]).splitlines() if "idVendor" in line)
    assert line == (
        'ATTR{idVendor}=="0627", ATTR{idProduct}=="0001", ATTR{serial}=="SEKISHO-KBD-1", '
        'ATTR{devpath}=="1", ENV{SEKISHO_DEVICE}="console-keyboard"'
    )


def test_a_serial_known_by_its_hash_is_left_to_the_helper() -> None:
    entry = {key: value for key, value in KEYBOARD.items() if key != "serial"}
    hashed = hash_serial("SEKISHO-KBD-1", bytes(16))
    text = render([entry | {"serial_hash": hashed, "count": 2}])
    assert 'ATTR{serial}=="?*"' in text
    assert f"# console-keyboard: 03:01:01 count=2 serial_hash={hashed}\n" in text
    assert "SEKISHO-KBD-1" not in text


@given(LISTS)
def test_the_rules_read_back_are_the_list(devices: list[dict[str, Any]]) -> None:
    assert parse(render(devices)) == devices


@given(st.dictionaries(st.sampled_from(sorted(KEYBOARD)), st.text(max_size=12)))
def test_no_hostile_text_reaches_a_rule(change: dict[str, str]) -> None:
    """Whatever stands in a field, the rules hold the lines of one device, or none at all."""
    try:
        text = render([KEYBOARD | change])
    except SekishoError:
        return
    assert text.count("\n") == render([KEYBOARD]).count("\n")
    assert text.count('"') == render([KEYBOARD]).count('"')


@given(LISTS, st.integers(0, 10_000), st.characters(codec="utf-8"))
def test_any_change_of_a_rules_file_is_noticed(
    devices: list[dict[str, Any]], at: int, char: str
) -> None:
    text = render(devices)
    at %= len(text)
    changed = text[:at] + char + text[at + 1 :]
    if changed == text:
        return
    try:
        told = parse(changed)
    except SekishoError:
        return
    assert told != devices  # another device, said plainly: judging compares it with the site


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + 'ATTR{authorized}="1"\n',
        lambda text: 'ATTR{authorized}="1"\n' + text,
        lambda text: text.replace('GOTO="sekisho_end"\nSUB', 'ATTR{authorized}="1"\nSUB'),
        lambda text: text.replace(', ATTR{serial}=="SEKISHO-KBD-1"', ""),
        lambda text: text.replace("usb-admit", "../../tmp/usb-admit"),
        lambda text: text.replace("# console", "  # console"),
        lambda _: "",
    ],
)
def test_a_file_that_render_would_not_write_is_refused(change: Any) -> None:
    with pytest.raises(SekishoError):
        parse(change(render([KEYBOARD])))


@pytest.mark.process
def test_udev_itself_accepts_the_rules(tmp_path: Path) -> None:
    udevadm = shutil.which("udevadm", path="/usr/sbin:/sbin:/usr/bin")
    if udevadm is None:
        pytest.skip("udev is not installed here")
    known = subprocess.run([udevadm, "verify", "--help"], capture_output=True, check=False)
    if known.returncode != 0:
        pytest.skip("this udev cannot verify rules (before version 254)")
    path = tmp_path / "60-sekisho-usb.rules"
    path.write_text(render([KEYBOARD, KEYBOARD | {"name": "two", "port": "3-1.2"}]))
    done = subprocess.run(
        [udevadm, "verify", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
