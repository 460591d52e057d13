"""Deliveries do not suffer from replies being made plain: what TCP needs of them, tried."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import lossworld
import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
HERE = Path(__file__).resolve().parent
#: TCPI_OPT_TIMESTAMPS, _SACK, _WSCALE; 8 would be _ECN.
OPTIONS = 1 | 2 | 4


@cache
def seen(scene: str) -> Any:
    try:
        return lossworld.private(scene)
    except subprocess.CalledProcessError as bad:
        if "Operation not permitted" in (bad.stderr or "") and not os.environ.get("CI"):
            pytest.skip(f"no namespaces here: {bad.stderr.strip()[-200:]}")
        raise AssertionError(bad.stderr) from None


@pytest.mark.parametrize("change", ["before to plain", "plain to plain", "plain to before"])
def test_an_open_connection_goes_on_when_the_rules_change(change: str) -> None:
    """It takes part of a second; a connection that stands still ends by its time limit."""
    assert seen("habits")[f"open from {change}"] < 10


def test_timestamps_sack_and_window_scaling_are_agreed_on_and_ecn_is_not() -> None:
    assert seen("habits")["options"] == OPTIONS
    assert seen("habits")["options where ECN is asked"] == OPTIONS


def test_the_receivers_segment_size_is_heard() -> None:
    """1500 and 1300 bytes a packet, less both headers and the timestamps."""
    assert seen("habits")["segment"] == 1448
    assert seen("habits")["segment where 1300 is most"] == 1248


def test_an_idle_connection_is_kept() -> None:
    """Two unanswered keepalives would have ended it."""
    assert seen("habits")["keepalives asked"] >= 3
    assert seen("habits")["after keepalives"] < 10


def test_a_window_that_was_shut_opens_again() -> None:
    assert seen("habits")["probes of a shut window"] >= 1
    assert seen("habits")["through a window that was shut"] == 16 << 20


def test_both_kinds_of_end_are_heard() -> None:
    assert seen("habits")["end of what was pushed"] == seen("habits")["end of the answer"] == ""
    assert seen("habits")["reset by the receiver"] == "seen"
    assert seen("habits")["a shut port"] == "refused"


def test_over_a_wire_that_loses_a_fifth_connections_open_push_and_close() -> None:
    assert seen("opens") == {"opened, pushed and closed": 20, "of": 20}


def test_a_delivery_over_a_wire_that_loses_one_in_a_hundred_arrives_whole() -> None:
    """`push` compares hashes; that the wire did lose is seen by what was sent again."""
    (_, again, _) = seen("delivery")["plain"]["runs"][0]
    assert again > 50


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_interrupted(how: signal.Signals) -> None:
    run = subprocess.Popen(
        (sys.executable, str(HERE / "lossworld.py"), "--rates", "0.01", "64", "99"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    began = _wait(lambda: len(_below(run.pid)) >= 2)
    family = _below(run.pid)
    run.send_signal(how)
    run.wait()
    assert began
    assert _wait(lambda: not any(_alive(one) for one in family))


def _below(pid: int) -> set[int]:
    """Return all processes that descend from one."""
    found = set()
    with contextlib.suppress(OSError):  # a process that ended meanwhile
        for one in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, one.read_text(encoding="ascii").split()):
                found |= {child} | _below(child)
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2][1] != "Z"
    except OSError:
        return False


def _wait(true: Any, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return False
