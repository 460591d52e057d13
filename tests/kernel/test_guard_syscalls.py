"""The guard killed at every system call that changes something: the kernel's rules, old or new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ownspace import scene

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
STEPS = Path(__file__).with_name("guardsteps.py")
#: Operation, host → the versions that may be there once the timer has run out.
MAY_BE: dict[tuple[str, str], list[list[str | None]]] = {
    ("apply", "fresh"): [[None]],
    ("apply", "second"): [["old"]],
    ("confirm", "fresh"): [[None], ["new"]],
    ("confirm", "second"): [["old"], ["new"]],
    ("rollback", "fresh"): [[None]],
    ("rollback", "second"): [["old"]],
}


@pytest.mark.parametrize(("verb", "host"), MAY_BE)
def test_killed_at_every_call_the_kernel_has_the_old_rules_or_the_new(verb: str, host: str) -> None:
    seen: list[dict[str, Any]] = scene(STEPS, verb, host, timeout=900)
    assert len(seen) > 15, "nothing was tried"
    assert [one for one in seen if "failed" in one or one["unfreed"]] == []
    before = None if host == "fresh" else "old"
    assert [one for one in seen if one["between"] not in (before, "new")] == [], "never none"
    assert [one for one in seen if one["after"] not in MAY_BE[verb, host]] == []
    assert all(any(one["after"] == it for one in seen) for it in MAY_BE[verb, host])
    assert [one for one in seen if set(one["tables"]) - {"sekisho"}] == [], "and no other table"
    assert [one for one in seen if (one["next"], one["left"]) != (["next"], ["sekisho"])] == []
