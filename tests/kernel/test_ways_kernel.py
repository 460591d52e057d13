"""Seized machines in real kernels: no way out leads past the gateway, nothing is pulled from core.

The scenes are waysworld.py; the programs are those of the lab's seventh attack.
"""

from __future__ import annotations

import base64
import secrets
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ownspace import outcome
from tests.vm.attacks.capture import judge

# The programs find each other in their own folder, as they do on the machine they are copied to.
sys.path.append(str(Path(__file__).resolve().parents[1] / "vm/attacks/seized"))
from ways import WAYS

pytestmark = pytest.mark.kernel

WORLD = Path(__file__).with_name("waysworld.py")
ARGV = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork")
SCENES = ("walled", "plain", "pull", "flood")
#: Need a module of the kernel's that a build machine may lack; the lab's machines have them.
MODULES = {"ipip", "gre", "vxlan", "ipsec"}
ASKED = ("10.77.5.1", "10.77.4.2", "10.77.4.1", "10.77.3.2")


@cache
def _started() -> dict[str, subprocess.Popen[str]]:
    """Start every scene side by side: they wait more than they work."""
    return {
        scene: subprocess.Popen(
            (*ARGV, "--kill-child", "--mount-proc", sys.executable, str(WORLD), scene),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for scene in SCENES
    }  # fmt: skip


@cache
def seen(scene: str) -> Any:
    """Return what a scene saw, in namespaces that ended with it."""
    process = _started()[scene]
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    return outcome(process.returncode, out, err)


@pytest.mark.parametrize("scene", ["walled", "plain"])
@pytest.mark.parametrize("way", WAYS)
def test_a_way_was_really_tried_and_left_the_machine(scene: str, way: str) -> None:
    got = seen(scene)
    tried = got["tried"][way]
    if way in MODULES and not tried["packets"]:
        assert any(error.startswith("not here") for error in tried["errors"])
        return
    assert tried["packets"] > 0, tried
    assert tried["bytes"] > 100
    if tried["gateway's wire"]:
        assert got["inner"]["heard"].get(str(tried["number"]), 0) > 0


def test_past_the_gateway_no_way_is_heard_and_no_byte_arrives() -> None:
    got = seen("walled")
    assert got["outer"]["heard"] == {}
    wire = got["wire"]
    assert (wire["marked"], wire["payload_bytes"], wire["strange"]) == (0, 0, [])
    assert got["read"] == 0


def test_no_frame_of_inbounds_card_is_on_the_hospitals_wire() -> None:
    got = seen("walled")
    assert got["inbound's card"] not in got["wire"]["others"]
    assert got["wire"]["others"] == []


def test_the_capture_was_alive_and_missed_nothing() -> None:
    got = seen("walled")
    assert got["opened"] > 0
    assert got["wire"]["own"] > 3, "the hospital's own segments"
    assert got["wire"]["bare"] > 3, "and what inbound may send"
    assert got["outer"]["dropped"] == 0


#: A router looks at IP only and trims what hangs behind a packet: the other ways die there.
BEHIND_A_ROUTER = ("replies", "segments", "new_tcp", "new_udp", "names", "echo", "icmp_errors",
                   "ipv6", "fragments", "options", "protocols", "reflection", "vlan", "broadcast",
                   "other_wires")  # fmt: skip


@pytest.mark.parametrize("way", BEHIND_A_ROUTER)
def test_past_a_plain_router_the_same_way_is_heard(way: str) -> None:
    """The positive control, way by way: the ear and the judge hear what the rules stop."""
    got = seen("plain")
    assert got["outer"]["heard"].get(str(got["tried"][way]["number"]), 0) > 0


def test_past_a_plain_router_the_judge_finds_token_and_payload() -> None:
    got = seen("plain")
    assert got["wire"]["marked"] > 100
    assert got["wire"]["payload_bytes"] > 100_000
    assert got["read"] > 10_000, "the hospital's programs read it, too"


@pytest.mark.parametrize("address", ASKED)
def test_root_on_the_exit_gateway_gets_no_answer_from_core_or_outbound(address: str) -> None:
    got = seen("pull")["walled"][address]
    assert got["asked"] >= 8000
    del got["asked"]
    assert got == {"open": [], "refused": 0, "other": 0, "payload": 0, "read": 0}


@pytest.mark.parametrize("address", ASKED)
def test_with_their_walls_down_the_same_questions_are_answered(address: str) -> None:
    got = seen("pull")["plain"][address]
    assert got["open"] == [22, 7601]
    assert got["payload"] > 600
    assert got["read"] >= 1200


def test_the_exit_gateways_ears_were_open_all_the_while() -> None:
    assert seen("pull")["walled"]["10.77.6.2"]["open"] == [7609]
    assert seen("pull")["walled"]["10.77.6.2"]["read"] > 0


def test_under_a_flood_administrators_come_in_and_a_push_passes_afterwards() -> None:
    got = seen("flood")
    syns, datagrams, _ = got["sent"]
    assert syns > 500
    assert got["dropped"] >= datagrams > 500
    assert got["still flooding at the last login"]
    assert got["logins"] == [True] * 8
    assert got["push"]["equal"]
    assert got["rules unchanged"]


OWN, GATE = "02:00:00:00:00:01", "02:00:00:00:00:02"


def _capture(sender: str, body: bytes) -> bytes:
    frame = bytes.fromhex(OWN.replace(":", "")) + bytes.fromhex(sender.replace(":", "")) + body
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1)
    return head + struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame


