"""The guard's role over hosts with SSH servers of their own: every host confirms for itself.

The real play, module, action, guard, sshd and nft (guardworld.py); several network namespaces.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
WORLD = Path(__file__).with_name("guardworld.py")
# sshd separates its privileges, which needs more than the one user of an own user namespace.
APART = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def play(*words: object) -> dict[str, Any]:
    if os.geteuid() != 0:
        pytest.skip("namespaces with an SSH server need root")
    done = subprocess.run(
        [*APART, sys.executable, str(WORLD), *map(str, words)],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    if done.returncode and "unshare" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def confirmed(state: dict[str, Any]) -> bool:
    return state == {"policy": "accept", "status": {"pending": False}}


@pytest.mark.parametrize("strategy", ["mitogen_linear", "linear"])
def test_a_slow_controller_confirms_every_host_within_its_own_window(strategy: str) -> None:
    """Eight logins, each held up for 8 s: one after the other they would take 64 s of 40."""
    told = play(8, 8, 40, strategy, "good")
    assert told["code"] == 0, told["said"]
    assert [name for name, state in told["states"].items() if not confirmed(state)] == []
    logins = told["logins"]
    assert len(logins) == 8
    beside = max(sum(begin <= now < end for begin, end in logins) for now, _ in logins)
    assert beside >= 4, "no login waited for another host's"  # one after the other: 1


def test_rules_that_shut_the_controller_out_free_that_host_and_keep_the_others() -> None:
    told = play(3, 0, 12, "mitogen_linear", "shut")
    assert told["code"] != 0
    first, second, last = told["states"].values()
    assert confirmed(first)
    assert confirmed(second)
    assert last["policy"] == "", "no table before, none after"
    undone = last["status"]["rolled_back"]
    assert 11 <= undone["at"] - undone["applied"] <= 25
    assert "h3: the new rules did not let the controller back in" in told["said"]
    assert "connection timed out" in told["said"]
    assert "after the change (window 12 s)" in told["said"]


def test_a_confirmation_that_comes_too_late_is_not_blamed_on_the_rules() -> None:
    told = play(2, 9, 4, "linear", "good")
    assert told["code"] != 0
    assert "the confirmation came too late" in told["said"]
    assert "it is not the rules that are at fault" in told["said"]
    assert "did not let the controller back in" not in told["said"]
    assert {state["policy"] for state in told["states"].values()} == {""}


def test_another_host_key_than_the_pinned_one_confirms_nothing() -> None:
    told = play(2, 0, 6, "linear", "stranger")
    assert told["code"] != 0
    assert confirmed(told["states"]["h1"])
    assert told["states"]["h2"]["policy"] == ""
    assert "h2: not confirmed" in told["said"]
    assert "another host key than the pinned one" in told["said"]


def test_a_dry_run_shows_the_change_and_makes_none() -> None:
    told = play(2, 0, 6, "mitogen_linear", "look")
    assert told["code"] == 0, told["said"]
    assert "changed: [h1]" in told["said"]
    assert "nftables.json" in told["said"]
    assert told["logins"] == []
    assert {state["policy"] for state in told["states"].values()} == {""}
