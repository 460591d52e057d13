"""The dead-man's guard, its commands replaced: transactions, refusals, power cuts."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from sekisho.host.guard import files as guard_files
from sekisho.host.guard.guard import Done, Guard
from sekisho.host.guard.request import GuardError, parse_wanted


class Host:
    """Answers commands as a host would; ``refuse`` names programs that fail."""

    def __init__(self) -> None:
        self.refuse: set[str] = set()
        self.loaded: bytes | None = None
        self.calls: list[list[str]] = []

    def __call__(self, argv: Sequence[str], stdin: bytes) -> Done:
        self.calls.append(list(argv))
        key = " ".join(argv)
        if any(key.startswith(word) for word in self.refuse):
            return Done(1, b"", b"refused by the test")
        if argv[:3] == ["nft", "-j", "-s"]:
            if self.loaded is None:
                return Done(1, b"", b"No such table")
            return Done(
                0,
                json.dumps({"nftables": [{"text": {"held": self.loaded.decode()}}]}).encode(),
                b"",
            )
        if argv[:3] == ["nft", "-j", "-f"]:
            self.loaded = stdin
        return Done(0, b"", b"")


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def guard(tmp_path: Path, host: Host) -> Guard:
    return Guard(state=tmp_path / "guard", run=host, usb=tmp_path / "usb")


def request(tmp_path: Path, text: str = "new", kind: str = "nftables") -> list[object]:
    return [{"path": str(tmp_path / "etc/rules"), "content": text, "mode": "0600", "kind": kind}]


def test_a_change_is_applied_and_waits_for_confirmation(
    guard: Guard, host: Host, tmp_path: Path
) -> None:
    answer = guard.apply(parse_wanted(request(tmp_path)))
    assert answer["changed"] is True
    assert (tmp_path / "etc/rules").read_text() == "new"
    assert guard.pending.exists()
    assert any(call[0] == "systemd-run" and "--on-active=50" in call for call in host.calls)


def test_a_confirmed_change_stays_and_a_second_run_changes_nothing(
    guard: Guard, tmp_path: Path
) -> None:
    token = guard.apply(parse_wanted(request(tmp_path)))["token"]
    assert guard.confirm(token) == {"confirmed": token}
    assert guard.apply(parse_wanted(request(tmp_path))) == {"changed": False, "diff": []}


def test_a_flushed_table_is_a_difference_although_the_file_stands(
    guard: Guard, host: Host, tmp_path: Path
) -> None:
    guard.confirm(guard.apply(parse_wanted(request(tmp_path)))["token"])
    host.loaded = None
    assert [entry["path"] for entry in guard.plan(parse_wanted(request(tmp_path)))] == [
        "table inet sekisho (loaded)"
    ]


def test_without_confirmation_everything_goes_back(guard: Guard, tmp_path: Path) -> None:
    rules = tmp_path / "etc/rules"
    rules.parent.mkdir()
    rules.write_text("old")
    rules.chmod(0o640)
    token = guard.apply(parse_wanted(request(tmp_path)))["token"]
    assert guard.rollback(token)["rolled_back"] == token
    assert rules.read_text() == "old"
    assert rules.stat().st_mode & 0o777 == 0o640
    with pytest.raises(GuardError, match="rolled back already"):
        guard.confirm(token)


def test_after_a_power_cut_the_boot_puts_the_files_back(
    guard: Guard, host: Host, tmp_path: Path
) -> None:
    guard.apply(parse_wanted(request(tmp_path)))
    again = Guard(state=guard.state, run=host, usb=guard.usb)
    assert again.rollback(live=False)["rolled_back"] is not None
    assert not (tmp_path / "etc/rules").exists()
    assert not again.pending.exists()


def test_a_file_that_was_not_there_is_removed_again(guard: Guard, tmp_path: Path) -> None:
    guard.rollback(guard.apply(parse_wanted(request(tmp_path)))["token"])
    assert not (tmp_path / "etc/rules").exists()


@pytest.mark.parametrize("program", ["nft -c", "systemd-run", "nft -j -f"])
def test_any_refused_step_leaves_nothing_changed(
    guard: Guard, host: Host, tmp_path: Path, program: str
) -> None:
    host.refuse = {program}
    with pytest.raises(GuardError, match="refused by the test"):
        guard.apply(parse_wanted(request(tmp_path)))
    assert not (tmp_path / "etc/rules").exists()
    assert not guard.pending.exists()


class FullDisk:
    """Lets the first writes through, then fails each as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        write = guard_files.write_atomic

        def limited(path: Path, data: bytes, mode: int, **named: str) -> None:
            self.room -= 1
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, data, mode, **named)

        monkeypatch.setattr(guard_files, "write_atomic", limited)


