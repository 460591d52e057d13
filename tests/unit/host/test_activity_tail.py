"""The follower: over rotation, truncation and restarts, no line lost in silence or twice."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from sekisho.activity.pipeline import COMMAND, GAP, Activity, Entry
from sekisho.host.kernel.audit_tail import ActivityTail, AuditFollower, KernelStatus, parse_status

MS = 1_795_315_000_000


def event(serial: int, ms: int = MS) -> bytes:
    head = f"msg=audit({ms // 1000}.{ms % 1000:03d}:{serial}): "
    return (
        f"type=SYSCALL {head}arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 "
        f"items=1 ppid=1 pid={serial} auid=2001 uid=2001 gid=0 euid=2001 suid=0 fsuid=0 egid=0 "
        'sgid=0 fsgid=0 tty=pts0 ses=7 comm="id" exe="/usr/bin/id" key="sekisho-exec"\n'
        f'type=EXECVE {head}argc=1 a0="id"\n'
        f"type=PROCTITLE {head}proctitle=6964\n"
    ).encode()


class Place:
    """A log in a folder, rotated as auditd does, and the followers that read it."""

    def __init__(self, folder: Path, *, keep: int = 4) -> None:
        self.log = folder / "audit.log"
        self.cursor = folder / "cursor.json"
        self.keep = keep
        self.log.touch()

    def write(self, data: bytes) -> None:
        with self.log.open("ab") as out:
            out.write(data)

    def rotate(self) -> None:
        for number in range(self.keep, 0, -1):
            older = self.log.with_name(f"audit.log.{number}")
            newer = self.log.with_name(f"audit.log.{number - 1}") if number > 1 else self.log
            if number == self.keep:
                older.unlink(missing_ok=True)
            if newer.exists():
                newer.rename(older)
        self.log.touch()

    def open(self, boot: str = "boot-1") -> ActivityTail:
        return ActivityTail(
            AuditFollower(self.log, self.cursor, boot_id=boot),
            Activity(people={2001: "aoki"}, administrators={"aoki"}),
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def serials(entries: list[Entry]) -> list[int]:
    return [
        int(entry.data["event"].rpartition(":")[2]) for entry in entries if entry.kind == COMMAND
    ]


def gaps(entries: list[Entry]) -> list[str]:
    return [entry.data["reason"] for entry in entries if entry.kind == GAP]


def drain(tail: ActivityTail) -> list[Entry]:
    entries = tail.poll(MS)
    while tail.behind:
        entries += tail.poll(MS)
    return entries


def test_the_first_start_says_that_there_was_no_cursor(place: Place) -> None:
    place.write(event(1))
    entries = drain(place.open())
    assert gaps(entries) == ["no-cursor"]
    assert serials(entries) == [1]


def test_what_is_committed_is_not_given_out_again(place: Place) -> None:
    place.write(event(1) + event(2))
    tail = place.open()
    assert serials(drain(tail)) == [1, 2]
    tail.commit()
    place.write(event(3))
    again = place.open()
    entries = drain(again)
    assert serials(entries) == [3]
    assert gaps(entries) == []


def test_what_is_not_committed_is_given_out_again(place: Place) -> None:
    place.write(event(1) + event(2))
    drain(place.open())
    assert serials(drain(place.open())) == [1, 2]


def test_a_line_is_given_out_when_it_is_whole(place: Place) -> None:
    whole = event(1)
    tail = place.open()
    place.write(whole[:100])
    assert serials(drain(tail)) == []
    place.write(whole[100:])
    assert serials(drain(tail)) == [1]


def test_a_cursor_inside_an_open_event_reads_it_again_but_not_the_ones_done(place: Place) -> None:
    one, two = event(1).splitlines(keepends=True), event(2)
    place.write(one[0] + two + one[1])
    tail = place.open()
    assert serials(drain(tail)) == [2]
    tail.commit()
    place.write(one[2])
    entries = drain(place.open())
    assert serials(entries) == [1]
    assert gaps(entries) == []


def test_the_log_is_followed_over_a_rotation(place: Place) -> None:
    tail = place.open()
    place.write(event(1))
    drain(tail)
    place.write(event(2))
    place.rotate()
    place.write(event(3))
    entries = drain(tail)
    assert serials(entries) == [2, 3]
    assert gaps(entries) == []


def test_the_log_is_followed_over_several_rotations_at_once(place: Place) -> None:
    tail = place.open()
    place.write(event(1))
    drain(tail)
    for serial in (2, 3, 4):
        place.rotate()
        place.write(event(serial))
    assert serials(drain(tail)) == [2, 3, 4]
    assert gaps(drain(tail)) == []


def test_the_log_is_followed_over_rotations_while_nobody_reads(place: Place) -> None:
    tail = place.open()
    place.write(event(1))
    drain(tail)
    tail.commit()
    tail.follower.close()
    place.write(event(2))
    for serial in (3, 4):
        place.rotate()
        place.write(event(serial))
    entries = drain(place.open())
    assert serials(entries) == [2, 3, 4]
    assert gaps(entries) == []


def test_a_log_that_went_unread_is_a_gap_with_the_missing_numbers(place: Place) -> None:
    place.keep = 2
    tail = place.open()
    place.write(event(1))
    drain(tail)
    tail.commit()
    tail.follower.close()
    for serial in range(2, 9):
        place.rotate()
        place.write(event(serial, MS + serial * 10_000))
    again = place.open()
    entries = drain(again)
    entries += again.poll(MS) + again.poll(MS + 10_000)  # the log stands still: nothing more comes
    assert serials(entries) == [6, 7, 8]
    assert "rotated-away" in gaps(entries)
    missing = [entry.data for entry in entries if entry.data.get("reason") == "serial"]
    assert [(gap["first"], gap["last"], gap["count"]) for gap in missing] == [(2, 5, 4)]


def test_rotated_away_under_an_open_follower_is_a_gap_and_the_open_file_is_finished(
    place: Place,
) -> None:
    place.keep = 1
    tail = place.open()
    place.write(event(1))
    drain(tail)
    place.write(event(2))
    place.rotate()
    place.write(event(3))
    place.rotate()
    place.write(event(4))
    entries = drain(tail)
    assert serials(entries) == [2, 3, 4]
    assert gaps(entries) == ["rotated-away"]


def test_a_truncated_log_is_a_gap_and_read_from_its_start(place: Place) -> None:
    tail = place.open()
    place.write(event(1) + event(2))
    drain(tail)
    place.log.write_bytes(event(3))
    entries = drain(tail)
    assert gaps(entries) == ["truncated"]
    assert serials(entries) == [3]


def test_a_log_truncated_while_nobody_reads_is_a_gap(place: Place) -> None:
    place.write(event(1) + event(2) + event(3))
    tail = place.open()
    drain(tail)
    tail.commit()
    data = place.log.read_bytes()
    os.truncate(place.log, len(event(1)))
    assert place.log.read_bytes() == data[: len(event(1))]
    assert "truncated" in gaps(drain(place.open()))


def test_another_file_with_the_same_inode_is_not_taken_for_the_old_one(place: Place) -> None:
    place.write(event(1))
    tail = place.open()
    drain(tail)
    tail.commit()
    tail.follower.close()
    cursor = json.loads(place.cursor.read_bytes())
    place.log.write_bytes(event(7) + event(8))  # same inode, other first line
    assert os.stat(place.log).st_ino == cursor["inode"]
    entries = drain(place.open())
    assert "rotated-away" in gaps(entries)
    assert serials(entries) == [7, 8]


def test_a_boot_begins_the_numbers_anew_without_a_gap(place: Place) -> None:
    place.write(event(900))
    tail = place.open()
    drain(tail)
    tail.commit()
    place.write(event(5, MS + 60_000))
    entries = drain(place.open(boot="boot-2"))
    assert serials(entries) == [5]
    assert gaps(entries) == []


def test_events_missed_between_two_runs_are_a_gap(place: Place) -> None:
    place.write(event(900))
    tail = place.open()
    drain(tail)
    tail.commit()
    place.write(event(904, MS + 60_000) + event(905, MS + 120_000))
    again = place.open()
    entries = drain(again)
    entries += again.poll(MS) + again.poll(MS + 10_000)  # the log stands still: nothing more comes
    assert [entry.data["count"] for entry in entries if entry.kind == GAP] == [3]


def test_a_log_that_is_not_there_yet_is_waited_for(place: Place) -> None:
    place.log.unlink()
    tail = place.open()
    assert serials(drain(tail)) == []
    assert tail.follower.missing
    place.write(event(1))
    assert serials(drain(tail)) == [1]
    assert not tail.follower.missing


def test_an_endless_line_is_counted_once_and_left_behind(place: Place) -> None:
    tail = place.open()
    drain(tail)
    place.write(event(1) + b"x" * 3_000_000 + b"\n" + event(2))
    entries = drain(tail)
    assert serials(entries) == [1, 2]
    assert gaps(entries) == ["overlong"]
    tail.commit()
    assert serials(drain(place.open())) == []


def test_a_torn_line_at_a_rotation_does_not_touch_its_neighbours(place: Place) -> None:
    tail = place.open()
    place.write(event(1) + event(2)[:80])
    place.rotate()
    place.write(event(3))
    entries = drain(tail)
    assert serials(entries) == [1, 3]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "inode": "x"}', "\x00\xff"]
)
def test_a_cursor_that_says_nothing_sound_is_none(place: Place, text: str) -> None:
    place.cursor.write_bytes(text.encode("utf-8", "surrogateescape"))
    place.write(event(1))
    entries = drain(place.open())
    assert gaps(entries) == ["no-cursor"]
    assert serials(entries) == [1]


def test_a_power_cut_while_the_cursor_is_written_leaves_the_old_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(event(1))
    tail = place.open()
    drain(tail)
    tail.commit()
    before = place.cursor.read_bytes()
    place.write(event(2))
    drain(tail)

    def cut(_self: Path, _target: Path) -> None:
        raise OSError(5, "power cut")

    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(OSError, match="power cut"):
        tail.commit()
    monkeypatch.undo()
    assert place.cursor.read_bytes() == before
    assert list(place.cursor.parent.glob(".cursor-*")) == []
    assert serials(drain(place.open())) == [2]


def test_killed_at_any_point_every_event_is_journalled_and_repeats_can_be_told(
    tmp_path: Path,
) -> None:
    """Kill after every number of lines, before and after the commit; rotate on the way."""
    wanted = list(range(1, 13))
    for lines in (1, 2, 3, 4, 7):
        for commits in (True, False):
            folder = tmp_path / f"{lines}-{commits}"
            folder.mkdir()
            place = Place(folder, keep=8)
            journal: list[int] = []
            for serial in wanted:
                place.write(event(serial, MS + serial * 100))
                if serial % 5 == 0:
                    place.rotate()
                tail = place.open()  # a new process every time
                entries = tail.poll(MS, max_lines=lines)
                journal += serials(entries)
                if commits or serial % 2:
                    tail.commit()
                tail.follower.close()
            for _ in range(60):
                tail = place.open()
                journal += serials(tail.poll(MS, max_lines=lines))
                tail.commit()
                tail.follower.close()
            assert sorted(set(journal)) == wanted, (lines, commits)
            if commits:
                assert sorted(journal) == wanted, (lines, commits)


def test_the_kernels_status_is_read_from_its_own_message() -> None:
    values = (0, 1, 1, 401, 0, 8192, 12, 3)
    message = struct.pack("=IHHII", 16 + 32, 1000, 0, 1, 0) + struct.pack("=8I", *values)
    assert parse_status(message) == KernelStatus(1, 1, 401, 0, 8192, 12, 3)


def test_a_kernel_that_refuses_or_garbles_is_an_error() -> None:
    refused = struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -1)
    with pytest.raises(PermissionError):
        parse_status(refused)
    for message in (b"", b"\x00" * 10, struct.pack("=IHHII", 16, 1000, 0, 1, 0)):
        with pytest.raises(OSError, match="garbled"):
            parse_status(message)
