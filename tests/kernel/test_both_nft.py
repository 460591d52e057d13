"""The packet filter under Debian 12's nft and Debian 13's, each with its own libraries and Python.

What a host loads is compiled on another machine and compared, listed and judged on a third: the
two versions must mean the same by it. This machine's own Debian is tried as it is.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from otherdebian import SUITES, own_suite, root_of
from ownspace import scene
from test_flows_golden import GOLDEN, HOSTS, one_spelling
from test_quarantine_kernel import FREE, SHUT

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

HERE = Path(__file__).parent
EVERY = pytest.mark.parametrize("suite", sorted(SUITES))


@cache
def seen(suite: str, name: str, world: str = "nftworld.py") -> Any:
    return scene(HERE / world, name, root=root_of(suite))


@EVERY
@pytest.mark.parametrize("name", ["rules", "guard"])
def test_it_is_that_debians_nft(suite: str, name: str) -> None:
    assert seen(suite, name)["version"] == SUITES[suite]


def test_the_machine_s_own_debian_is_one_of_them() -> None:
    assert own_suite() in SUITES, "two roots are made, and this machine's own nft is not tried"


@EVERY
@pytest.mark.parametrize("host", HOSTS)
def test_the_rules_are_loaded_listed_and_compared_as_compiled(suite: str, host: str) -> None:
    told = seen(suite, "rules")["hosts"][host]
    assert set(told["found"].values()) == {True}, told["found"]
    assert one_spelling(told["text"]) == (GOLDEN / f"{host}.nft").read_text(encoding="utf-8")


@EVERY
@pytest.mark.parametrize("host", HOSTS)
def test_each_change_of_what_is_loaded_is_a_difference(suite: str, host: str) -> None:
    drift = seen(suite, "rules")["hosts"][host]["drift"]
    assert drift.pop("nothing") is False
    assert len(drift) == 5
    assert set(drift.values()) == {True}, drift


@pytest.mark.parametrize("host", HOSTS)
def test_both_versions_list_the_same(host: str) -> None:
    first, second = (seen(suite, "rules")["hosts"][host]["form"] for suite in sorted(SUITES))
    assert first == second


@EVERY
def test_the_guard_loads_keeps_and_takes_back(suite: str) -> None:
    told = seen(suite, "guard")
    assert (told["before"], told["applied again"]) == ([], "new")
    assert told["applied"][0] == "old"
    assert told["kept"] == told["taken back"] == ["old", "sekisho"]


@EVERY
def test_the_quarantine_is_thrown_kept_over_a_restart_and_released(suite: str) -> None:
    told = seen(suite, "host", "quarantineworld.py")
    assert (told["before"], told["on"], told["restarted"], told["off"]) == (FREE, SHUT, SHUT, FREE)
    assert told["kept"]
    assert not told["kept when off"]
    assert (told["session before"], told["session on"]) == (True, False)


@EVERY
def test_a_quarantined_gateway_passes_nothing_on(suite: str) -> None:
    told = seen(suite, "gateway", "quarantineworld.py")
    assert told == {"before": [True, True], "on": [False, False], "off": [True]}
