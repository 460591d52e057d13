"""Every value of every JSON file of a bundle, replaced by every type of JSON: nothing is raised.

The files are signed again by the key the reader trusts, so that each mutation reaches the reader's
innermost code.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidenceworld import TOOL, check, seal, whole, write
from examples import examples
from sekisho.catalogue.compiled import Sources
from sekisho.control.catalogue_files import load_sources
from sekisho.control.cli.verify_bundle import as_json, render
from sekisho.core.canonical import canonical
from sekisho.evidence.bundle import MANIFEST
from sekisho.evidence.report import AuditRun, HostRecord
from sekisho.evidence.verification import Verdicts
from siteworld import host_policy

#: Types of JSON and the values of each that most often hurt.
INSTEAD: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "huge": 10**400,
    "empty text": "",
    "lone surrogate": "\ud800",
    "escape": "\x1b[2J\u202e",
    "long text": "9" * 5000,
    "empty list": [],
    "list": [None, [1], {"a": []}],
    "deep": json.loads("[" * 80 + "]" * 80),
    "empty object": {},
    "object": {"policy": "a.b", "name": [], "host": 5},
}
ITEM_ID = "6-iv-c"
#: A few checks of several kinds, judged from a host's facts and from its policy.
OWN = load_sources()
_CHECKS = [name for name in OWN.checks if name.startswith(f"{ITEM_ID}.")][:2]
_HELD = {name: OWN.checks[name]() for name in _CHECKS}
_ITEM = OWN.items[ITEM_ID]()
PART = Sources(
    items={ITEM_ID: lambda: _ITEM},
    checks={name: (lambda one=one: one) for name, one in _HELD.items()},  # type: ignore[misc]
)

pytestmark = pytest.mark.process  # judging is a process of its own
POLICY = host_policy("gate-in")
RAW = {
    "schema": 1,
    "milliseconds": 3,
    "probes": {
        "sysctl": {
            "live": {"files": {"/proc/sys/kernel/kptr_restrict": {"text": "2\n", "kind": "file"}}},
            "disk": {"files": {}},
        }
    },
}
RUN = whole(
    AuditRun(
        mode="ssh",
        site="lab",
        profile="producer",
        started="2026-11-22T02:00:00Z",
        finished="2026-11-22T02:00:05Z",
        tool=TOOL,
        hosts=(
            HostRecord("gate-in", RAW, POLICY),
            HostRecord("core-1", None, host_policy("core-1"), reason="no connection"),
        ),
        site_problems=("one",),
        flow_modes=("one-way-tcp",),
    ),
    PART,
)
FILES = write(RUN, PART)
VALUES = {name: json.loads(data) for name, data in FILES.items() if name.endswith(".json")}


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def put(value: Any, path: tuple[str | int, ...], instead: Any) -> Any:
    if not path:
        return instead
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = instead
    return changed


def judged(name: str, value: Any) -> Verdicts:
    """Return what a reader makes of the bundle with this file; fail for anything it raises."""
    try:
        data = canonical(value)
    except ValueError:  # more digits than Python writes
        data = b"1" * 5000
    files = FILES | {name: data}
    found = check(files if name == MANIFEST else seal(files), PART)
    assert found.exit_code in (0, 1, 2)
    said = (*found.broken, *found.unknown, *found.notes)
    assert all(line.isprintable() for line in said)
    assert not any("judging again failed" in line for line in said), said
    json.dumps(as_json(found))
    render(found, Path("bundle")).encode()
    return found


LARGE = ("policies/gate-in.json", "catalogue.json")
SMALL = sorted(set(VALUES) - set(LARGE))
PLACES = {name: list(places(value)) for name, value in VALUES.items()}


def test_the_bundle_itself_is_whole() -> None:
    assert judged("run.json", VALUES["run.json"]).exit_code == 0


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kind", INSTEAD)
def test_any_type_in_any_place_of_a_file_raises_nothing(name: str, kind: str) -> None:
    for path in PLACES[name]:
        judged(name, put(VALUES[name], path, INSTEAD[kind]))


@pytest.mark.parametrize("name", SMALL)
def test_any_value_taken_out_or_told_twice_raises_nothing(name: str) -> None:
    for path in PLACES[name]:
        if not path:
            continue
        changed = copy.deepcopy(VALUES[name])
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        if isinstance(inner, list):
            inner.append(copy.deepcopy(inner[path[-1]]))  # type: ignore[index]
            judged(name, changed)
            inner.pop()
        del inner[path[-1]]
        judged(name, changed)


#: Too many for every pair: some of each.
@settings(max_examples=examples(400))
@given(
    st.sampled_from(LARGE).flatmap(
        lambda name: st.tuples(
            st.just(name), st.sampled_from(PLACES[name]), st.sampled_from(list(INSTEAD))
        )
    )
)
def test_any_type_in_any_place_of_policy_and_catalogue_raises_nothing(
    drawn: tuple[str, tuple[str | int, ...], str],
) -> None:
    name, path, kind = drawn
    judged(name, put(VALUES[name], path, INSTEAD[kind]))


@settings(max_examples=examples(200))
@given(st.sampled_from(sorted(FILES)), st.data())
def test_without_signing_again_no_mutation_is_whole(name: str, data: st.DataObject) -> None:
    held = FILES[name]
    at = data.draw(st.integers(0, len(held)))
    cut = data.draw(st.integers(0, 20))
    changed = held[:at] + data.draw(st.binary(max_size=20)) + held[at + cut :]
    if changed != held:
        assert check(FILES | {name: changed}, PART).exit_code in (1, 2)
