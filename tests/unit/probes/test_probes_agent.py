"""What the agent says of itself, read from raw outcomes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sekisho.probes.agent import PROBES, STATE
from sekisho.probes.model import ProbeError

SAID = {
    "at": 1000,
    "policy_serial": 5,
    "policy_refused": False,
    "rules_digest": "0" * 64,
    "parts": {"nft": True, "metrics": False},
    "journal": {"last": 12, "sealed": 10, "lost": 0},
}
UNIT = """\
ActiveState=active
CapabilityBoundingSet=cap_net_admin cap_audit_control
WatchdogUSec=1min
DropInPaths=/etc/systemd/system/sekisho-agent.service.d/60-site.conf
"""


def entry(mode: int, text: str | None = None) -> dict[str, Any]:
    return {"mode": mode, "uid": 0, "gid": 0, "kind": "file", "text": text}


def raw(said: str | None = json.dumps(SAID), unit: str = UNIT) -> dict[str, Any]:
    return {
        "state": {"files": {} if said is None else {STATE: entry(0o644, said)}},
        "now": {"rc": 0, "stdout": "1007\n", "stderr": ""},
        "unit": {"rc": 0, "stdout": unit, "stderr": ""},
        "kept": {"files": {"/etc/sekisho/host.key.pem": entry(0o600)}},
    }


def read(outcome: dict[str, Any]) -> dict[str, Any]:
    return dict(PROBES[0].parse(outcome))


def test_parts_age_and_rights_are_told() -> None:
    found = read(raw())
    assert (found["parts_up"], found["parts_down"]) == (["nft"], ["metrics"])
    assert (found["age_s"], found["journal_unsealed"]) == (7, 2)
    assert found["unit"]["capabilities"] == ["cap_audit_control", "cap_net_admin"]
    assert found["unit"]["drop_ins"] == ["60-site.conf"]
    assert found["kept"] == {"key": {"mode": "0600", "owner": "0:0"}}


@pytest.mark.parametrize("said", ["", "{}", "[]", "null", '{"parts": 1}', json.dumps(SAID)[:-9]])
def test_a_garbled_word_of_the_agents_is_an_error(said: str) -> None:
    with pytest.raises(ProbeError):
        read(raw(said))


def test_an_active_agent_without_a_word_is_an_error_and_a_stopped_one_is_a_fact() -> None:
    with pytest.raises(ProbeError):
        read(raw(None))
    found = read(raw(None, "ActiveState=inactive\n"))
    assert found["unit"]["ActiveState"] == "inactive"
    assert "parts_up" not in found


def test_a_systemd_that_says_nothing_is_an_error() -> None:
    with pytest.raises(ProbeError):
        read(raw(unit=""))
