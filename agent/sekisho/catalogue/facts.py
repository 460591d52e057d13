"""Raw outcomes into facts, whatever they hold: what cannot be read is an error with its reason.

This is the one wall between hostile bytes and judging. A reader that raises anything at all gives
an error fact; it never looks clean and never stops the other probes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.catalogue.judge import Fact
from sekisho.core.errors import printable
from sekisho.probes.model import ProbeError
from sekisho.probes.registry import registry

SCHEMA = 1


def facts_from_raw(raw: Any, names: Iterable[str] | None = None) -> dict[str, Fact]:
    """Return a fact for each of ``names`` (default: every registered probe).

    Args:
        raw: what `sekisho.local.collect.collect` returned: ``{"schema": 1, "probes": {…}}``.
        names: the probes to read; one that ``raw`` does not hold becomes an error.

    """
    known = registry()
    wanted = tuple(known) if names is None else tuple(names)
    if not isinstance(raw, Mapping) or raw.get("schema") != SCHEMA:
        return dict.fromkeys(wanted, Fact(error="the raw facts have no known schema"))
    outcomes = raw.get("probes")
    if not isinstance(outcomes, Mapping):
        return dict.fromkeys(wanted, Fact(error="the raw facts hold no probes"))
    return {name: _fact(name, outcomes.get(name)) for name in wanted}


def _fact(name: str, outcome: Any) -> Fact:
    probe = registry().get(name)
    if probe is None:
        return Fact(error=f"no probe is named {printable(name)}")
    if outcome is None:
        return Fact(error="the host sent no outcome")
    if not isinstance(outcome, Mapping):
        return Fact(error=f"the outcome is garbled: {type(outcome).__name__}")
    try:
        return Fact(value=probe.parse(outcome))
    except ProbeError as reason:
        return Fact(error=printable(str(reason), 400))
    except Exception as crash:  # noqa: BLE001 - a crashed reader must not look clean
        return Fact(
            error=f"the reader failed: {type(crash).__name__}: {printable(str(crash), 200)}"
        )