def _bare(extra: bytes = b"", source: bytes = b"\x0a\x4d\x02\x02") -> bytes:
    ip = b"\x45\0\0\x28\0\0\0\0\x40\x06\0\0" + source + b"\x0a\x4d\x01\x02"
    return b"\x08\0" + ip + b"\x1d\xb1\x9c\x40" + b"\0" * 8 + b"\x50\x10" + b"\0" * 6 + extra


@pytest.mark.parametrize(
    ("sender", "body", "strange", "others"),
    [
        (GATE, _bare(), 0, 0),
        (GATE, _bare(b"\0" * 6), 0, 0),
        (GATE, _bare(b"\0\0\0\0\0!"), 1, 0),
        (GATE, _bare(b"\0" * 7), 1, 0),
        (GATE, _bare(source=b"\x0a\x4d\x01\x03"), 1, 0),
        (GATE, b"\x08\x06" + b"\0" * 46, 0, 0),
        (GATE, b"\x08\x06" + b"\0" * 45 + b"!", 1, 0),
        (GATE, b"\x86\xdd" + b"\0" * 60, 1, 0),
        (GATE, b"\x08\0\x45", 1, 0),
        ("02:00:00:00:00:03", _bare(), 0, 1),
        (OWN, b"\x08\0" + b"x" * 100, 0, 0),
    ],
)
def test_the_judge_lets_the_gateway_send_bare_segments_and_empty_arp_only(
    sender: str, body: bytes, strange: int, others: int
) -> None:
    wire = judge(
        _capture(sender, body), token=b"t" * 16, hospital=OWN, gateway=GATE, inbound="10.77.2.2"
    )
    assert (len(wire.strange), len(wire.others), wire.marked) == (strange, others, 0)


@pytest.mark.parametrize("skip", range(3))
@pytest.mark.parametrize("form", ["raw", "first half", "second half", "hex", "HEX", "base64"])
def test_the_judge_finds_the_token_in_every_form(form: str, skip: int) -> None:
    token = secrets.token_bytes(16)
    told = {
        "raw": token,
        "first half": token[:8],
        "second half": token[8:],
        "hex": token.hex().encode(),
        "HEX": token.hex().upper().encode(),
        "base64": base64.b64encode(b"abc"[:skip] + token + b"xyz"),
    }
    body = b"\x08\0" + b"." * skip + told[form] + b"..."
    for sender in (OWN, GATE, "02:00:00:00:00:03"):
        wire = judge(
            _capture(sender, body), token=token, hospital=OWN, gateway=GATE, inbound="10.77.2.2"
        )
        assert wire.marked == 1
