"""The guard killed at every step, and the power cut at every step: old or new, never none."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guardfaults import Disk, Machine, cuts, killed_at, recorded
from sekisho.host.guard import files as guard_files
from sekisho.host.guard import store as guard_store
from sekisho.host.guard.request import GuardError

pytestmark = pytest.mark.process  # the operation runs, and dies, in a process of its own
Act = Callable[[Machine], object]
OLD, NEW, NEXT = "old", "new", "next"


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder in memory: thousands of fsync are tried, and no disk is meant."""
    with tempfile.TemporaryDirectory(prefix="sekisho-guard-", dir="/dev/shm") as name:
        yield Path(name)


def token(machine: Machine) -> str:
    return str(json.loads((machine.state / "pending.json").read_bytes())["token"])


def applies(version: str) -> Act:
    return lambda machine: machine.guard.apply(machine.wanted(version))


def confirms(machine: Machine) -> object:
    return machine.guard.confirm(token(machine))


def rolls_back(machine: Machine) -> object:
    return machine.guard.rollback(token(machine))


def boots(machine: Machine) -> object:
    return machine.guard.rollback(live=False)


def restores(machine: Machine) -> object:
    return machine.guard.apply(machine.guard.previous())


def earlier_form(machine: Machine) -> None:
    """Bring the state directory to the form of the version before this one."""
    state = machine.state
    marker = json.loads((state / "confirmed.json").read_bytes())
    folder = state / marker["token"]
    (folder / "readback.json").replace(state / "readback.json")
    (state / "confirmed.json").replace(folder / "marker.json")
    folder.rename(state / "previous")


#: Scene → what leads up to the operation, the operation, versions that may be after it.
SCENES: dict[str, tuple[list[Act], Act, set[str | None]]] = {
    "apply, on a fresh host": ([], applies(NEW), {None}),
    "apply": ([applies(OLD), confirms], applies(NEW), {OLD}),
    "confirm, on a fresh host": ([applies(NEW)], confirms, {None, NEW}),
    "confirm": ([applies(OLD), confirms, applies(NEW)], confirms, {OLD, NEW}),
    "roll back, on a fresh host": ([applies(NEW)], rolls_back, {None}),
    "roll back": ([applies(OLD), confirms, applies(NEW)], rolls_back, {OLD}),
    "boot": ([applies(OLD), confirms, applies(NEW)], boots, {OLD}),
    "restore the earlier state": (
        [applies(OLD), confirms, applies(NEW), confirms], restores, {NEW},
    ),
    "confirm, the state in the earlier form": (
        [applies(OLD), confirms, earlier_form, applies(NEW)], confirms, {OLD, NEW},
    ),
    "apply, the state in the earlier form": (
        [applies(OLD), confirms, earlier_form], applies(NEW), {OLD},
    ),
}  # fmt: skip


def prepared(root: Path, before: list[Act]) -> Machine:
    machine = Machine(root)
    for act in before:
        act(machine)
    return machine


def goes_on(machine: Machine) -> None:
    """The next change works and leaves nothing behind: the guard is not wedged."""
    guard = machine.guard
    answer = guard.apply(machine.wanted(NEXT))
    assert machine.versions(running=True) == {NEXT}
    guard.confirm(answer["token"])
    assert guard.plan(machine.wanted(NEXT)) == []
    assert not machine.untracked()
    left = {path.name for path in machine.state.iterdir()} - {"rolled-back.json"}
    assert left == {"lock", "confirmed.json", answer["token"]}
    assert [path.name for path in machine.rules.parent.iterdir()] == ["rules"]


@pytest.mark.parametrize("recovery", ["timer", "boot"])
@pytest.mark.parametrize("scene", SCENES)
def test_killed_at_every_step_the_host_has_the_old_or_the_new(
    place: Path, scene: str, recovery: str
) -> None:
    before, act, allowed = SCENES[scene]
    step, seen = 1, set()
    while True:
        machine = prepared(place / str(step), before)
        if scene == "boot":  # the kernel is empty, and no timer is armed
            for path in machine.kernel.iterdir():
                path.unlink()
        was = machine.loaded()
        killed = killed_at(machine, act, step)
        machine.watch = None
        standing = {was, OLD, NEW} | ({None} if None in allowed else set())
        assert machine.loaded() in standing, f"step {step}: never none"
        pending = machine.state / "pending.json"
        if pending.exists() and scene != "boot":
            assert token(machine) in machine.timers(), f"step {step}: nothing frees the host"
        if recovery == "boot" or scene == "boot":
            machine.power_cycle()
        else:
            machine.fire_timers()
        assert not pending.exists(), f"step {step}"
        found = machine.versions(running=True)
        assert len(found) == 1, f"step {step}: half changed: {found}"
        assert found <= allowed, f"step {step}: {found}"
        assert not machine.untracked(), f"step {step}"
        seen |= found
        goes_on(machine)
        if not killed:
            break
        step += 1
    assert step > 5, "nothing was tried"
    assert seen == allowed, "each of them was seen"


