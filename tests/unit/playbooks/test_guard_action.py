"""The guard's action on the controller: it comes back, and says what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from playbookmodules import module

pytestmark = pytest.mark.process  # importing Ansible looks the syslog service up
NAME = "0123456789abcdef"


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    return module("sekisho_guard", "action_plugins")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


Answer = tuple[int, bytes, str] | Exception
UNDONE = {"token": NAME, "at": 1_796_056_861, "applied": 1_796_056_810, "timeout_s": 50}
BACK = (
    1,
    json.dumps({"error": "… it was rolled back already", "rolled_back": UNDONE}).encode(),
    "",
)
GOOD = (0, json.dumps({"confirmed": NAME}).encode(), "")


def shut(text: str) -> Answer:
    return (255, b"", text)


def confirmation(plugin: ModuleType, answer: Callable[[float], Answer], took: float = 1.0) -> Any:
    clock = Clock()

    def run(argv: list[str]) -> tuple[int, bytes, str]:
        assert argv == ["ssh", "h1", *plugin.GUARD, "confirm", NAME]
        now = clock.now
        clock.now += took
        found = answer(now)
        if isinstance(found, Exception):
            raise found
        return found

    return plugin.Confirmation(
        ["ssh", "h1"], NAME, window_s=50.0, left_s=49.0, run=run, clock=clock
    )


def test_a_first_login_that_fails_is_tried_again(plugin: ModuleType) -> None:
    one = confirmation(plugin, lambda now: GOOD if now > 10 else shut("Connection refused"))
    assert one.come_back()
    assert one.failures() == "connection refused (from 0 to 9 s)"


@pytest.mark.parametrize(
    ("said", "seen", "blames"),
    [
        ("ssh: connect to host h1 port 22: Connection timed out", "connection timed out", True),
        ("ssh: connect to host h1 port 22: Connection refused", "connection refused", True),
        ("ssh: connect to host h1 port 22: No route to host", "no route to the host", True),
        ("kex_exchange_identification: read: Connection reset by peer", "connection reset", True),
        ("Connection closed by 10.0.0.1 port 22", "connection closed by the host", True),
        ("Host key verification failed.", "another host key than the pinned one", False),
        ("No ED25519 host key is known for h1", "no pinned host key", False),
        ("aoki@h1: Permission denied (publickey).", "sshd denied the login", False),
        ("sudo: a password is required\n", "status 255: sudo: a password is required", False),
        ("\x1b[31mred\x1b[0m", "status 255: ?[31mred?[0m", False),
    ],
)
def test_what_shut_the_controller_out_is_told(
    plugin: ModuleType, said: str, seen: str, blames: bool
) -> None:
    one = confirmation(plugin, lambda now: BACK if now > 52 else shut(said))
    assert not one.come_back()
    told = one.told("gate-in")
    assert told.startswith("gate-in: ")
    assert f"{seen} (from 0 to 51 s)" in told
    assert "at 16:41:01 UTC, 51 s after the change (window 50 s)" in told
    assert ("the new rules did not let the controller back in" in told) is blames
    assert ("Look at the rules for port 22" in told) is blames


def test_a_confirmation_that_comes_late_does_not_blame_the_rules(plugin: ModuleType) -> None:
    one = confirmation(plugin, lambda _now: BACK, took=53.0)
    assert not one.come_back()
    told = one.told("gate-in")
    assert "the confirmation came too late" in told
    assert "it began 0.0 s after the apply's answer and took 53.0 s" in told
    # Where the apply's own connection was lost, the first login that waits may get through.
    lost = one.told("gate-in", "mitogen: keep-alives were missed")
    assert "the new rules did not let the controller back in" in lost
    assert "too late" not in lost
    assert "did not let the controller back in" not in told


def test_a_host_that_stays_away_is_told_as_that(plugin: ModuleType) -> None:
    one = confirmation(plugin, lambda _now: shut("Connection timed out"), took=8.0)
    assert not one.come_back()
    assert 49 + plugin.GRACE_S <= one.tries[-1][0] + 8 < 49 + plugin.GRACE_S + 20
    assert "has not let the controller in for" in one.told("gate-in")
    assert "look at its console" in one.told("gate-in")


def test_a_host_with_another_key_is_not_asked_for_long(plugin: ModuleType) -> None:
    one = confirmation(plugin, lambda _now: shut("Host key verification failed."))
    assert not one.come_back()
    assert one.tries[-1][0] < 49 + plugin.ANSWERS_S + 5
    assert "another host key than the pinned one" in one.told("gate-in")


@pytest.mark.parametrize(
    "answer",
    [
        (1, b'{"error": "nothing to confirm under that token: no such change is known here"}', ""),
        (1, b'{"error": "nothing to confirm under that token: it was rolled back already"}', ""),
        (0, b'{"confirmed": "fedcba9876543210"}', ""),
        (1, json.dumps({"error": "x", "rolled_back": {"at": 10**30, "applied": "y"}}).encode(), ""),
        (1, json.dumps({"error": "x", "rolled_back": [1]}).encode(), ""),
        (1, json.dumps({"error": {"a": "\x1b[2J"}}).encode(), ""),
    ],
)
def test_another_answer_confirms_nothing_and_is_told(plugin: ModuleType, answer: Answer) -> None:
    one = confirmation(plugin, lambda _now: answer)
    assert one.come_back() is False
    assert len(one.tries) == 1
    assert "gate-in: " in one.told("gate-in")
    assert "\x1b" not in one.told("gate-in")


@pytest.mark.parametrize(
    "junk",
    [b"", b"[]", b"{}", b"nonsense", b"[" * 100_000, b'{"confirmed"', b"\xff\xfe", b"1" * 9999],
)
def test_what_is_no_answer_is_asked_again(plugin: ModuleType, junk: bytes) -> None:
    one = confirmation(plugin, lambda now: GOOD if now else (0, junk, ""))
    assert one.come_back()
    assert len(one.tries) == 2


def test_a_login_that_hangs_or_cannot_start_is_told(plugin: ModuleType) -> None:
    for bad, seen in (
        (subprocess.TimeoutExpired("ssh", 30), "no answer within 30 s"),
        (FileNotFoundError(2, "No such file or directory"), "ssh cannot be started"),
    ):
        one = confirmation(plugin, lambda now, bad=bad: BACK if now > 52 else bad)  # type: ignore[misc]
        assert not one.come_back()
        assert seen in one.told("gate-in")


def test_a_host_that_says_too_much_is_cut_off(plugin: ModuleType) -> None:
    flood = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    code, out, _ = plugin.log_in([sys.executable, "-c", flood])
    assert code != 0
    assert len(out) <= plugin.MAX_ANSWER


def test_hosts_come_back_beside_each_other(plugin: ModuleType) -> None:
    """Nothing in the action is shared between hosts: fifty slow logins take as long as one."""
    inside, most, lock = [0], [0], threading.Lock()

    def run(_argv: list[str]) -> tuple[int, bytes, str]:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        ready.wait(timeout=60)  # every other login has begun
        with lock:
            inside[0] -= 1
        return GOOD

    ready = threading.Barrier(50)
    hosts = [
        plugin.Confirmation(["ssh", f"h{n}"], NAME, window_s=50.0, left_s=49.0, run=run, clock=time)
        for n in range(50)
    ]
    threads = [threading.Thread(target=one.come_back) for one in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=90)
    assert most[0] == 50
    assert all(one.answer == {"confirmed": NAME} for one in hosts)


# -- the action itself ---------------------------------------------------------------------------


def action(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch, result: Any, *, check: bool = False
) -> tuple[Any, list[Any]]:
    """Return the action's result over a module that gave ``result``, and what was confirmed."""
    made: list[Any] = []

    class Confirmed(plugin.Confirmation):  # type: ignore[misc, name-defined] - loaded by its path
        def come_back(self) -> bool:
            made.append(self)
            self.tries = [(0.0, 1.0, "an answer")]
            return True

    monkeypatch.setattr(plugin, "Confirmation", Confirmed)
    monkeypatch.setattr(plugin.ActionBase, "run", lambda *_: {})
    given: list[dict[str, Any]] = []

    def execute(*, module_args: dict[str, Any], **_: Any) -> Any:
        given.append(module_args)
        if isinstance(result, Exception):
            raise result
        return result

    one = object.__new__(plugin.ActionModule)
    one._task = SimpleNamespace(args={"timeout_s": 50, "login": ["ssh", "h1"]}, check_mode=check)
    one._execute_module = execute
    found = one.run(task_vars={"inventory_hostname": "h1"})
    assert "login" not in given[0]
    assert plugin.TOKEN.fullmatch(given[0]["token"])
    for confirmed in made:
        confirmed.sent = given[0]["token"]
    return found, made


def test_nothing_changed_failed_or_only_looked_at_is_not_confirmed(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for result, check in (
        ({"changed": False}, False),
        ({"changed": True, "failed": True, "msg": "the guard refused"}, False),
        ({"changed": True}, True),
    ):
        found, made = action(plugin, monkeypatch, dict(result), check=check)
        assert found == result
        assert made == []


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (49.5, 49.5),
        (10**9, 50.0),
        (float("inf"), 50.0),
        (float("nan"), 50.0),
        ("soon", 50.0),
        (None, 50.0),
    ],
)
def test_a_hosts_word_is_taken_in_its_form_only(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch, given: Any, left: float
) -> None:
    """A host may not hold the play up for longer than its window, nor choose the command line."""
    result = {"changed": True, "token": "$(reboot)", "left_s": given}
    found, [one] = action(plugin, monkeypatch, result)
    assert one.left_s == left
    assert one.token == one.sent
    assert found["confirmed_s"] == 1.0


def test_a_connection_that_was_lost_is_confirmed_by_the_token_made_here(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, [one] = action(plugin, monkeypatch, plugin.AnsibleConnectionFailure("disconnected"))
    assert one.token == one.sent
    assert found["changed"] is True
