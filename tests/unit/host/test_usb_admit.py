"""The helper at work on a pretended /sys: what it admits, shuts and refuses to touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sekisho.core.errors import SekishoError
from sekisho.devices.exception import parse_exception
from sekisho.devices.policy import hash_serial
from sekisho.devices.udev_rules import render
from sekisho.host.devices import admit as usb_admit
from sekisho.host.devices import exception_state, usb_policy
from siteworld import policy

# It writes relative to an open directory, which the tests' own guard cannot follow.
pytestmark = pytest.mark.process

KEYBOARD = {
    "name": "console-keyboard",
    "vendor": "0627",
    "product": "0001",
    "serial": "SEKISHO-KBD-1",
    "port": "1",
    "interfaces": ["03:01:01"],
}


def descriptors(*triples: tuple[int, int, int]) -> bytes:
    body = b"".join(bytes([9, 4, i, 0, 0, *triple, 0]) for i, triple in enumerate(triples))
    head = bytes([18, 1, 0, 2, 0, 0, 0, 64, 0x27, 6, 1, 0, 0, 1, 1, 2, 3, 1])
    total = (9 + len(body)).to_bytes(2, "little")
    return head + bytes([9, 2, *total, len(triples), 1, 0, 0x80, 50]) + body


class Sys:
    """A pretended /sys/bus/usb/devices, policy and rules."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bus = root / "devices"
        self.bus.mkdir()
        self.policy = root / "policy.json"
        self.rules = root / "60.rules"
        self.parameter = root / "authorized_default"
        self.parameter.write_text("-1\n")
        for number in (1, 2):
            folder = self.bus / f"usb{number}"
            folder.mkdir()
            (folder / "authorized").write_text("1\n")
            (folder / "authorized_default").write_text("1\n")
        self.said: list[str] = []
        monkeypatch.setattr(usb_admit, "BUS", self.bus)
        monkeypatch.setattr(usb_admit, "LOCK", root / "usb.lock")
        monkeypatch.setattr(usb_admit, "PARAMETER", self.parameter)
        monkeypatch.setattr(usb_policy, "POLICY", self.policy)
        monkeypatch.setattr(usb_admit, "RULES", str(self.rules))
        self.seen = root / "console.seen"
        self.consoles = root / "consoles"
        self.consoles.write_text("tty0 ttyS0\n")
        self.run = root / "exception"
        monkeypatch.setattr(usb_policy, "SEEN", self.seen)
        monkeypatch.setattr(usb_policy, "CONSOLE", self.consoles)
        monkeypatch.setattr(exception_state.read_open, "__defaults__", (self.run,))
        monkeypatch.setattr(usb_admit.syslog, "syslog", lambda _level, text: self.said.append(text))
        monkeypatch.setattr(usb_admit.read_policy, "__defaults__", (self.policy,), raising=True)
        self.write_policy()

    def write_policy(self, **change: Any) -> None:
        told = policy("core-1") | {"devices": [KEYBOARD], "console": "serial"} | change
        self.policy.write_text(json.dumps(told))
        self.policy.chmod(0o644)

    def plug(
        self,
        name: str = "1-1",
        *,
        serial: str = "SEKISHO-KBD-1",
        raw: bytes | None = None,
        authorized: str = "0",
    ) -> Path:
        folder = self.bus / name
        folder.mkdir()
        (folder / "authorized").write_text(f"{authorized}\n")
        (folder / "serial").write_text(f"{serial}\n")
        (folder / "devpath").write_text(f"{name.partition('-')[2]}\n")
        (folder / "descriptors").write_bytes(descriptors((3, 1, 1)) if raw is None else raw)
        return folder

    def state(self, name: str) -> str:
        return (self.bus / name / "authorized").read_text().strip()


@pytest.fixture
def sys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sys:
    return Sys(tmp_path, monkeypatch)


