"""`sekisho devices`: what it says, what it refuses, and how it leaves."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_devices_attempts import stub
from test_devices_explain import BUS, KEYBOARD, keyboard, machines, record

from sekisho.cli import devices as shared
from sekisho.cli import main
from sekisho.core.errors import SekishoError
from sekisho.devices.attempts import interface_label
from sekisho.devices.explain import judge_dump
from sekisho.devices.export_db import parse_export_db
from sekisho.devices.pci import parse_functions
from sekisho.devices.policy import INTERFACE, Device, decide, parse_devices
from sekisho.devices.policy_file import parse_listed
from sekisho.devices.propose import PROPOSABLE, RefusedError, propose
from sekisho.host.cli import devices

POLICY = {"devices": [KEYBOARD], "interfaces": {"eth0": {"mac": "52:54:00:77:00:13"}}}
YAML = """\
# comment
- name: console-keyboard
  vendor: "0627"
  product: "0001"
  serial: SEKISHO-KBD-1
  port: "2"
  interfaces: ["03:01:01"]
"""
DESCRIBED = ["--vendor", "0627", "--product", "0001", "--serial", "SEKISHO-KBD-1", "--port", "2"]


def raw_descriptors(*triples: tuple[int, int, int]) -> bytes:
    body = b"".join(bytes([9, 4, i, 0, 0, *triple, 0]) for i, triple in enumerate(triples))
    head = bytes([18, 1, 0, 2, 0, 0, 0, 64, 0x27, 6, 1, 0, 0, 1, 1, 2, 3, 1])
    total = (9 + len(body)).to_bytes(2, "little")
    return head + bytes([9, 2, *total, len(triples), 1, 0, 0x80, 50]) + body


class Machine:
    """A pretended /sys and the files of a reader; runs the command."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys
        self.bus = root / "sys/bus/usb/devices"
        self.bus.mkdir(parents=True)
        self.policy = self.write("policy.json", json.dumps(POLICY))

    def write(self, name: str, text: str | bytes) -> str:
        path = self.root / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    def plug(
        self,
        name: str = "1-2",
        *triples: tuple[int, int, int],
        authorized: str = "1",
        serial: str = "SEKISHO-KBD-1",
        **strings: str,
    ) -> None:
        folder = self.bus / name
        folder.mkdir()
        held = {
            "idVendor": "0627",
            "idProduct": "0001",
            "serial": serial,
            "devpath": name.partition("-")[2],
            "authorized": authorized,
        }
        for key, text in (held | strings).items():
            (folder / key).write_text(text + "\n")
        (folder / "descriptors").write_bytes(raw_descriptors(*(triples or [(3, 1, 1)])))
        (folder / f"{name}:1.0").mkdir()
        (folder / f"{name}:1.0/authorized").write_text(authorized + "\n")

    def run(self, *words: str) -> tuple[int, str, str]:
        done = main.main(["devices", *words])
        told = self._capsys.readouterr()
        return done, told.out, told.err

    def json(self, *words: str) -> tuple[int, Any]:
        done, out, _ = self.run(*words, "--json")
        return done, json.loads(out)


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Machine:
    monkeypatch.setattr(devices, "SYSFS", tmp_path / "sys")
    monkeypatch.setattr(shared, "HOST_POLICY", tmp_path / "none.json")
    return Machine(tmp_path, capsys)


# -- pci -------------------------------------------------------------------------------------------


def test_what_the_machine_is_made_of_is_written_as_its_site_file_takes_it(here: Machine) -> None:
    assert here.run("pci")[0] == 2
    stub(here.root / "sys", "0000:00:01.1", "8086", "7010")
    done, out, _ = here.run("pci")
    assert done == 0
    assert parse_functions(yaml.safe_load(out)["pci"]) == {"0000:00:01.1 8086:7010"}
    assert "# 010180 pci-stub" in out
    _, told = here.json("pci")
    assert told["pci"] == [
        {"function": "0000:00:01.1 8086:7010", "class": "010180", "driver": "pci-stub"}
    ]


# -- list ------------------------------------------------------------------------------------------