@pytest.mark.parametrize("room", range(4))
def test_a_disk_that_is_full_at_any_write_leaves_nothing_changed(
    guard: Guard, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    guard.confirm(guard.apply(parse_wanted(request(tmp_path, "old")))["token"])
    standing = sorted(path.name for path in guard.state.iterdir())
    FullDisk(monkeypatch, room)
    with pytest.raises(GuardError, match="No space left"):
        guard.apply(parse_wanted(request(tmp_path)))
    assert (tmp_path / "etc/rules").read_text() == "old"
    assert host.loaded is not None
    assert host.loaded != b"new"
    # That a change was rolled back is kept, for whoever comes to confirm it.
    left = {path.name for path in guard.state.iterdir()} - {"rolled-back.json"}
    assert sorted(left) == standing


def test_a_full_disk_keeps_the_file_but_not_the_loaded_rules_from_going_back(
    guard: Guard, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.confirm(guard.apply(parse_wanted(request(tmp_path, "old")))["token"])
    token = guard.apply(parse_wanted(request(tmp_path)))["token"]
    disk = FullDisk(monkeypatch, 0)
    with pytest.raises(GuardError, match="not put back on disk"):
        guard.rollback(token)
    assert host.loaded is not None
    assert host.loaded != b"new", "the rules that were kept are loaded"
    assert guard.pending.exists()
    disk.room = 9
    assert guard.rollback(token)["rolled_back"] == token
    assert (tmp_path / "etc/rules").read_text() == "old"


def test_a_broken_sshd_configuration_is_taken_back_before_sshd_reads_it(
    guard: Guard, host: Host, tmp_path: Path
) -> None:
    host.refuse = {"sshd -t"}
    with pytest.raises(GuardError, match="sshd's own test"):
        guard.apply(parse_wanted(request(tmp_path, kind="sshd")))
    assert not (tmp_path / "etc/rules").exists()


def test_a_second_change_waits_for_the_first(guard: Guard, tmp_path: Path) -> None:
    guard.apply(parse_wanted(request(tmp_path)))
    with pytest.raises(GuardError, match="neither confirmed nor rolled back"):
        guard.apply(parse_wanted(request(tmp_path, "newer")))


def test_the_state_before_the_last_change_can_be_asked_for(guard: Guard, tmp_path: Path) -> None:
    guard.confirm(guard.apply(parse_wanted(request(tmp_path, "one")))["token"])
    guard.confirm(guard.apply(parse_wanted(request(tmp_path, "two")))["token"])
    assert [entry.content for entry in guard.previous()] == [b"one"]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        [{}],
        [{"path": "relative", "content": "", "kind": "sshd"}],
        [{"path": "/a/../b", "content": "", "kind": "sshd"}],
        [{"path": "/a", "content": 3, "kind": "sshd"}],
        [{"path": "/a", "content": "", "kind": "other"}],
        [{"path": "/a", "content": "", "mode": "rw", "kind": "sshd"}],
        ["text"],
    ],
)
def test_garbled_requests_are_refused(raw: object) -> None:
    with pytest.raises(GuardError):
        parse_wanted(raw)


def test_running_sessions_are_kept_by_the_first_load_only(
    guard: Guard, host: Host, tmp_path: Path
) -> None:
    def untracked() -> list[int]:
        return [i for i, call in enumerate(host.calls) if call == ["nft", "-f", "-"]]

    def position(*words: str) -> int:
        return next(i for i, call in enumerate(host.calls) if call[: len(words)] == [*words])

    token = guard.apply(parse_wanted(request(tmp_path)))["token"]
    on, off = untracked()
    assert on < position("nft", "-c") < position("nft", "-j", "-f") < off
    guard.confirm(token)
    host.calls.clear()
    guard.apply(parse_wanted(request(tmp_path, "newer")))
    assert untracked() == []


def test_a_refused_dry_run_leaves_nothing_untracked(
    guard: Guard, host: Host, tmp_path: Path
) -> None:
    host.refuse = {"nft -c"}
    with pytest.raises(GuardError):
        guard.apply(parse_wanted(request(tmp_path)))
    assert [call for call in host.calls if call == ["nft", "-f", "-"]] == [["nft", "-f", "-"]] * 2