def test_the_listed_keyboard_is_admitted(sys: Sys) -> None:
    assert usb_admit.admit([str(sys.plug())]) == 0
    assert sys.state("1-1") == "1"
    assert any("admitted 1-1" in line for line in sys.said)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("1-2", {}),
        ("1-1", {"serial": "SEKISHO-KBD-2"}),
        ("1-1", {"raw": descriptors((3, 1, 1), (8, 6, 0x50))}),
        ("1-1", {"raw": descriptors((8, 6, 0x62))}),
        ("1-1", {"raw": b""}),
        ("1-1", {"raw": descriptors((3, 1, 1))[:-1]}),
    ],
)
@pytest.mark.parametrize("before", ["0", "1"])
def test_anything_else_is_shut_whatever_it_was(
    sys: Sys, name: str, more: dict[str, Any], before: str
) -> None:
    folder = sys.plug(name, authorized=before, **more)
    assert usb_admit.admit([str(folder)]) == 1
    assert sys.state(name) == "0"
    assert sys.said


def test_without_a_policy_nothing_is_admitted(sys: Sys) -> None:
    sys.policy.unlink()
    assert usb_admit.admit([str(sys.plug())]) == 1
    assert sys.state("1-1") == "0"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"devices": 1}', '{"devices": [{}]}', "[" * 9999])
def test_a_garbled_policy_admits_nothing(sys: Sys, text: str) -> None:
    sys.policy.write_text(text)
    assert usb_admit.admit([str(sys.plug())]) == 1
    assert sys.state("1-1") == "0"


def test_a_policy_that_others_may_write_admits_nothing(sys: Sys) -> None:
    sys.policy.chmod(0o666)
    assert usb_admit.admit([str(sys.plug())]) == 1


def test_a_device_that_is_gone_is_told_apart(sys: Sys) -> None:
    assert usb_admit.admit([str(sys.bus / "1-9")]) == 2


