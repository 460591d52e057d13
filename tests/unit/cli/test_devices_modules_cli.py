"""`sekisho devices modules`: a list from another machine, and what it says when it cannot tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from agentworld import private_pem
from orderworld import KEYS, SIGNERS
from sekisho.cli.main import main
from sekisho.orders.judge import problems_of
from sekisho.orders.model import Act
from sekisho.orders.parse import parse_order, signed_by
from sekisho.orders.sealing import seal

LOADED = """\
nf_tables 372736 130 nft_ct, Live 0x0000000000000000
xhci_pci 28672 1 - Live 0x0000000000000000
pcspkr 12288 0 - Live 0x0000000000000000
"""
ASK = ["devices", "modules", "propose", "--role", "core", "--console", "listed-keyboard"]


@pytest.fixture
def loaded(tmp_path: Path) -> Path:
    path = tmp_path / "modules"
    path.write_text(LOADED)
    return path


def test_a_proposal_is_yaml_for_the_site_file(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ASK, "--loaded", str(loaded)]) == 0
    text = capsys.readouterr().out
    found = yaml.safe_load(text)["modules"]
    assert found["lock"] == "dry-run"
    assert {"nf_tables", "usbhid", "xhci_pci"} <= set(found["allow"])
    assert "pcspkr" in text
    assert "pcspkr" not in found["allow"]


def test_a_blocked_module_that_is_loaded_is_a_breach_and_not_in_the_list(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded.write_text(LOADED + "uas 1 1 - Live 0x0\n")
    assert main([*ASK, "--loaded", str(loaded), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["blocked"] == ["uas"]
    assert "uas" not in told["allow"]


def test_a_proposal_overwrites_nothing(loaded: Path, tmp_path: Path) -> None:
    out = tmp_path / "list.yml"
    assert main([*ASK, "--loaded", str(loaded), "--out", str(out)]) == 0
    before = out.read_text()
    assert main([*ASK, "--loaded", str(loaded), "--out", str(out)]) == 3
    assert out.read_text() == before


@pytest.mark.parametrize("text", ["not a list\n", "x y z - Live\n"])
def test_a_garbled_list_and_a_wrong_word_are_usage_errors(loaded: Path, text: str) -> None:
    assert main([*ASK, "--loaded", str(loaded), "--lock", "shut"]) == 3
    loaded.write_text(text)
    assert main([*ASK, "--loaded", str(loaded)]) == 3


def test_an_order_that_is_none_is_refused_and_nothing_is_put_in_place(tmp_path: Path) -> None:
    order = tmp_path / "order.json"
    order.write_bytes(b"{}")
    assert main(["devices", "modules", "maintain", str(order), "--check"]) == 3
    assert main(["devices", "modules", "maintain", str(tmp_path / "nowhere")]) == 3


def test_a_request_is_an_order_that_two_approvers_can_sign(tmp_path: Path) -> None:
    key, out = tmp_path / "aoki.key", tmp_path / "order.json"
    key.write_bytes(private_pem(KEYS["aoki"]))
    ask = ["devices", "modules", "request", "--site", "lab", "--machine", "core-1", "--by", "aoki"]
    ask += ["--reason", "a new network card", "--key", str(key), "--out", str(out)]
    assert main(ask) == 0
    order = parse_order(out.read_bytes(), "order")
    assert (order.kind, order.content) == ("maintenance", {"opens": ["modules"]})
    for name in ("chiba", "doi"):
        order = signed_by(order, seal(KEYS[name], Act.APPROVE, name, order))
    held = {"site": "lab", "host": "core-1", "now": order.start, "where": "order"}
    assert problems_of(order, SIGNERS, **held) == []
    assert main(ask) == 3  # nothing is overwritten
    out.unlink()
    assert main([*ask, "--hours", "25"]) == 3
    assert main([*ask, "--opens", "Everything"]) == 3
    key.write_text("no key")
    assert main(ask) == 3
    assert not out.exists()
