"""The compiled rules in real kernels: what passes, and that nothing else does."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ownspace import outcome

pytestmark = pytest.mark.kernel

WORLD = Path(__file__).with_name("flowworld.py")


ARGV = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork")
SCENES = ("path", "hostile", "core", "management", "guarded")


@cache
def _started() -> dict[str, subprocess.Popen[str]]:
    """Start every scene side by side: they wait for time-outs more than they work."""
    return {
        scene: subprocess.Popen(
            (*ARGV, "--kill-child", "--mount-proc", sys.executable, str(WORLD), scene),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for scene in SCENES
    }


@cache
def seen(scene: str) -> Any:
    """Return what a scene saw, in namespaces that ended with it."""
    process = _started()[scene]
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return outcome(process.returncode, out, err)


def test_a_push_passes_the_gateway_and_the_hop_whole() -> None:
    for hop in ("intake", "store"):
        assert seen("path")[hop]["equal"], hop
        assert seen("path")[hop]["bytes"] == 24 << 20
    for hop in ("release", "provide"):
        assert seen("core")[hop]["equal"], hop


def test_the_hospital_gets_acknowledgements_and_not_one_byte() -> None:
    got = seen("path")["hospital saw"]
    assert got["packets"] > 2
    assert got["payload"] == got["other"] == 0


def test_every_passage_is_counted_by_its_flow() -> None:
    for host in ("gate-in", "inbound-1"):
        counters = seen("path")["counters"][host]
        assert counters["flow-intake"] > 100
        assert counters["pass-reply-bare"] > 1
        assert counters["drop-reply-payload"] == 0
    assert seen("path")["counters"]["gate-in"]["drop-forward"] > 0


def test_the_outside_reaches_nothing_but_the_declared_port() -> None:
    assert seen("path")["ports of inbound"] == []
    assert seen("path")["gateway's own address"] == []
    assert not seen("path")["core from hospital"]


@pytest.mark.parametrize("wall", ["gateway alone", "inbound alone"])
def test_root_on_inbound_gets_no_byte_out_past_either_wall(wall: str) -> None:
    got = seen("hostile")[wall]
    assert got["packets"] > 0, "the capture saw the hop's acknowledgements"
    assert got["payload"] == got["other"] == 0


def test_root_on_inbound_gets_no_ipv6_past_the_gateway() -> None:
    assert seen("hostile")["gateway alone"]["ipv6"] == 0


def test_with_both_walls_down_the_same_attack_leaks_which_proves_the_capture() -> None:
    got = seen("hostile")["no wall"]
    assert got["payload"] > 100_000
    assert got["other"] > 0


def test_a_bare_acknowledgement_of_each_of_the_eleven_lengths_passes() -> None:
    assert seen("hostile")["forged"]["bare"] == {str(words): 1 for words in range(5, 16)}
    assert seen("hostile")["forged"]["df set"] == 1


def test_one_byte_behind_a_header_of_any_length_does_not_pass() -> None:
    assert seen("hostile")["forged"]["one byte"] == {str(words): 0 for words in range(5, 16)}


@pytest.mark.parametrize("trick", ["forty bytes", "ip options", "first fragment", "syn"])
def test_a_reply_of_odd_shape_does_not_pass(trick: str) -> None:
    assert seen("hostile")["forged"][trick] == 0


def test_core_reaches_neither_outside_nor_gateway_even_with_a_forged_route() -> None:
    assert seen("core")["core reached"] == []


def test_nothing_on_the_right_reaches_back_to_the_left() -> None:
    assert seen("core")["outbound reached back"] == []
    assert seen("core")["university reached"] == []


def test_ssh_comes_from_controllers_and_metrics_go_to_monitors() -> None:
    got = seen("management")
    assert got["controller"] == [22]
    assert got["stranger"] == []
    assert got["monitor"] == [9723]
    assert got["core to monitor"] == []


def test_a_terminal_reaches_core_by_ssh_and_core_does_not_reach_it() -> None:
    got = seen("management")
    assert got["terminal to core"]
    assert not got["core to terminal"]
    assert not got["terminal to core's management"]


def test_time_is_asked_of_the_monitor_only() -> None:
    assert seen("management")["time"] == {
        "core to monitor": True,
        "core to monitor, other port": False,
        "stranger to core": False,
    }


def test_echo_is_answered_to_controllers_only() -> None:
    assert seen("management")["ping"] == {"10.77.0.1": True, "10.77.0.99": False}


def test_no_ipv6_leaves_and_the_loopback_works() -> None:
    assert seen("management")["ipv6"] == 0
    assert seen("management")["loopback"]


def test_the_guard_cuts_no_running_session_where_nft_alone_does() -> None:
    got = seen("guarded")
    assert got["cut by nft alone"] > 0, "the control: tracking began with an answer"
    assert got["cut by the guard"] == 0
    assert got["left over"] == ["sekisho"]