def test_enforcing_shuts_every_bus_and_settles_what_is_attached(
    sys: Sys, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.plug("1-1")
    sys.plug("2-1", serial="STICK", raw=descriptors((8, 6, 0x50)), authorized="1")
    (sys.bus / "2-1:1.0").mkdir()
    assert usb_admit.enforce([]) == 0
    assert (sys.state("1-1"), sys.state("2-1")) == ("1", "0")
    assert sys.state("usb1") == "1"  # a root hub is part of the machine
    assert {path.read_text() for path in sys.bus.glob("usb*/authorized_default")} == {"0"}
    assert sys.parameter.read_text() == "0"
    assert "shut 2-1" in capsys.readouterr().out
    assert usb_admit.enforce([]) == 0
    assert capsys.readouterr().out == ""  # a second run changes nothing


def test_a_check_says_what_would_change_and_changes_nothing(
    sys: Sys, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.plug("2-1", serial="STICK", raw=descriptors((8, 6, 0x50)), authorized="1")
    assert usb_admit.enforce(["--check"]) == 0
    said = capsys.readouterr().out
    assert "shut 2-1" in said
    assert "deny by default" in said
    assert sys.state("2-1") == "1"
    assert sys.parameter.read_text() == "-1\n"


def test_enforcing_waits_until_the_rules_are_in_force(sys: Sys) -> None:
    sys.plug("2-1", serial="STICK", authorized="1")
    assert usb_admit.enforce(["--if-in-force"]) == 0
    assert sys.state("2-1") == "1"
    sys.rules.write_text(render([KEYBOARD]))
    assert usb_admit.enforce(["--if-in-force"]) == 0
    assert sys.state("2-1") == "0"


@pytest.mark.parametrize(
    "change",
    [
        {"devices": [], "console": "listed-keyboard"},
        {"console": "none"},
        {"console": "listed-keyboard"},
        {"console": "out-of-band"},
        {"console": "out-of-band", "console_proof": {"reference": ""}},
        {"devices_mode": "off"},
        {"console": None},
        {"console": "listed-keyboard", "devices": [KEYBOARD | {"interfaces": ["0b:00:00"]}]},
    ],
)
def test_nothing_is_enforced_without_a_way_in_at_the_console(
    sys: Sys, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sys.write_policy(**change)
    sys.plug("2-1", serial="ADMIN-KEYBOARD", authorized="1")
    assert usb_admit.enforce([]) == 2
    assert sys.state("2-1") == "1"
    assert sys.parameter.read_text() == "-1\n"
    assert "nothing changed" in capsys.readouterr().err


def test_a_serial_console_is_a_way_in(sys: Sys) -> None:
    sys.write_policy(console="serial", devices=[])
    sys.plug("1-1", authorized="1")
    assert usb_admit.enforce([]) == 0
    assert sys.state("1-1") == "0"


def test_a_policy_of_another_owner_is_refused(sys: Sys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usb_policy.os, "geteuid", lambda: 4711)
    with pytest.raises(SekishoError):
        usb_admit.read_policy(sys.policy)


def test_a_clone_on_another_bus_is_shut_while_the_listed_one_is_in_use(sys: Sys) -> None:
    assert usb_admit.admit([str(sys.plug("2-1"))]) == 0
    assert usb_admit.admit([str(sys.plug("1-1"))]) == 1
    assert (sys.state("1-1"), sys.state("2-1")) == ("0", "1")
    assert any("admits 1 at once" in line for line in sys.said)
    assert usb_admit.admit([str(sys.bus / "2-1")]) == 0  # asked again, it stays


def test_a_rule_may_admit_two_at_once_and_never_a_third(sys: Sys) -> None:
    sys.write_policy(devices=[KEYBOARD | {"count": 2}])
    told = [usb_admit.admit([str(sys.plug(name))]) for name in ("1-1", "2-1", "3-1")]
    assert told == [0, 0, 1]


def test_enforcing_keeps_the_one_in_use_and_shuts_the_clone(sys: Sys) -> None:
    sys.plug("1-1")
    sys.plug("2-1", authorized="1")
    assert usb_admit.enforce([]) == 0
    assert (sys.state("1-1"), sys.state("2-1")) == ("0", "1")


def test_of_two_let_in_by_somebody_only_one_stays(sys: Sys) -> None:
    for name in ("1-1", "2-1"):
        sys.plug(name, authorized="1")
    assert usb_admit.enforce([]) == 0
    assert sorted((sys.state("1-1"), sys.state("2-1"))) == ["0", "1"]


def test_without_its_lock_nothing_is_admitted(
    sys: Sys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(usb_admit, "LOCK", tmp_path / "missing/usb.lock")
    assert usb_admit.admit([str(sys.plug(authorized="1"))]) == 1
    assert sys.state("1-1") == "0"


def test_a_device_listed_by_its_serials_hash_is_admitted_and_another_is_not(sys: Sys) -> None:
    entry = {key: value for key, value in KEYBOARD.items() if key != "serial"}
    sys.write_policy(devices=[entry | {"serial_hash": hash_serial("SEKISHO-KBD-1", bytes(16))}])
    assert usb_admit.admit([str(sys.plug(serial="SEKISHO-KBD-2"))]) == 1
    (sys.bus / "1-1/serial").write_text("SEKISHO-KBD-1\n")
    assert usb_admit.admit([str(sys.bus / "1-1")]) == 0


PROOF = {"reference": "cabinet K-12, tried by aoki", "tested": "2026-11-01"}


def test_a_serial_console_that_is_none_is_no_way_in(sys: Sys) -> None:
    sys.consoles.write_text("tty0\n")
    sys.plug("2-1", serial="STICK", authorized="1")
    assert usb_admit.enforce([]) == 2
    assert sys.state("2-1") == "1"
    sys.consoles.unlink()
    assert usb_admit.enforce([]) == 2


def test_a_listed_keyboard_counts_once_it_was_seen_and_stays_known(sys: Sys) -> None:
    sys.write_policy(console="listed-keyboard")
    assert usb_admit.enforce([]) == 2
    sys.plug("1-1", authorized="1")
    assert usb_admit.enforce([]) == 0
    for name in ("authorized", "serial", "devpath", "descriptors"):
        (sys.bus / "1-1" / name).unlink()
    (sys.bus / "1-1").rmdir()
    assert usb_admit.enforce([]) == 0
    sys.write_policy(console="listed-keyboard", devices=[KEYBOARD | {"serial": "SEKISHO-KBD-2"}])
    assert usb_admit.enforce([]) == 2  # another keyboard was never seen


@pytest.mark.parametrize("console", ["listed-keyboard", "out-of-band", "serial"])
def test_a_persons_word_in_the_site_model_is_enough(sys: Sys, console: str) -> None:
    sys.consoles.write_text("tty0\n")
    sys.write_policy(console=console, console_proof=PROOF)
    assert usb_admit.enforce([]) == 0


def test_a_dry_run_tells_and_refuses_nothing(sys: Sys, capsys: pytest.CaptureFixture[str]) -> None:
    sys.write_policy(devices_mode="dry-run", console="out-of-band")
    sys.parameter.write_text("0\n")
    (sys.bus / "usb1/authorized_default").write_text("0\n")
    folder = sys.plug("2-1", serial="STICK", authorized="1")
    assert usb_admit.enforce([]) == 0
    assert sys.state("2-1") == "1"
    assert sys.parameter.read_text() == "1"
    assert (sys.bus / "usb1/authorized_default").read_text() == "1"
    assert "dry run, nothing is done: shut 2-1" in capsys.readouterr().err
    assert usb_admit.admit([str(folder)]) == 1
    assert sys.state("2-1") == "1"
    assert any("dry run" in line for line in sys.said)


READER = KEYBOARD | {"name": "reader", "serial": "CARD-1", "port": "2", "interfaces": ["0b:00:00"]}


def except_reader(sys: Sys, **change: Any) -> None:
    """Let a card reader in by an exception, as `apply` writes it."""
    found = parse_exception("x", {"device": READER, "direction": "none"})
    numbers = {"end": 2**40, "deadline": 2**40} | change
    exception_state.write_open(exception_state.Open("20261125-00", found, **numbers), sys.run)


def test_an_open_exception_lets_in_its_device_and_no_other(sys: Sys) -> None:
    folder = sys.plug("1-2", serial="CARD-1", raw=descriptors((0x0B, 0, 0)))
    other = sys.plug("2-2", serial="CARD-2", raw=descriptors((0x0B, 0, 0)))
    assert usb_admit.admit([str(folder)]) == 1
    except_reader(sys)
    assert usb_admit.admit([str(other)]) == 1
    assert usb_admit.admit([str(folder)]) == 0
    assert (sys.state("1-2"), sys.state("2-2")) == ("1", "0")
    clone = sys.plug("3-2", serial="CARD-1", raw=descriptors((0x0B, 0, 0)))
    assert usb_admit.admit([str(clone)]) == 1  # one, and it is here
    assert usb_admit.enforce([]) == 0
    assert sys.state("1-2") == "1"
    exception_state.forget_open(sys.run)
    assert usb_admit.settle_attached()[1] == []
    assert sys.state("1-2") == "0"


@pytest.mark.parametrize("change", [{"end": 1}, {"deadline": 1}])
def test_an_exception_that_is_over_by_either_clock_lets_nothing_in(
    sys: Sys, change: dict[str, int]
) -> None:
    except_reader(sys, **change)
    folder = sys.plug("1-2", serial="CARD-1", raw=descriptors((0x0B, 0, 0)))
    assert usb_admit.admit([str(folder)]) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"id":1,"content":{},"end":1,"deadline":1}'])
def test_a_garbled_exception_lets_nothing_in(sys: Sys, text: str) -> None:
    except_reader(sys)
    (sys.run / "open.json").write_text(text)
    folder = sys.plug("1-2", serial="CARD-1", raw=descriptors((0x0B, 0, 0)))
    assert usb_admit.admit([str(folder)]) == 1
    assert any("no exception" in line for line in sys.said)


def test_an_exception_others_can_write_lets_nothing_in(sys: Sys) -> None:
    except_reader(sys)
    (sys.run / "open.json").chmod(0o666)
    folder = sys.plug("1-2", serial="CARD-1", raw=descriptors((0x0B, 0, 0)))
    assert usb_admit.admit([str(folder)]) == 1
