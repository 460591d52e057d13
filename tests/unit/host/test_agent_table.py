"""The table of the agent's parts is the only list of them; the catalogue is held to it."""

from __future__ import annotations

from pathlib import Path

import yaml

from sekisho.host.agent.table import PARTS


def test_every_part_stands_once_under_a_name_of_its_own() -> None:
    assert len({part.NAME for part in PARTS}) == len(set(PARTS)) == len(PARTS)


def test_the_audit_asks_for_every_part(repository: Path) -> None:
    path = repository / "hardening/checks/6-v-b.agent-whole/check.yml"
    check = yaml.safe_load(path.read_text(encoding="utf-8"))
    (wanted,) = (one["value"] for one in check["asserts"] if one["key"] == ["parts_up"])
    assert wanted == sorted(part.NAME for part in PARTS)
