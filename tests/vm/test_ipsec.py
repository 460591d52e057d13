"""Encrypted lines with strongSwan at both ends: what passes, what does not, what is on the line.

On one machine of the lab's box, whose kernel has ESP; the scenes are tests/kernel/linescenes.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.vm.onevm import guest, only_encrypted

Seen = Callable[[str], Any]


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """Play a scene once and return what was seen."""
    with guest() as machine:
        yield functools.cache(machine.scene)


def test_the_line_lives_through_kills_stops_and_flushes_without_a_clear_byte(
    seen: Seen,
) -> None:
    got = seen("lives")
    assert got["delivery"]
    assert not got["stopped"]
    assert not got["peer gone"]
    assert not got["kernel flushed behind charon's back"]
    only_encrypted(got["line"], by="esp")
    assert min(value for key, value in got.items() if key.endswith(" s")) >= 0


def test_what_a_naked_hospital_sends_is_seen_on_the_line_and_dropped_at_the_gateway(
    seen: Seen,
) -> None:
    got = seen("lives")
    assert got["naked line"]["clear"] > 0, "the capture can see clear text"
    assert got["naked dropped"] > 0
    assert not got["naked"]
    assert got["bytes received in clear"] == 0


def test_our_own_gateway_sends_nothing_in_clear_and_would_without_its_filter(
    seen: Seen,
) -> None:
    got = seen("outward")
    assert got["delivery"]
    assert not got["stopped"]
    assert not got["no policy in the kernel"]
    assert got["drops"] > 0
    only_encrypted(got["line"], by="esp")
    assert got["without the filter line"]["clear"] > 0


@pytest.mark.parametrize("what", ["expired", "old authority", "wrong key", "another address"])
def test_a_key_or_an_address_that_is_not_todays_brings_nothing(seen: Seen, what: str) -> None:
    got = seen("refused")
    assert got["good at first"]
    passed, children, taken, *more = got[what]
    assert (passed, children, taken) == (False, 0, 0)
    assert more in ([], [False])
    only_encrypted(got["line"], by="esp")


def test_after_each_refusal_the_right_one_is_let_in_again(seen: Seen) -> None:
    for what in ("good again", "its own address"):
        assert seen("refused")[what][0], what


def test_a_revocation_is_in_force_within_a_minute(seen: Seen) -> None:
    got = seen("refused")
    assert got["revoked after s"] < 60
    assert got["revoked"] == [False, 0, 0]


def test_a_second_hospital_does_not_get_into_the_first_ones_flow(
    seen: Seen,
) -> None:
    got = seen("second")
    assert got["its own flow"]
    assert not got["first one's port, from its address"]
    assert got["first one's selectors"] == [False, 0]
    assert got["first one's name"] == [False, 0]
    assert got["back to its own"]
    assert not got["stuffed"]
    assert got["bytes of the first one's flow"] == 0
    assert got["first one's port line"]["clear"] > 0, "the capture can see clear text"
    only_encrypted(got["its line"], by="esp")
    only_encrypted(got["line"], by="esp")


def test_rekeying_under_load_breaks_no_connection_and_shows_nothing(seen: Seen) -> None:
    got = seen("rekeys")
    assert got["children made"] > 5
    assert got["IKE made"] > 0
    assert got["connected again"] == 0
    # An emulated machine has pauses of its own: the same stream without rekeying shows them.
    assert got["longest gap s"] < 1 + got["longest gap without rekeying s"]
    only_encrypted(got["line"], by="esp")


@pytest.mark.parametrize("what", ["kill -9", "restart", "stop and start"])
def test_the_unit_brings_the_flow_back_by_itself(seen: Seen, what: str) -> None:
    got = seen("unit")
    assert got["restarts by itself"] == 1
    assert got[what]["comes back"]
    only_encrypted(got["line"], by="esp")


def test_with_the_unit_stopped_or_the_kernel_flushed_nothing_passes(seen: Seen) -> None:
    got = seen("unit")
    assert got["bytes while stopped"] == 0
    assert not got["kernel flushed"]["comes back"], "then docs/ipsec.md says too little of us"
    assert got["flushed, back after the unit's restart s"] >= 0
