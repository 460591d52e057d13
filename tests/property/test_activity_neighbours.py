"""One bad, late or long event costs its neighbours nothing: every other command is in an entry."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from examples import examples
from sekisho.activity import pipeline
from sekisho.activity.pipeline import COMMAND, GAP, SESSION, Activity
from sekisho.core.canonical import canonical

START = 1_795_315_000_000
IDS = "gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3"


def head(kind: str, ms: int, serial: int) -> str:
    return f"type={kind} msg=audit({ms // 1000}.{ms % 1000:03d}:{serial}): "


def rows(ms: int, serial: int, *parts: tuple[str, str]) -> list[bytes]:
    return [f"{head(kind, ms, serial)}{body}\n".encode() for kind, body in parts]


def path(item: int, name: str, mode: str) -> tuple[str, str]:
    where = f'item={item} name="{name}" inode={item + 1} dev=08:01 mode={mode}'
    return "PATH", f"{where} ouid=0 ogid=0 rdev=00:00 nametype=NORMAL"


def call(number: int, items: int, who: str, name: str, key: str) -> tuple[str, str]:
    return "SYSCALL", (
        f"arch=c000003e syscall={number} success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items={items} "
        f'ppid=900 pid=1000 auid=2001 uid={who} {IDS} comm="{name}" exe="/usr/bin/{name}" '
        f'subj=unconfined key="{key}"'
    )


def command(serial: int, ms: int) -> list[bytes]:
    """The records of one program start as auditd writes them; `quick` matches them at once."""
    return rows(
        ms, serial, call(59, 2, "2001", "id", "sekisho-exec"),
        ("EXECVE", f'argc=2 a0="id" a1="{serial}"'), ("CWD", 'cwd="/root"'),
        path(0, "/usr/bin/id", "0100755"), path(1, "/lib64/ld-linux-x86-64.so.2", "0100755"),
        ("PROCTITLE", "proctitle=6964"),
    )  # fmt: skip


def mount(serial: int, ms: int) -> list[bytes]:
    """The records of a mount: with a detection, and of four records."""
    return rows(
        ms, serial, call(165, 1, "0", "mount", "sekisho-mount"), ("CWD", 'cwd="/"'),
        path(0, "/mnt", "040755"), ("PROCTITLE", 'proctitle="mount"'),
    )  # fmt: skip


def activity() -> Activity:
    return Activity(people={2001: "taro"}, administrators=["taro"])


class Streams(RuleBasedStateMachine):
    """A machine at work: short calls and long ones, a clock that steps, any interleaving.

    A long call's records come when it ends and bear the stamp of its start. Until they are all
    there two seconds pass at most, and the clock is set twice at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activity = activity()
        self.now = START
        self.serial = 100
        self.open: list[list[bytes]] = []
        self.passed = self.sets = 0  # since an event began to arrive
        self.commands: set[str] = set()
        self.entries: list[Any] = []

    def number(self) -> int:
        self.serial += 1
        return self.serial

    def feed(self, lines: list[bytes]) -> None:
        self.entries += self.activity.feed(lines)

    @rule(ms=st.integers(0, 400))
    def an_ordinary_command(self, ms: int) -> None:
        ms = min(ms, 2_000 - self.passed) if self.open else ms
        self.passed = self.passed + ms if self.open else 0
        self.now += ms
        serial = self.number()
        self.commands.add(str(serial))
        self.feed(command(serial, self.now))

    @rule(started=st.sampled_from([0, 300, 5_200, 6_000, 30_000, 600_000]), kind=st.booleans())
    def a_call_ends_and_its_records_begin_to_come(self, started: int, kind: bool) -> None:
        serial = self.number()
        if kind:
            self.commands.add(str(serial))
        slow = command(serial, self.now - started) if kind else mount(serial, self.now - started)
        self.feed(slow[:1])
        self.open.append(slow[1:])

    @rule(which=st.integers(0, 5))
    def one_more_of_its_records(self, which: int) -> None:
        if self.open:
            left = self.open[which % len(self.open)]
            self.feed([left.pop(0)])
            self.open = [some for some in self.open if some]
            if not self.open:
                self.passed = self.sets = 0

    @rule(ms=st.sampled_from([-3_600_000, -6_000, -1_000, 1_000, 6_000, 3_600_000, 86_400_000]))
    def the_clock_is_set(self, ms: int) -> None:
        self.sets = self.sets + 1 if self.open else 0
        if self.sets <= 2:
            self.now += ms

    @invariant()
    def nothing_is_unreadable_and_nothing_is_given_up(self) -> None:
        bad = [one.data for one in self.entries if one.kind == GAP]
        assert bad == []

    def teardown(self) -> None:
        for left in self.open:
            self.feed(left)
        self.entries += self.activity.flush()
        told = [one.data for one in self.entries if one.kind == COMMAND]
        assert {data["argv"][1] for data in told} == self.commands
        assert len(told) == len(self.commands)
        assert all(data["complete"] for data in told)
        for one in self.entries:
            canonical(one.data)


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=examples(150), stateful_step_count=60, deadline=None)


