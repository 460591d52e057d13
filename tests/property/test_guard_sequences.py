"""The guard under any sequence of changes, confirmations, roll-backs, boots, kills and cuts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from guardfaults import Disk, Machine, killed_at, recorded
from sekisho.host.guard.request import GuardError

pytestmark = pytest.mark.process  # operations run, and die, in processes of their own
Act = Callable[[Machine], object]

VERSIONS = st.sampled_from(["one", "two", "three"])
ACTS = st.one_of(
    st.tuples(st.just("apply"), VERSIONS),
    st.tuples(st.sampled_from(["confirm", "rollback", "restore", "wrong"]), st.just("")),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("do"), ACTS, st.just(0)),
        st.tuples(st.just("kill"), ACTS, st.integers(1, 60)),
        st.tuples(st.just("cut"), ACTS, st.integers(0, 10_000)),
        st.tuples(st.sampled_from(["boot", "timer"]), st.just(("", "")), st.just(0)),
    ),
    min_size=1,
    max_size=8,
)


def does(what: str, version: str) -> Act:
    def act(machine: Machine) -> None:
        pending = machine.state / "pending.json"
        token = json.loads(pending.read_bytes())["token"] if pending.exists() else "0" * 16
        try:
            if what == "apply":
                machine.guard.apply(machine.wanted(version))
            elif what == "restore":
                machine.guard.apply(machine.guard.previous())
            elif what == "confirm":
                machine.guard.confirm(token)
            elif what == "rollback":
                machine.guard.rollback(token)
            else:
                machine.guard.confirm("f" * 16)
        except GuardError:  # refused: nothing to confirm, another change pending, nothing earlier
            pass

    return act


def cut(machine: Machine, act: Act, choice: int) -> None:
    """Cut the power at one of the moments of ``act``, and leave one of the disks that may be."""
    start = Disk(machine.disk)
    log = [change for change in recorded(machine, [act]) if change[0] != "done"]
    for change in log[: choice % (len(log) + 1)]:
        start.take(change)
    disks = list(start.after_cut())
    start.write(disks[choice % len(disks)])
    machine.power_cycle()


@settings(max_examples=examples(60))
@given(STEPS)
def test_whatever_happens_one_version_is_whole_and_the_next_change_works(
    steps: list[tuple[str, tuple[str, str], int]],
) -> None:
    with tempfile.TemporaryDirectory(prefix="sekisho-guard-", dir="/dev/shm") as name:
        machine = Machine(Path(name))
        ever = False
        for how, (what, version), number in steps:
            if how == "do":
                does(what, version)(machine)
            elif how == "kill":
                killed_at(machine, does(what, version), number)
                machine.watch = None
            elif how == "cut":
                cut(machine, does(what, version), number)
            elif how == "boot":
                machine.power_cycle()
            else:
                machine.fire_timers()
            confirmed = machine.state / "confirmed.json"
            ever = ever or confirmed.exists()
            assert confirmed.exists() is ever, "what was confirmed stays so"
            if ever:
                assert machine.loaded() in {"one", "two", "three"}, "never none"
            if (machine.state / "pending.json").exists():
                assert machine.timers(), "something frees the host"
        machine.fire_timers()
        assert not (machine.state / "pending.json").exists()
        assert len(machine.versions(running=True)) == 1
        answer = machine.guard.apply(machine.wanted("last"))
        machine.guard.confirm(answer["token"])
        assert machine.versions(running=True) == {"last"}
        assert machine.guard.plan(machine.wanted("last")) == []
