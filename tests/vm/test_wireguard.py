"""Encrypted lines with WireGuard: what passes, what does not, what is on the line.

On one machine of the lab's box, whose kernel has WireGuard; networkd makes the gateway's end of the
rendered files. The scenes are tests/kernel/tunnelscenes.py.
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
        yield functools.cache(lambda scene: machine.scene(scene, of="tunnelscenes"))


def test_networkd_makes_the_tunnel_of_the_rendered_files_and_the_flow_passes(seen: Seen) -> None:
    got = seen("lives")
    assert got["delivery"]
    assert got["audited"] == {"configured": True, "loaded": True}


def test_the_tunnel_down_or_gone_passes_nothing_and_shows_nothing(seen: Seen) -> None:
    got = seen("lives")
    assert got["without networkd"], "the tunnel is the kernel's; no daemon carries it"
    assert not got["down"]
    assert not got["gone"]
    assert got["bytes while away"] == 0
    assert got["back s"] >= 0
    only_encrypted(got["line"], by="wg")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("our key wrong", "our key right s"), ("peer's key changed", "peer's key back s")],
)
def test_a_key_that_is_not_the_declared_one_brings_nothing(
    seen: Seen, wrong: str, right: str
) -> None:
    got = seen("lives")
    assert not got[wrong]
    assert got[right] >= 0
    only_encrypted(got["line"], by="wg")


def test_the_audit_tells_a_tunnel_that_is_gone_or_wider_from_one_as_declared(seen: Seen) -> None:
    got = seen("lives")
    assert not got["gone, audited"]["loaded"]
    assert not got["wider, audited"]["loaded"]
    assert got["again, audited"]["loaded"]


def test_what_a_naked_hospital_sends_is_seen_on_the_line_and_dropped_at_the_gateway(
    seen: Seen,
) -> None:
    got = seen("lives")
    assert got["naked line"]["clear"] > 0, "the capture can see clear text"
    assert got["naked dropped"] > 0
    assert not got["naked"]
    assert got["bytes received in clear"] == 0


def test_our_own_gateway_sends_nothing_in_clear_and_would_without_its_filter(seen: Seen) -> None:
    got = seen("outward")
    assert got["delivery"]
    assert not got["over the card"]
    assert got["drops"] > 0
    only_encrypted(got["line"], by="wg")
    assert got["without the filter line"]["clear"] > 0


def test_a_second_hospital_does_not_get_into_the_first_ones_flow(seen: Seen) -> None:
    got = seen("second")
    assert got["its own flow"]
    assert got["own bytes"]
    assert not got["first one's port"]
    assert got["first one's port dropped"] > 0
    assert not got["from its address"]
    assert not got["with wider addresses"]
    assert got["with wider addresses dropped"] > 0
    assert got["bytes of the first one's flow"] == 0
    only_encrypted(got["line"], by="wg")
