"""Quarantine: the switch in the compiled rules, what it leaves by proof, and who keeps it on."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from test_agent_parts import Kernel, rules_part

from agentworld import Host
from sekisho.cli.main import main
from sekisho.core.errors import SekishoError
from sekisho.host.agent.parts.rules import DRIFT
from sekisho.host.cli import quarantine as command
from sekisho.host.guard.guard import Done, Guard
from sekisho.host.guard.request import Wanted
from sekisho.host.kernel.quarantine import Quarantine, with_switch
from sekisho.nft.quarantine import CHAINS, effect, is_on, switch, switched
from sekisho.prover.findings import Outcome, exit_code
from sekisho.prover.laws import QUARANTINE
from sekisho.prover.prove import prove
from siteworld import host_policy, lab_site, policy

SITE = lab_site()
HOSTS = sorted(SITE.machines)


def rules(host: str = "core-1") -> Any:
    return copy.deepcopy(policy(host)["nftables"])


@pytest.mark.parametrize("host", HOSTS)
def test_the_switch_comes_before_everything_but_the_loopback_and_ipv6(host: str) -> None:
    listed = [one["add"]["rule"] for one in rules(host)["nftables"] if "rule" in one.get("add", {})]
    for hook, chain in CHAINS.items():
        before = []
        for rule in (one for one in listed if one["chain"] == hook):
            if {"goto": {"target": chain}} in rule["expr"]:
                break
            before.append(rule)
        else:
            pytest.fail(f"{host}: {hook} has no switch")
        accepting = [one for one in before if {"accept": None} in one["expr"]]
        assert all('"lo"' in json.dumps(one) for one in accepting)


def test_switched_on_the_document_says_so_and_off_it_is_the_same() -> None:
    document = rules()
    assert is_on(document["nftables"]) is False
    assert switched(document, on=False) is document
    held = next(one for one in document["nftables"] if "set" in one.get("add", {}))
    assert is_on([{"set": {**held["add"]["set"], "name": "quarantine", "elem": ["ipv4"]}}]) is True
    assert is_on([]) is None
    assert [list(one) for one in switch(on=False)["nftables"]] == [["add"], ["delete"]]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("on", [False, True])
def test_every_law_is_proven_with_the_switch_off_and_on(host: str, *, on: bool) -> None:
    found = list(prove({host: switched(rules(host), on=on)}, SITE))
    assert [one.as_json() for one in found if one.outcome is not Outcome.PROVEN] == []
    assert {one.scope for one in found if one.law == QUARANTINE} >= {
        f"{host} {way}" for way in CHAINS
    }


def _without(hook: str) -> Any:
    changed = rules("gate-in")
    changed["nftables"] = [
        one for one in changed["nftables"] if f'"target": "{CHAINS[hook]}"' not in json.dumps(one)
    ]  # fmt: skip
    return changed


@pytest.mark.parametrize("hook", sorted(CHAINS))
def test_without_one_of_its_rules_the_switch_is_refuted_wherever_it_stands(hook: str) -> None:
    law = {
        "input": "6-iv-a.only-declared-in",
        "output": "6-iv-d-1.only-declared-out",
        "forward": "6-iv-e.only-declared-through",
    }[hook]
    for on in (False, True):
        found = list(prove({"gate-in": switched(_without(hook), on=on)}, SITE))
        refuted = {one.law for one in found if one.outcome is Outcome.REFUTED}
        assert QUARANTINE in refuted
        assert (law in refuted) is on


def test_rules_without_the_switch_are_no_pass() -> None:
    changed = rules("gate-in")
    text = json.dumps([one for one in changed["nftables"] if '"quarantine"' not in json.dumps(one)
                       and '"@quarantine"' not in json.dumps(one)])  # fmt: skip
    found = list(prove({"gate-in": {"nftables": json.loads(text)}}, SITE))
    assert {one.law for one in found if one.outcome is not Outcome.PROVEN} == {QUARANTINE}
    assert exit_code(found) == 2


def test_what_is_cut_names_every_flow_session_and_administrator() -> None:
    for host in HOSTS:
        kept, cut = effect(host_policy(host))
        text = "\n".join(cut)
        assert all(flow["name"] in text for flow in policy(host)["flows"])
        assert all(who in text for who in policy(host)["management"]["controllers"])
        assert "metrics to monitor 10.77.0.16" in "\n".join(kept)
    assert "nobody watches" in "\n".join(effect(host_policy("monitor-1"))[1])


# -- who keeps it on -----------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


class Switched(Kernel):
    """A table in memory whose sets take elements, as a read-back shows them."""

    def expected(self, wanted: Any) -> list[dict[str, Any]]:
        found = super().expected(wanted)
        more = [one["element"] for one in found if "element" in one]
        found = copy.deepcopy([one for one in found if "element" not in one])
        for element in more:
            body = next(o["set"] for o in found if o.get("set", {}).get("name") == element["name"])
            body["elem"] = [*body.get("elem", []), *element["elem"]]
        return found


def _running(host: Host) -> tuple[Switched, Any, Path]:
    kernel = Switched()
    host.write_rules(rules())
    part = rules_part(host, kernel, nftables=rules())
    kernel.load(rules())
    part.look()
    assert host.journal.detections() == []
    return kernel, part, host.paths.state / "quarantined"


def test_a_switch_that_is_kept_belongs_to_the_rules_and_is_put_back(host: Host) -> None:
    kernel, part, file = _running(host)
    file.write_text("whatever stands in it")
    kernel.load(switched(rules(), on=True))
    part.look()
    assert host.journal.detections() == []
    assert host.metrics.get("sekisho_quarantine") == 1
    assert ("rules.quarantine", {"on": True}) in host.journal.events
    kernel.load(rules())  # thrown back by hand
    part.look()
    assert host.journal.detections() == [DRIFT]
    assert is_on(kernel.table or ()) is True
    file.unlink()
    kernel.load(rules())
    part.look()
    assert host.journal.detections() == [DRIFT]
    assert host.metrics.get("sekisho_quarantine") == 0
    assert ("rules.quarantine", {"on": False}) in host.journal.events


def test_a_switch_that_nobody_keeps_is_drift_with_its_difference(host: Host) -> None:
    kernel, part, _ = _running(host)
    kernel.load(switched(rules(), on=True))
    part.look()
    assert host.journal.detections() == [DRIFT]
    said = next(data for kind, data in host.journal.events if kind == "agent.detection")
    assert said["differences"] == ['set quarantine: holds "ipv4" too']
    assert is_on(kernel.table or ()) is False


def test_rules_loaded_by_the_guard_come_with_the_switch_while_it_is_kept(tmp_path: Path) -> None:
    file, plain = tmp_path / "quarantined", json.dumps(rules()).encode()
    older = json.dumps({"nftables": [{"add": {"table": {"family": "inet", "name": "sekisho"}}}]})
    assert with_switch(plain, file) == plain
    file.write_text("")
    assert json.loads(with_switch(plain, file)) == switched(rules(), on=True)
    assert with_switch(older.encode(), file) == older.encode()
    loaded: list[bytes] = []
    listed = {"nftables": [one["add"] for one in rules()["nftables"] if "add" in one]}

    def run(argv: Any, stdin: bytes = b"") -> Done:
        if list(argv[:2]) == ["nft", "-j"] and "-f" in argv:
            loaded.append(stdin)
        out = json.dumps(listed).encode() if argv[-2:] == ["inet", "sekisho"] else b""
        return Done(0, out, b"")

    guard = Guard(state=tmp_path / "guard", run=run, usb=tmp_path)
    changed = json.dumps(rules("gate-in")).encode()
    guard.apply([Wanted(tmp_path / "rules", changed, 0o600, "nftables")])
    guard.rollback()
    assert [b'"quarantine", "elem": ["ipv4"]' in one for one in loaded] == [True, True]


class FalseNft:
    """What `Quarantine` needs of nftables; ``deaf``: it does as if."""

    def __init__(self, held: Any, *, deaf: bool = False) -> None:
        self.held, self.deaf = held, deaf

    def read(self) -> Any:
        return self.held

    def apply(self, commands: Any) -> None:
        if self.deaf:
            return
        on = len(commands["nftables"]) == 1
        self.held = [{"set": {"family": "inet", "table": "sekisho", "name": "quarantine",
                              "elem": ["ipv4"] if on else []}}]  # fmt: skip


EMPTY = [{"set": {"family": "inet", "table": "sekisho", "name": "quarantine"}}]


def test_nothing_is_kept_when_the_switch_is_not_there_or_not_thrown(tmp_path: Path) -> None:
    file = tmp_path / "quarantined"
    for held, deaf in ((None, False), ([], False), (EMPTY, True)):
        nft: Any = FalseNft(held, deaf=deaf)
        with pytest.raises(SekishoError):
            Quarantine(file, nft).on()
        assert not file.exists()


def test_what_cannot_be_kept_is_not_thrown(tmp_path: Path) -> None:
    nft: Any = FalseNft(EMPTY)
    with pytest.raises(SekishoError, match="cannot be made"):
        Quarantine(tmp_path / "no such folder" / "quarantined", nft).on()
    assert is_on(nft.held) is False


@pytest.fixture
def console(host: Host, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a host at whose console `sekisho quarantine` is called."""
    nft = FalseNft(EMPTY)
    proof = {"reference": "ticket 12", "tested": "2026-11-01"}
    value = host_policy("core-1", console_proof=proof)
    told: list[Any] = []
    monkeypatch.setattr(command, "STATE", host.paths.state)
    monkeypatch.setattr(command, "Nft", lambda: nft)
    monkeypatch.setattr(command, "_policy", lambda: value)
    monkeypatch.setattr(command, "submit", lambda kind, data, **_: told.append((kind, data)) or 7)
    return host.paths.state / "quarantined", nft, value, told