def test_listing_names_verdict_and_rule_of_what_is_here(here: Machine) -> None:
    here.plug("1-2")
    here.plug("1-3", (8, 6, 0x50), authorized="0", serial="STICK")
    (here.bus / "usb1").mkdir()
    done, told = here.json("list", "--policy", here.policy)
    rows = {one["name"]: (one["verdict"], one["rule"], one["works"]) for one in told["devices"]}
    assert rows == {
        "1-2": ("admit", "console-keyboard", True),
        "1-3": ("deny", "deny:never", False),
    }
    assert done == 0


def test_a_denied_device_that_works_is_a_breach(here: Machine) -> None:
    here.plug("1-3", (8, 6, 0x50))
    done, _, said = here.run("list", "--policy", here.policy)
    assert done == 1
    assert "works although denied 拒否なのに動作中: 1-3" in said


def test_without_a_policy_nothing_is_listed_and_nothing_is_claimed(here: Machine) -> None:
    here.plug("1-2", authorized="0")
    done, out, said = here.run("list")
    assert done == 2
    assert "deny 拒否" in out
    assert "no policy" in said


def test_the_clone_of_a_keyboard_in_use_is_one_too_many(here: Machine) -> None:
    here.plug("1-2")
    here.plug("2-2", authorized="0")
    _, told = here.json("list", "--policy", here.policy)
    assert [one["rule"] for one in told["devices"]] == ["console-keyboard", "deny:count"]


def test_hostile_names_are_shown_escaped(here: Machine) -> None:
    here.plug("1-2", manufacturer="\x1b]0;owned\x07", product="\u202egnp\nx", serial="\x1b[2J")
    for words in (("list",), ("list", "--json"), ("explain", "1-2")):
        _, out, _ = here.run(*words, "--policy", here.policy)
        assert not set("\x1b\x07\u202e") & set(out)
        assert "owned" in out


# -- explain ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interfaces", "code", "rule"),
    [
        ("03:01:01", 0, "console-keyboard"),
        ("03:01:01,03:01:02", 1, "deny:interfaces"),
        ("03:01:01,08:06:50", 1, "deny:never"),
        (None, 2, "deny:unreadable"),
    ],
)
def test_a_described_device_is_judged(
    here: Machine, interfaces: str | None, code: int, rule: str
) -> None:
    words = [*DESCRIBED, *(["--interfaces", interfaces] if interfaces else [])]
    done, told = here.json("explain", *words, "--policy", here.policy)
    assert (done, told["devices"][0]["rule"]) == (code, rule)


@pytest.mark.parametrize("target", ["1-2", "2", "/sys/bus/usb/devices/1-2"])
def test_a_present_device_is_found_by_name_port_and_place(here: Machine, target: str) -> None:
    here.plug("1-2")
    here.plug("1-3", (8, 6, 0x50), serial="STICK")
    done, told = here.json("explain", target, "--policy", here.policy)
    assert (done, [one["name"] for one in told["devices"]]) == (0, ["1-2"])
    assert here.run("explain", "1-3", "--policy", here.policy)[0] == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("1-2", "--vendor", "0627"),
        ("--export-db", "x", "--vendor", "0627"),
        ("--vendor", "627"),
        ("--interfaces", "03:01"),
        ("--port", "../1"),
        ("1-9",),
        ("--export-db", "/nonexistent"),
        ("--export-db", "/dev/zero"),
        ("--no-such-option",),
        ("--vendor", "0627", "--policy", "/nonexistent"),
    ],
)
def test_what_was_not_understood_leaves_with_three(here: Machine, words: tuple[str, ...]) -> None:
    done, out, said = here.run("explain", *words)
    assert (done, out) == (3, "")
    assert said.strip()