#: What leads up to it (lasting), then acts in one go, and what is right once so many are done.
CUTS: dict[str, tuple[list[Act], list[Act], list[set[str | None]]]] = {
    "first change": ([], [applies(NEW), confirms], [{None}, {None, NEW}, {NEW}]),
    "second change": (
        [applies(OLD), confirms], [applies(NEW), confirms], [{OLD}, {OLD, NEW}, {NEW}],
    ),
    "first change rolled back": ([], [applies(NEW), rolls_back], [{None}, {None}, {None}]),
    "second change rolled back": (
        [applies(OLD), confirms], [applies(NEW), rolls_back], [{OLD}, {OLD}, {OLD}],
    ),
    "boot": ([applies(OLD), confirms, applies(NEW)], [boots], [{OLD}, {OLD}]),
    "two changes": (
        [applies(OLD), confirms], [applies(NEW), confirms, applies(NEXT), confirms],
        [{OLD}, {OLD, NEW}, {NEW}, {NEW, NEXT}, {NEXT}],
    ),
    "taken over from the earlier form": (
        [applies(OLD), confirms, earlier_form], [applies(NEW), confirms],
        [{OLD}, {OLD, NEW}, {NEW}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("scene", CUTS)
def test_a_power_cut_at_every_step_leaves_the_old_or_the_new(place: Path, scene: str) -> None:
    before, acts, right = CUTS[scene]
    machine = prepared(place, before)
    start = Disk(machine.disk)
    log = recorded(machine, acts)
    tried, last = 0, -1
    for position, done in cuts(start, log):
        where = f"after {log[max(0, position - 1)]}"
        machine.power_cycle()
        found = machine.versions(running=True)
        assert len(found) == 1, f"{where}: half changed: {found}"
        assert found <= right[done], f"{where}: {found}"
        assert not (machine.state / "pending.json").exists()
        goes_on(machine)
        tried, last = tried + 1, done
    assert tried > len(log)
    assert last == len(acts)


def test_yesterdays_confirm_killed_between_its_renames_is_confirmed(place: Path) -> None:
    """The folder had moved and the marker had not: the timer's roll-back left no rules at all."""
    machine = prepared(place, [applies(OLD), confirms, applies(NEW)])
    folder = machine.state / token(machine)
    (folder / "readback.json").write_bytes(b"{}")
    as_yesterday(machine, folder)
    machine.fire_timers()
    assert machine.versions(running=True) == {NEW}
    machine.power_cycle()
    assert machine.versions(running=True) == {NEW}
    goes_on(machine)


def as_yesterday(machine: Machine, folder: Path) -> None:
    """Do what that version had done by then."""
    marker = json.loads((machine.state / "pending.json").read_bytes())
    for key in ("table", "boot", "until", "applied", "timeout_s"):
        marker.pop(key)
    for kept in marker["files"]:
        kept.pop("sha256", None)
    (machine.state / "pending.json").write_text(json.dumps(marker))
    (folder / "readback.json").replace(machine.state / "readback.json")
    (machine.state / "confirmed.json").unlink()
    folder.rename(machine.state / "previous")


@pytest.mark.parametrize("lost", ["table.json", "file-0", "file-1", ""])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_kept_copy_that_is_gone_costs_neither_the_rules_nor_the_next_change(
    place: Path, lost: str, how: str
) -> None:
    machine = prepared(place, [applies(OLD), confirms, applies(NEW)])
    folder = machine.state / token(machine)
    for path in [folder / lost] if lost else list(folder.iterdir()):
        if how == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(GuardError, match="not restored, and left as it is"):
        rolls_back(machine)
    assert machine.loaded() in {OLD, NEW}
    assert machine.guard.status()["pending"] is False
    goes_on(machine)


def test_a_listing_that_fails_is_no_absent_table(place: Path) -> None:
    """On a busy host nft may fail: a roll-back that then knew of no table left none."""
    machine = prepared(place, [applies(OLD), confirms])
    run = machine._run

    def busy(argv: list[str], stdin: bytes) -> Any:
        if argv[:4] == ["nft", "-j", "-s", "list"]:
            return type(run(["true"], b""))(127, b"", b"timed out after 30 seconds")
        return run(argv, stdin)

    machine._run = busy  # type: ignore[method-assign]
    with pytest.raises(GuardError, match="listing the loaded rules failed"):
        applies(NEW)(machine)
    assert machine.versions(running=True) == {OLD}
    assert machine.timers() == []


def test_a_rollback_that_nft_refuses_is_tried_again(place: Path) -> None:
    machine = prepared(place, [applies(OLD), confirms, applies(NEW)])
    run = machine._run

    def refuses(argv: list[str], stdin: bytes) -> Any:
        if argv[:3] == ["nft", "-j", "-f"]:
            return type(run(["true"], b""))(1, b"", b"Cannot allocate memory")
        return run(argv, stdin)

    machine._run = refuses  # type: ignore[method-assign]
    with pytest.raises(GuardError, match="Cannot allocate memory"):
        rolls_back(machine)
    assert machine.guard.status()["pending"] is True
    machine._run = run  # type: ignore[method-assign]
    machine.fire_timers()
    assert machine.versions(running=True) == {OLD}


def test_a_listing_that_nft_does_not_take_back_is_replaced_by_its_file(place: Path) -> None:
    machine = prepared(place, [applies(OLD), confirms, applies(NEW)])
    run = machine._run

    def refuses(argv: list[str], stdin: bytes) -> Any:
        if argv[:3] == ["nft", "-j", "-f"] and b"sekisho-answers" in stdin.replace(b"_", b"-"):
            return type(run(["true"], b""))(1, b"", b"syntax error")
        if argv[:3] == ["nft", "-j", "-f"] and b'"handle"' not in stdin and b"metainfo" in stdin:
            return type(run(["true"], b""))(1, b"", b"syntax error")
        return run(argv, stdin)

    machine._run = refuses  # type: ignore[method-assign]
    rolls_back(machine)
    assert machine.versions(running=True) == {OLD}


def half_applied(machine: Machine) -> None:
    """Be killed between the two files of a change."""
    step = 1
    while machine.versions(running=False) != {OLD, NEW}:
        shutil.rmtree(machine.root)
        machine.__init__(machine.root)  # type: ignore[misc] - the same host, anew
        for act in (applies(OLD), confirms):
            act(machine)
        assert killed_at(machine, applies(NEW), step)
        machine.watch = None
        step += 1


def half_rolled_back(machine: Machine) -> None:
    """Have a roll-back that cannot restore one file, for want of room."""
    for act in (applies(OLD), confirms, applies(NEW)):
        act(machine)
    put = guard_files.write_atomic

    def full(path: Path, *words: Any, **named: Any) -> None:
        if path == machine.sshd:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(path, *words, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard_files, "write_atomic", full)
        with pytest.raises(GuardError, match="not put back on disk"):
            rolls_back(machine)


@pytest.mark.parametrize("half", [half_applied, half_rolled_back])
def test_what_is_in_force_by_half_cannot_be_confirmed(place: Path, half: Act) -> None:
    machine = Machine(place)
    half(machine)
    assert machine.versions(running=False) == {OLD, NEW}
    with pytest.raises(GuardError, match="not in force as a whole"):
        confirms(machine)
    machine.fire_timers()
    assert machine.versions(running=True) == {OLD}
    goes_on(machine)


def test_a_change_whose_timer_was_lost_does_not_block_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = prepared(place, [applies(OLD), confirms, applies(NEW)])
    machine._set("timers", [])
    with pytest.raises(GuardError, match="rolls itself back in 50 s"):
        applies(NEXT)(machine)
    later = guard_store.boottime() + 51
    monkeypatch.setattr(guard_store, "boottime", lambda: later)
    goes_on(machine)


def test_a_change_of_an_earlier_boot_does_not_block_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = prepared(place, [applies(OLD), confirms, applies(NEW)])
    monkeypatch.setattr(guard_store, "boot_id", lambda: "another")
    goes_on(machine)


def test_what_cannot_be_kept_is_not_changed(place: Path) -> None:
    machine = prepared(place, [applies(OLD), confirms])
    machine.sshd.unlink()
    machine.sshd.mkdir()
    with pytest.raises(GuardError, match="is not a regular file"):
        applies(NEW)(machine)
    assert machine.loaded() == OLD
    assert not (machine.state / "pending.json").exists()


def test_a_link_in_the_place_of_a_file_comes_back_as_a_link(place: Path) -> None:
    machine = prepared(place, [applies(OLD), confirms])
    other = machine.disk / "other"
    other.write_text("theirs")
    machine.sshd.unlink()
    machine.sshd.symlink_to(other)
    applies(NEW)(machine)
    assert not machine.sshd.is_symlink()
    rolls_back(machine)
    assert machine.sshd.is_symlink()
    assert other.read_text() == "theirs"


def test_a_confirmation_whose_answer_was_lost_is_asked_again(place: Path) -> None:
    machine = prepared(place, [applies(OLD)])
    name = token(machine)
    assert machine.guard.confirm(name) == machine.guard.confirm(name) == {"confirmed": name}


def test_a_late_confirmation_is_told_when_the_change_was_rolled_back(place: Path) -> None:
    machine = prepared(place, [applies(NEW)])
    name = token(machine)
    rolls_back(machine)
    with pytest.raises(GuardError, match=r"rolled back already, at 20.*window 50 s") as told:
        machine.guard.confirm(name)
    assert told.value.facts["rolled_back"]["token"] == name
    with pytest.raises(GuardError, match="no such change is known here"):
        machine.guard.confirm("0" * 16)
