"""When the module wall closes: total, pure, and open only for a reason that is told."""

from __future__ import annotations

from dataclasses import dataclass

from sekisho.devices.module_list import Wanted


@dataclass(frozen=True, slots=True)
class State:
    """What is known when the wall is judged.

    Attributes:
        closed: `kernel.modules_disabled` is 1 already.
        proven: a boot with exactly this list was come back into.
        maintenance: the id of an order in force that opens this boot, or "".

    """

    closed: bool
    proven: bool
    maintenance: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to close now, and why."""

    close: bool
    why: str


def decide(wanted: Wanted, state: State) -> Decision:
    """Say whether the wall closes at this boot."""
    if state.closed:
        return Decision(close=False, why="closed already")
    if wanted.lock == "off":
        return Decision(close=False, why="the site leaves it open")
    if wanted.lock == "dry-run":
        return Decision(close=False, why="dry run: only told what would be refused")
    if state.maintenance:
        return Decision(close=False, why=f"maintenance order {state.maintenance}")
    if not state.proven:
        return Decision(close=False, why="trial boot: the list is not proven yet")
    return Decision(close=True, why="the list is proven")


@dataclass(frozen=True, slots=True)
class Boot:
    """What the last boot showed of the list that is wanted now.

    Attributes:
        tried: it was this very list, to be enforced, that the boot loaded.
        late: modules loaded since that are not in it: the wall would have refused them.
        lost: why nobody could come in at the console with the wall closed, or "".

    """

    tried: bool
    late: tuple[str, ...] = ()
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to a running machine: ``nothing``, ``prove``, ``close`` (and prove)."""

    act: str
    why: str
    needs_boot: bool = False


def settle(wanted: Wanted, state: State, boot: Boot) -> Step:
    """Say what a machine needs to come to its policy, asked by somebody who came in after the boot.

    That they came in is the proof the wall waits for; a list no boot has tried needs one.
    """
    decision = decide(wanted, state)
    ordered = bool(state.maintenance) and not state.closed
    if wanted.lock != "enforce" or ordered or (state.closed and state.proven):
        return Step("nothing", decision.why)
    if not state.proven and not boot.tried:
        why = "closed on another list" if state.closed else "no boot has tried this list yet"
        return Step("nothing", why, needs_boot=True)
    if state.closed:
        return Step("prove", "closed on this list, and come back into")
    late = f"loaded after the wall would have closed: {', '.join(boot.late)}" if boot.late else ""
    if not state.proven and (boot.lost or late):
        return Step("nothing", boot.lost or late)
    return Step("close", "the list is proven")
