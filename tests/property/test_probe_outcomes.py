"""Whatever a host sends as outcomes: readers raise ProbeError or nothing, and none of it passes."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.catalogue.facts import facts_from_raw
from sekisho.catalogue.judge import HostFacts, judge
from sekisho.catalogue.model import Catalogue, Verdict
from sekisho.control.catalogue_files import load_catalogue
from sekisho.local.collect import collect
from sekisho.probes.model import ProbeError, Run
from sekisho.probes.registry import registry

NAMES = sorted(registry())
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.text(max_size=40),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=8), st.integers(), max_size=3),
)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(Path(__file__).resolve().parents[2] / "hardening")


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """Return this machine's own outcomes: mutilating real ones reaches deep into the readers."""
    raw = collect(registry().values())
    return json.loads(json.dumps(raw))["probes"]  # type: ignore[no-any-return]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        # Of a big folder a few files are enough: the mutilations per place matter.
        for key in list(value)[:12]:
            found += _places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(3, len(value))):
            found += _places(value[index], (*path, index))
    return found


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@st.composite
def mutilations(draw: st.DrawFn, outcome: dict[str, Any]) -> dict[str, Any]:
    """Cut, flip, replace or drop something of an outcome, up to three times."""
    broken = copy.deepcopy(outcome)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(broken)
        if not places:
            break
        path = draw(st.sampled_from(places))
        holder, last = _at(broken, path[:-1]), path[-1]
        held = holder[last]
        choice = draw(st.sampled_from(("cut", "text", "junk", "drop")))
        if choice == "cut" and isinstance(held, str):
            holder[last] = held[: draw(st.integers(0, len(held)))]
        elif choice == "text" and isinstance(held, str):
            at = draw(st.integers(0, len(held)))
            holder[last] = held[:at] + draw(st.text(max_size=20)) + held[at + 1 :]
        elif choice == "drop" and isinstance(holder, dict):
            del holder[last]
        else:
            holder[last] = draw(JUNK)
    return broken


@pytest.mark.process
@pytest.mark.parametrize("name", NAMES)
def test_a_mutilated_outcome_raises_nothing_but_a_probe_error(
    name: str, real: dict[str, Any]
) -> None:
    probe = registry()[name]

    @settings(
        max_examples=examples(60),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(mutilations(real[name]))
    def read(outcome: dict[str, Any]) -> None:
        with contextlib.suppress(ProbeError):
            probe.parse(outcome)

    read()


@pytest.mark.parametrize("name", NAMES)
@given(JUNK)
@settings(max_examples=examples(20), deadline=None)
def test_an_outcome_that_is_none_never_escapes(name: str, outcome: Any) -> None:
    raw = {"schema": 1, "probes": {name: outcome}}
    fact = facts_from_raw(raw, [name])[name]
    if not isinstance(outcome, dict):
        assert fact.error is not None
    elif fact.error is not None:
        assert not fact.error.startswith("the reader failed"), fact.error


def _failed(operation: Any) -> dict[str, Any]:
    if isinstance(operation, Run):
        return {"error": f"{operation.argv[0]} gave no answer within 20 s"}
    return {
        "files": {
            path: {"mode": 0, "uid": -1, "gid": -1, "kind": "other", "error": "Permission denied"}
            for path in operation.globs
        }
    }


def _cut(operation: Any) -> dict[str, Any]:
    if isinstance(operation, Run):
        return {"rc": 0, "stdout": "", "stderr": "", "truncated": True}
    return {"error": "cut"}


def _killed(operation: Any) -> dict[str, Any]:
    if isinstance(operation, Run):
        return {"rc": -9, "stdout": "", "stderr": "", "truncated": False}
    return {}


@pytest.mark.parametrize("breakage", [_failed, _cut, _killed])
def test_no_check_passes_on_a_host_where_every_operation_failed(
    breakage: Callable[[Any], dict[str, Any]], catalogue: Catalogue
) -> None:
    raw = {
        "schema": 1,
        "probes": {
            name: {label: breakage(operation) for label, operation in probe.operations.items()}
            for name, probe in registry().items()
        },
    }
    facts = facts_from_raw(raw)
    passed = [
        f"{check.id} on {role}: {finding.observed}"
        for role in ("inbound", "core", "outbound", "gateway", "monitor", "terminal")
        for check in catalogue.checks
        for finding in [judge(check, HostFacts(host="h", role=role, facts=facts, policy={}))]
        if finding.verdict is Verdict.PASS
    ]
    assert passed == []
