"""The table of the agent's parts: what is not in it does not run, and nothing else names them all.

They start in this order and end in the opposite one: the journal first and last. The policy is read
when all that takes it is there.
"""

from __future__ import annotations

from sekisho.host.agent.part import Part
from sekisho.host.agent.parts.activity import ActivityPart
from sekisho.host.agent.parts.devices import DevicesPart
from sekisho.host.agent.parts.exceptions import ExceptionsPart
from sekisho.host.agent.parts.files import FilesPart
from sekisho.host.agent.parts.health import HealthPart
from sekisho.host.agent.parts.intake import IntakePart
from sekisho.host.agent.parts.journal import JournalPart
from sekisho.host.agent.parts.lines import LinesPart
from sekisho.host.agent.parts.listeners import ListenersPart
from sekisho.host.agent.parts.metrics import MetricsPart
from sekisho.host.agent.parts.modules import ModulesPart
from sekisho.host.agent.parts.network import NetworkPart
from sekisho.host.agent.parts.policy import PolicyPart
from sekisho.host.agent.parts.rules import RulesPart

PARTS: tuple[type[Part], ...] = (
    JournalPart,
    IntakePart,
    RulesPart,
    NetworkPart,
    ExceptionsPart,
    DevicesPart,
    FilesPart,
    ListenersPart,
    ModulesPart,
    LinesPart,
    ActivityPart,
    MetricsPart,
    PolicyPart,
    HealthPart,
)


def checks() -> list[str]:
    """Return the id of everything that can be detected on a host."""
    return sorted({check for part in PARTS for check in part.CHECKS})


def labels() -> dict[str, tuple[str, ...]]:
    """Return the metrics' labels whose values the parts make."""
    return {"check": tuple(checks()), "part": tuple(part.NAME for part in PARTS)}


if __name__ == "__main__":
    import sys

    from sekisho.host.metrics_table import reference

    sys.stdout.write(reference(labels()["part"]))
