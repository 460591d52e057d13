"""Encrypted lines with strongSwan at both ends: what passes, what does not, what is on the line."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

SCENES = Path(__file__).with_name("linescenes.py")
PRIVATE = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork",
           "--kill-child", "--mount-proc")  # fmt: skip
ESP = ("ip", "xfrm", "state", "add", "src", "10.0.0.1", "dst", "10.0.0.2", "proto", "esp",
       "spi", "0x100", "mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x" + "11" * 36,
       "128")  # fmt: skip


@functools.cache
def _missing() -> str:
    """Return why the scenes cannot be played here, or ""."""
    if not shutil.which("swanctl") or not Path("/usr/sbin/charon-systemd").exists():
        if os.environ.get("CI"):
            pytest.fail("strongSwan is needed: apt install strongswan-swanctl charon-systemd")
        return "strongSwan is not installed"
    done = subprocess.run((*PRIVATE, *ESP), capture_output=True, text=True, timeout=30, check=False)
    return f"this kernel has no ESP with AES-GCM: {done.stderr.strip()}" if done.returncode else ""


@functools.cache
def _started() -> dict[str, subprocess.Popen[str]]:
    """Start the scenes that wait for time-outs more than they work, side by side."""
    return {scene: _start(scene) for scene in ("lives", "outward", "refused", "second")}


def _start(scene: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (*PRIVATE, sys.executable, str(SCENES), scene),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@functools.cache
def seen(scene: str) -> Any:
    if reason := _missing():
        pytest.skip(reason)
    process = _started().get(scene) or _start(scene)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return json.loads(out)


def only_encrypted(line: dict[str, Any]) -> None:
    assert line["clear"] == 0, line["said"]
    assert line["lost"] == 0, "the capture missed packets, so it proves nothing"
    assert line["esp"] > 0


def test_the_line_lives_through_kills_stops_and_flushes_without_a_clear_byte() -> None:
    got = seen("lives")
    assert got["delivery"]
    assert not got["stopped"]
    assert not got["peer gone"]
    assert not got["kernel flushed behind charon's back"]
    only_encrypted(got["line"])
    assert min(value for key, value in got.items() if key.endswith(" s")) >= 0


def test_what_a_naked_hospital_sends_is_seen_on_the_line_and_dropped_at_the_gateway() -> None:
    got = seen("lives")
    assert got["naked line"]["clear"] > 0, "the capture can see clear text"
    assert got["naked dropped"] > 0
    assert not got["naked"]
    assert got["bytes received in clear"] == 0


def test_our_own_gateway_sends_nothing_in_clear_and_would_without_its_filter() -> None:
    got = seen("outward")
    assert got["delivery"]
    assert not got["stopped"]
    assert not got["no policy in the kernel"]
    assert got["drops"] > 0
    only_encrypted(got["line"])
    assert got["without the filter line"]["clear"] > 0


@pytest.mark.parametrize("what", ["expired", "old authority", "wrong key", "another address"])
def test_a_key_or_an_address_that_is_not_todays_brings_nothing(what: str) -> None:
    got = seen("refused")
    assert got["good at first"]
    passed, children, taken, *more = got[what]
    assert (passed, children, taken) == (False, 0, 0)
    assert more in ([], [False])
    only_encrypted(got["line"])


def test_after_each_refusal_the_right_one_is_let_in_again() -> None:
    for what in ("good again", "its own address"):
        assert seen("refused")[what][0], what


def test_a_revocation_is_in_force_within_a_minute() -> None:
    got = seen("refused")
    assert got["revoked after s"] < 60
    assert got["revoked"] == [False, 0, 0]


def test_a_second_hospital_does_not_get_into_the_first_ones_flow() -> None:
    got = seen("second")
    assert got["its own flow"]
    assert not got["first one's port, from its address"]
    assert got["first one's selectors"] == [False, 0]
    assert got["first one's name"] == [False, 0]
    assert got["back to its own"]
    assert not got["stuffed"]
    assert got["bytes of the first one's flow"] == 0
    only_encrypted(got["line"])


@pytest.mark.slow  # sixteen seconds of deliveries, with nothing beside it: the capture sees all
def test_rekeying_under_load_loses_nothing_and_shows_nothing() -> None:
    got = seen("rekeys")
    assert got["children made"] > 3
    assert got["all whole"]
    only_encrypted(got["line"])