def test_without_now_everything_is_shown_and_nothing_done(
    console: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file, nft, _, told = console
    assert main(["quarantine", "on", "--why", "a drill"]) == 0
    said = capsys.readouterr().out
    assert "- SSH and echo from controller 10.77.0.1" in said
    assert "nothing was changed" in said
    assert (file.exists(), nft.held, told) == (False, EMPTY, [])
    assert main(["quarantine", "status"]) == 0


def test_on_and_off_are_done_kept_and_journalled(
    console: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file, nft, _, told = console
    assert main(["quarantine", "on", "--now", "--why", "a drill", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["on"], answer["done"], answer["n"]) == (True, True, 7)
    assert file.read_bytes() == b""  # room for its name is all it needs
    assert is_on(nft.held) is True
    assert main(["quarantine", "status"]) == 1
    assert main(["quarantine", "off", "--why", "a drill"]) == 0
    assert file.exists()
    assert main(["quarantine", "off", "--now", "--why", "a drill"]) == 0
    assert (file.exists(), is_on(nft.held)) == (False, False)
    assert [kind for kind, _ in told] == ["quarantine.on", "quarantine.off"]


def test_no_console_no_quarantine_unless_said_and_no_journal_no_way_back(
    console: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, *_ = console

    def nobody(*_: Any, **__: Any) -> int:
        raise SekishoError("the journal does not answer")

    monkeypatch.setattr(command, "submit", nobody)
    monkeypatch.setattr(command, "_policy", lambda: host_policy("core-1"))  # nobody's word
    assert main(["quarantine", "on", "--now", "--why", "x"]) == 3
    assert not file.exists()
    assert main(["quarantine", "on", "--now", "--why", "x", "--without-console"]) == 0
    assert main(["quarantine", "off", "--now", "--why", "x"]) == 3
    assert file.exists()
    # half of it: kept, and thrown back in the kernel by hand
    command.Nft().apply({"nftables": [1, 2]})
    assert main(["quarantine", "status"]) == 2