def test_a_dump_is_judged_whole_in_a_stable_order(here: Machine) -> None:
    disk = record(f"{BUS}/1-3/1-3:1.0/block/sda", SUBSYSTEM="block", DEVTYPE="disk")
    stick = keyboard(f"{BUS}/1-3", ID_USB_INTERFACES=":080650:")
    dump = here.write("dump.txt", f"{disk}\n{keyboard()}\n{stick}")
    done, told = here.json("explain", "--export-db", dump, "--policy", here.policy)
    assert done == 0
    assert [(one["name"], one["rule"]) for one in told["devices"]] == [
        ("1-2", "console-keyboard"),
        ("1-3", "deny:never"),
        ("sda", "deny:refused-parent"),
    ]
    assert told["counts"]["admitted"] == 1
    reverse = here.write("dump2.txt", f"{stick}\n{keyboard()}\n{disk}")
    assert here.json("explain", "--export-db", reverse, "--policy", here.policy)[1] == told
    assert here.run("explain", "1-3", "--export-db", dump, "--policy", here.policy)[0] == 1


def test_a_dump_may_come_by_standard_input(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(keyboard().encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    done, told = here.json("explain", "--export-db", "-", "--policy", here.policy)
    assert (done, told["devices"][0]["verdict"]) == (0, "admit")


def test_a_policy_that_lets_a_carrier_in_is_a_breach(here: Machine) -> None:
    own = KEYBOARD | {"interfaces": ["ff:00:00"]}
    policy = here.write("own.json", json.dumps([own]))
    dump = here.write("dump.txt", keyboard(ID_USB_INTERFACES=":ff0000:"))
    done, told = here.json("explain", "--export-db", dump, "--policy", policy)
    assert (done, told["counts"]["carriers_admitted"]) == (1, 1)


def test_a_device_that_cannot_be_judged_is_two(here: Machine) -> None:
    dump = here.write("dump.txt", keyboard() + "garbage\n")
    done, told = here.json("explain", "--export-db", dump, "--policy", here.policy)
    assert (done, told["devices"][0]["verdict"], told["stray_lines"]) == (2, "deny", 1)


# -- lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(POLICY),
        json.dumps([KEYBOARD]),
        json.dumps({"sekisho_machine": POLICY}),
        YAML,
        "devices:\n" + YAML,
        "sekisho_machine:\n  devices:\n" + YAML.replace("\n", "\n    ").rstrip(" "),
    ],
)
def test_a_list_is_read_in_each_of_its_forms(text: str) -> None:
    assert parse_listed(text.encode(), "x").rules == parse_devices([KEYBOARD])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "devices",
        "{}",
        '{"devices": {}}',
        '{"devices": []',
        '{"devices": [], "devices": []}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "- " * 40 + "x",
        YAML.replace('"0627"', "0627"),
        YAML.replace('"2"', "2"),
        YAML.replace("- name", "- &a name"),
        "a: &a [1]\nb: *a\n",
        YAML + "  colour: red\n",
        YAML + "  count: 0\n",
        YAML + '  count: "2"\n',
        YAML.replace("03:01:01", "08:06:50"),
    ],
)
def test_a_garbled_list_is_refused(text: str) -> None:
    with pytest.raises(SekishoError):
        parse_listed(text.encode(), "x")


def test_a_count_is_read_from_yaml() -> None:
    assert parse_listed((YAML + "  count: 2\n").encode(), "x").rules[0].count == 2


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_a_list_of_any_bytes_is_read_or_refused(raw: bytes) -> None:
    said = ""
    try:
        parse_listed(raw, "x")
    except SekishoError as refused:
        said = refused.diagnostics()
    assert said.replace("\n", "").isprintable()


# -- propose ---------------------------------------------------------------------------------------


def test_a_proposal_is_a_list_that_admits_the_device_and_nothing_near_it(here: Machine) -> None:
    here.plug("1-2")
    done, text, _ = here.run("propose", "1-2", "--name", "desk-keyboard")
    assert done == 0
    policy = here.write("rule.yml", text)
    assert here.json("explain", "1-2", "--policy", policy)[0] == 0
    assert "提案" in text
    here.plug("1-3")
    assert here.run("explain", "1-3", "--policy", policy)[0] == 1


def test_a_hashed_proposal_does_not_tell_the_serial_number(here: Machine) -> None:
    here.plug("1-2", serial="秘密 \x1b 1")
    assert here.run("propose", "1-2")[0] == 1  # a site file cannot hold it as it is
    done, text, _ = here.run("propose", "1-2", "--hash-serial")
    assert done == 0
    assert "秘密" not in text
    assert here.run("explain", "1-2", "--policy", here.write("r.yml", text))[0] == 0


