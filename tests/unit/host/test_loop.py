"""The loop does what is due and outlives what fails."""

from __future__ import annotations

import os

from sekisho.host.agent.loop import Loop


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def quiet(_part: str, _error: Exception) -> None:
    """Hear of failures and say nothing."""


def fail() -> None:
    raise ValueError("broken")


def test_timers_run_in_their_order_and_again() -> None:
    clock, seen = Clock(), []
    loop = Loop(quiet, clock)
    loop.every("a", 2.0, lambda: seen.append("a"))
    loop.after("b", 1.0, lambda: seen.append("b"))
    for now in (1.0, 2.0, 4.0):
        clock.now = now
        loop.turn()
    assert seen == ["b", "a", "a"]


def test_after_a_pause_of_the_machine_timers_do_not_catch_up() -> None:
    clock, seen = Clock(), []
    loop = Loop(quiet, clock)
    loop.every("a", 1.0, lambda: seen.append("a"))
    clock.now = 1000.0
    loop.turn()
    assert (seen, loop.lag_s) == (["a"], 999.0)


def test_a_part_that_fails_is_told_and_the_others_go_on() -> None:
    clock, seen = Clock(), []
    loop = Loop(lambda part, error: seen.append(f"{part}: {error}"), clock)
    loop.every("bad", 1.0, fail)
    loop.every("good", 1.0, lambda: seen.append("good"))
    for now in (1.0, 2.0):
        clock.now = now
        loop.turn()
    assert seen == ["bad: broken", "good"] * 2


def test_a_descriptor_that_is_ready_is_served_until_it_is_forgotten() -> None:
    read, write = os.pipe()
    clock, seen = Clock(), []
    loop = Loop(quiet, clock)
    with os.fdopen(read, "rb") as source:
        loop.reader("pipe", source, lambda: seen.append(os.read(read, 10)))
        os.write(write, b"x")
        loop.turn()
        loop.forget(source)
    os.close(write)
    loop.after("end", 0.0, loop.stop)
    loop.run()
    loop.close()
    assert seen == [b"x"]


def test_a_timer_that_asks_to_be_called_at_once_does_not_starve_the_rest() -> None:
    clock, seen = Clock(), []
    loop = Loop(quiet, clock)

    def again() -> None:
        seen.append("again")
        loop.after("a", 0.0, again)

    again()
    loop.turn()
    assert seen == ["again"] * 2