@given(st.randoms(use_true_random=False), st.sampled_from([0, 4_000, 5_200, 6_000, 30_000]))
@settings(max_examples=examples(100), deadline=None)
def test_an_ordinary_command_between_two_records_of_a_long_call(
    source: random.Random, took: int
) -> None:
    slow = mount(101, START - took)
    at = sorted(source.randrange(len(slow) + 1) for _ in range(4))
    lines: list[bytes] = []
    for place, row in enumerate([*slow, b""]):
        for number, where in enumerate(at):
            if where == place:
                lines += command(200 + number, START + 10 * number)
        lines += [row] if row else []
    made = activity()
    entries = made.feed(lines) + made.flush()
    assert sorted(e.data["argv"][1] for e in entries if e.kind == COMMAND) == [
        "200", "201", "202", "203",
    ]  # fmt: skip
    found = [
        e.data for e in entries if e.kind == pipeline.DETECTION and e.data["id"].endswith("mounted")
    ]
    assert [data["who"] for data in found] == ["taro"]
    assert "/mnt" in str(found)


# -- names are names, and a number of any length is no crash ----------------------------------

HOSTILE = [
    "²",
    "\uff11",
    "\u0661\u0662",
    "1" * 5000,
    "-1",
    "0x10",
    "1_0",
    " 1",
    "1001",
    "\u2028x",
    "",
    "\x00",
    "é" * 200,
]


def user_login(field: str, value: str, serial: int) -> bytes:
    shown = f'"{value}"' if value.isascii() and value.isalnum() else value.encode().hex().upper()
    return (
        f"{head('USER_LOGIN', START, serial)}pid=99 uid=0 auid=4294967295 ses=4294967295 "
        f'msg=\'op=login {field}={shown} exe="/usr/bin/login" hostname=vm addr=? terminal=tty1 '
        "res=failed'\n"
    ).encode()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", ["acct", "id", "auid", "ses", "terminal", "hostname"])
def test_any_name_at_a_login_prompt_costs_no_other_line(field: str, name: str) -> None:
    made = activity()
    lines = [row for serial in range(1, 51) for row in command(serial, START)]
    lines.append(user_login(field, name, 51))
    lines += [row for serial in range(52, 102) for row in command(serial, START)]
    entries = made.feed(lines) + made.flush()
    assert sum(1 for e in entries if e.kind == COMMAND) == 100
    assert [e for e in entries if e.kind == GAP] == []
    for one in entries:
        canonical(one.data)


@pytest.mark.parametrize("name", ["1001", "0", "2001", "taro"])
def test_a_typed_name_is_never_taken_for_a_uid(name: str) -> None:
    entries = activity().feed([user_login("acct", name, 1)])
    assert [e.data["account"] for e in entries if e.kind == SESSION] == [name]


_NUMBERED = ("syscall", "exit", "items", "ppid", "pid", "auid", "uid", "euid", "ses", "argc",
             "inode", "mode", "item")  # fmt: skip


@given(
    st.lists(st.sampled_from(_NUMBERED), min_size=1, max_size=4),
    st.sampled_from(["9" * 11, "9" * 16, "9" * 4000, "9" * 20000, "-9", "", "x", "\u0661"]),
)
@settings(max_examples=examples(150), deadline=None)
def test_a_number_of_any_size_in_one_event_costs_no_other(fields: list[str], value: str) -> None:
    bad = b"".join(command(51, START)).decode()
    for name in fields:
        bad = re.sub(rf"\b{name}=[^ \n]*", f"{name}={value}", bad)
    lines = [row for serial in range(1, 51) for row in command(serial, START)]
    lines += [line.encode() + b"\n" for line in bad.split("\n")[:-1]]
    lines += [row for serial in range(52, 102) for row in command(serial, START)]
    made = activity()
    entries = made.feed(lines) + made.flush()
    others = {e.data["argv"][1] for e in entries if e.kind == COMMAND} - {"51"}
    assert len(others) == 100
    for one in entries:
        canonical(one.data)


# -- whatever else goes wrong in reading one -----------------------------------------------------


@pytest.mark.parametrize("place", ["_read", "serials"])
def test_what_cannot_be_read_is_an_entry_that_says_so(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = activity()
    fails = {"151"}

    def broken(event: Any, entries: list[Any]) -> None:
        if str(event.serial) in fails:
            raise KeyError("x")
        return real(event, entries)

    def unseen(serial: int, *more: Any) -> None:
        if str(serial) in fails:
            raise ZeroDivisionError
        return seen(serial, *more)

    if place == "_read":
        real = made._read
        monkeypatch.setattr(made, "_read", broken)
    else:
        seen = made._joiner.serials.seen
        monkeypatch.setattr(made._joiner.serials, "seen", unseen)
    lines = [row for serial in range(101, 201) for row in command(serial, START)]
    entries = made.feed(lines) + made.flush()
    told = {e.data["argv"][1] for e in entries if e.kind == COMMAND}
    assert told == {str(serial) for serial in range(101, 201)} - fails
    gaps = [e.data for e in entries if e.kind == GAP]
    assert [gap["reason"] for gap in gaps].count("unreadable") >= 1
    assert made.counters["unreadable"] >= 1
    if place == "_read":
        assert ":151" in gaps[0]["detail"]
