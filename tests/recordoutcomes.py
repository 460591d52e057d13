"""Record a well-formed outcome of each probe from the unit tests, for `test_parser_cost.py`.

A pytest plugin: ``pytest -p recordoutcomes tests/unit/test_probes_*.py`` (and whichever tests use
a new probe) writes tests/golden/outcomes.json again. What still parses there stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sekisho.probes.registry import registry

GOLDEN = Path(__file__).resolve().parent / "golden/outcomes.json"
LARGEST = 20_000  # characters
_READ = {name: probe.parse for name, probe in registry().items()}
_best: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}


def _rank(name: str, raw: Mapping[str, Any], text: str) -> tuple[int, ...]:
    labels = set(raw) & set(registry()[name].operations)
    told = [raw[label] for label in labels if isinstance(raw[label], dict)]
    full = sum(
        bool(one.get("stdout") or any(e.get("text") for e in one.get("files", {}).values()))
        for one in told
    )
    return len(labels), full, min(len(text), 6000)


def _recording(name: str) -> Callable[[Mapping[str, Any]], Any]:
    def parse(raw: Mapping[str, Any]) -> Any:
        found = _READ[name](raw)
        try:
            text = json.dumps(raw)
        except (TypeError, ValueError):
            return found
        rank = _rank(name, raw, text)
        if len(text) < LARGEST and (name not in _best or rank > _best[name][0]):
            _best[name] = rank, json.loads(text)
        return found

    return parse


for _name, _probe in registry().items():
    object.__setattr__(_probe, "parse", _recording(_name))


def _sound(name: str, raw: Mapping[str, Any]) -> bool:
    try:
        _READ[name](raw)
    except Exception:  # noqa: BLE001 - any other outcome is better
        return False
    return set(raw) == set(registry()[name].operations)


def pytest_sessionfinish() -> None:
    """Write what was recorded beside what is still well formed."""
    held = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    told = {name: raw for name, raw in held.items() if name in registry() and _sound(name, raw)}
    for name, (_, raw) in _best.items():
        told.setdefault(name, raw)
    text = json.dumps(told, indent=1, sort_keys=True)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
    missing = [name for name in registry() if name not in told or not _sound(name, told[name])]
    print(f"\nrecorded {len(told)} outcomes; without a whole one: {', '.join(missing) or 'none'}")  # noqa: T201
