"""The modules act on the mount and the process that were judged, on no other in their place."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ownspace import scene

pytestmark = pytest.mark.kernel
WORLD = Path(__file__).with_name("handlesworld.py")


@cache
def seen(name: str) -> Any:
    return scene(WORLD, name)


def test_everything_of_a_kind_is_unmounted_once() -> None:
    told = seen("unmounted")
    assert (told["left"], told["again"], told["kept"]) == ([], [], True)
    assert len(told["said"]) == 6  # the inner one went with the outer


def test_check_mode_tells_and_touches_nothing() -> None:
    assert seen("checked") == {"left": 1, "said": ["/tmp/handles/plain: not mounted"]}


def test_a_swapped_folder_leads_to_no_other_mount() -> None:
    told = seen("swapped")
    assert told["said"] == "a symbolic link"
    assert told["another"] == "another mount is there, or over it"
    assert told["own"]
    assert told["by path"] == 0, "the control: by its path the other one goes"


def test_a_mount_below_another_is_an_error() -> None:
    assert seen("covered") == {"said": "another mount is there, or over it", "left": [1, True]}


def test_whoever_is_given_an_ended_process_s_number_is_not_signalled() -> None:
    assert seen("renewed") == {"same number": True, "gone": True, "lives": True}


def test_a_listener_is_who_holds_the_socket_whatever_it_calls_itself() -> None:
    told = seen("listeners")
    assert told["forged as ss tells it"] == 1, "the control: the name is printed as it is"
    assert told["ended"] == told["meant"]
    assert told["commands"] == []
