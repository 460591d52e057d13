"""Records made to cost more than their size, to be taken for others, or to keep one open."""

from __future__ import annotations

import random
import time

import pytest

from sekisho.activity.pipeline import DETECTION, GAP, Activity
from sekisho.activity.records import parse_fields

START = 1_795_315_000_000
ABEND = 'auid=2001 uid=2001 gid=2001 ses=3 subj=unconfined pid=77 comm="{comm}" exe="{exe}" sig=11'


def row(kind: str, ms: int, serial: int, body: str) -> bytes:
    return f"type={kind} msg=audit({ms // 1000}.{ms % 1000:03d}:{serial}): {body}\n".encode()


def refused(ms: int, serial: int) -> bytes:
    return row("USER_AUTH", ms, serial,
        "pid=9 uid=0 auid=4294967295 ses=4294967295 msg='op=PAM:authentication acct=\"x\" "
        "exe=\"/usr/sbin/sshd\" hostname=? addr=192.0.2.1 terminal=ssh res=failed'")  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_no_name_of_a_users_is_taken_for_a_field_or_a_message(seed: int) -> None:
    """The kernel quotes what holds no blank, quote, or byte outside 0x21 to 0x7e."""
    chance = random.Random(seed)
    parts = ["msg='", "'", "exe=/usr/sbin/sshd", "sig=0", "=", "{", "}", "a", "/", "auid=0"]
    for _ in range(200):
        comm, exe = ("".join(chance.choices(parts, k=chance.randrange(9))) for _ in range(2))
        fields = parse_fields(ABEND.format(comm=comm, exe=exe).encode())
        assert fields == {
            b: v.encode()
            for b, v in {
                "auid": "2001", "uid": "2001", "gid": "2001", "ses": "3", "subj": "unconfined",
                "pid": "77", "comm": f'"{comm}"', "exe": f'"{exe}"', "sig": "11",
            }.items()
        }  # fmt: skip


@pytest.mark.parametrize(
    "piece", [b"a", b"a.", b"a={ ", b'a=" ', b"msg='", b" msg='", b"a[1]", b"'"]
)
def test_a_record_costs_no_more_than_its_length(piece: bytes) -> None:
    def took(size: int) -> float:
        body = (piece * (size // len(piece) + 1))[:size]
        began = time.process_time()
        parse_fields(body)
        return time.process_time() - began

    took(4096)
    assert took(64 * 1024) < 0.5  # the square of the length took from 0.4 s to 56 s


def test_a_flood_of_refused_logins_keeps_no_event_open_and_costs_no_memory() -> None:
    made = Activity(people={2001: "kita"}, administrators=[])
    lines = [row("ANOM_ABEND", START, 1, ABEND.format(comm="x", exe="/tmp/x"))]
    lines += [refused(START + 20 * n, 2 + n) for n in range(1000)]
    told = {e.data["id"] for e in made.feed(lines) if e.kind == DETECTION}
    assert "6-iv-b.program-crashed" in told
    assert len(made.checkpoint().done) < 1000
    bound = made._joiner.max_done
    for at in range(0, 40_000, 4000):
        made.feed([refused(START + 20 * (n + 1000), 1002 + n) for n in range(at, at + 4000)])
    assert len(made._joiner._done) < bound + 4000


def test_a_number_that_never_came_is_told_of_in_a_flood_of_refused_logins() -> None:
    made = Activity(people={}, administrators=[])
    lines = [refused(START + 20 * n, n + (n > 100)) for n in range(1, 1000)]
    gaps = [e.data for e in made.feed(lines) if e.kind == GAP]
    assert [(gap["reason"], gap["first"]) for gap in gaps] == [("serial", 101)]
