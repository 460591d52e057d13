"""What root on inbound can still say by his replies' headers: ASSURANCE.md's numbers, tried."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from typing import Any

import covertworld
import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

#: Fields the gateway sets to one value, and the least they carried before.
LEVELLED = {
    "IP DSCP": 6, "IP ECN": 2, "IP identification": 16, "IP flags": 1.5, "IP TTL": 7,
    "TCP reserved": 4, "TCP urgent pointer": 16,
}  # fmt: skip


@cache
def told() -> Any:
    try:
        return covertworld.private("measure")
    except subprocess.CalledProcessError as bad:
        if "Operation not permitted" in (bad.stderr or "") and not os.environ.get("CI"):
            pytest.skip(f"no namespaces here: {bad.stderr.strip()[-200:]}")
        raise AssertionError(bad.stderr) from None


@pytest.mark.parametrize("field", LEVELLED)
def test_a_spare_field_carries_nothing_any_more(field: str) -> None:
    """Without chain `level` the same measurement finds the bits: the control."""
    assert told()["before"]["bits"][field] >= LEVELLED[field]
    assert told()["after"]["bits"][field] == 0


@pytest.mark.parametrize(
    "field",
    ["IP options", "TCP checksum", "bytes behind the packet", "ICMP and other protocols"],
)
def test_what_never_passed_does_not_pass(field: str) -> None:
    assert told()["before"]["bits"][field] == told()["after"]["bits"][field] == 0


def test_the_flags_say_only_what_a_reply_must() -> None:
    """Acknowledgement, its SYN, its FIN, and the two kinds of RST: log2 of five."""
    assert 0 < told()["after"]["bits"]["TCP flags"] <= 2.4


def test_what_stays_is_what_assurance_says() -> None:
    bits = told()["after"]["bits"]
    assert {name for name, one in bits.items() if one} == {
        "TCP window", "TCP sequence", "TCP acknowledgement", "TCP flags", "TCP options",
        "TCP header length"}  # fmt: skip
    assert sum(bits.values()) <= 405
    assert sum(told()["before"]["bits"].values()) > 450