@pytest.mark.parametrize(
    ("triple", "why"),
    [
        ((8, 6, 0x50), "stores files"),
        ((6, 1, 1), "MTP"),
        ((2, 6, 0), "network"),
        ((0xE0, 1, 3), "network"),
        ((0xFF, 0, 0), "protocol of its own"),
        ((7, 1, 2), "printer"),
        ((0xFE, 1, 1), "unknown kind"),
        ((0, 0, 0), "unknown kind"),
        ((9, 0, 0), "hub"),
        ((1, 1, 0), "sound"),
    ],
)
def test_what_can_carry_files_gets_no_rule_alone_or_beside_a_keyboard(
    here: Machine, triple: tuple[int, int, int], why: str
) -> None:
    here.plug("1-2", triple)
    here.plug("1-3", (3, 1, 1), triple)
    for name in ("1-2", "1-3"):
        done, out, said = here.run("propose", name)
        assert (done, out) == (1, "")
        assert why in said
        assert "規則の案は作りません" in said


def test_what_cannot_be_told_apart_or_is_not_known_gets_no_rule(here: Machine) -> None:
    here.plug("1-2", serial="")
    assert here.run("propose", "1-2")[0] == 1
    here.plug("1-3")
    (here.bus / "1-3/descriptors").write_bytes(b"")
    assert here.run("propose", "1-3")[0] == 2
    disk = record("/devices/pci/block/sda", SUBSYSTEM="block", DEVTYPE="disk")
    dump = here.write("dump.txt", disk + "\n" + keyboard(f"{BUS}/1-4", ID_MTP_DEVICE="1"))
    assert here.run("propose", "sda", "--export-db", dump)[0] == 1
    assert here.run("propose", "1-4", "--export-db", dump)[0] == 1
    assert here.run("propose", "1-9")[0] == 3
    assert here.run("propose")[0] == 3
    assert here.run("propose", "1-3", "--name", "Not A Name")[0] in (2, 3)


def test_a_proposal_overwrites_nothing(here: Machine) -> None:
    here.plug("1-2")
    out = here.root / "rule.yml"
    assert here.run("propose", "1-2", "--out", str(out))[0] == 0
    before = out.read_text()
    assert here.run("propose", "1-2", "--out", str(out))[0] == 3
    assert out.read_text() == before
    assert parse_listed(out.read_bytes(), "x").rules[0].name == "keyboard-2"


@given(
    st.frozensets(st.from_regex(INTERFACE, fullmatch=True), max_size=4),
    st.text(max_size=70),
    st.text(max_size=30),
    st.none() | st.binary(min_size=16, max_size=16),
)
def test_a_proposal_never_names_more_than_input_and_cards(
    interfaces: frozenset[str], serial: str, title: str, key: bytes | None
) -> None:
    device = Device("1-2", "0627", "0001", serial, "2", "00", interfaces)
    try:
        text = propose(device, title=title, key=key)
    except RefusedError:
        return
    rules = parse_listed(text.encode(), "x").rules
    assert {interface_label(code) for code in rules[0].interfaces} <= PROPOSABLE
    assert decide(device, rules).admit
    assert len(rules) == 1


def test_of_all_real_devices_only_input_and_cards_get_a_rule(shared_data: Path) -> None:
    given_out, refused = [], 0
    for _, dump in machines(shared_data):
        for told in judge_dump(dump, (), {}):
            try:
                propose(told.device, title=told.title, label=told.label, key=bytes(16))
            except RefusedError:
                refused += 1
            else:
                given_out.append(told.label)
    assert refused > 3000
    assert given_out
    assert set(given_out) <= PROPOSABLE


def test_a_dump_of_the_parser_is_the_dump_of_the_file(here: Machine) -> None:
    path = here.write("dump.txt", keyboard())
    dump = parse_export_db(Path(path).read_bytes(), path)
    assert list(dump.records) == [f"{BUS}/1-2"]
