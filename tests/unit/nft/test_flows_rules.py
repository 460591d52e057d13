"""The compiled rules by their goldens, and what reading back makes of hostile or odd input.

A golden is what the real nft lists after loading (`SEKISHO_GOLDEN=1` writes it anew, see
`tests/kernel/test_flows_golden.py`).
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from sekisho.core.errors import SekishoError
from sekisho.nft.filter import BARE_LENGTHS
from sekisho.nft.readback import differences, normalise
from siteworld import SITE, policy


def rules(host: str = "inbound-1") -> Any:
    return copy.deepcopy(policy(host)["nftables"])


def commands(document: Any, kind: str) -> list[Any]:
    return [entry["add"][kind] for entry in document["nftables"] if kind in entry.get("add", {})]


def test_the_eleven_lengths_are_header_only() -> None:
    assert len(BARE_LENGTHS) == 11
    assert all(length == 20 + 4 * words for words, length in BARE_LENGTHS)


def test_the_table_is_made_anew_in_one_transaction() -> None:
    verbs = [next(iter(entry)) for entry in rules()["nftables"]]
    assert verbs[:3] == ["add", "delete", "add"]
    assert set(verbs[3:]) == {"add"}


def test_every_rule_names_a_check_and_stays_in_our_table() -> None:
    for rule in commands(rules(), "rule"):
        assert rule["comment"].startswith("6-")
        assert (rule["family"], rule["table"]) == ("inet", "sekisho")


def test_every_drop_is_counted() -> None:
    for rule in commands(rules(), "rule"):
        if {"drop": None} in rule["expr"]:
            assert any("counter" in statement for statement in rule["expr"]), rule


def test_a_gateways_own_data_interfaces_let_nothing_in_or_out() -> None:
    for rule in commands(rules("gate-in"), "rule"):
        if rule["chain"] in ("input", "output") and {"accept": None} in rule["expr"]:
            text = json.dumps(rule)
            assert '"lo"' in text or '"eth0"' in text


def test_a_diode_has_no_reply_rule() -> None:
    edits = {SITE: ("      port: 7601\n      mode: one-way-tcp        # one-way-tcp | diode",
                    "      port: 7601\n      mode: diode")}  # fmt: skip
    diode = policy("gate-in", edits)["nftables"]
    names = {entry["name"] for entry in commands(diode, "map") + commands(diode, "set")}
    assert "diode_forward" in names
    assert "reply_forward" not in names
    accepts = [
        rule for rule in commands(diode, "rule")
        if rule["chain"] == "forward" and {"accept": None} in rule["expr"]
    ]  # fmt: skip
    assert len(accepts) == 1


def test_equal_rules_have_no_differences_and_each_change_has_one() -> None:
    wanted = normalise(rules())
    assert differences(wanted, normalise(rules())) == ()
    more = rules()
    more["nftables"].append(
        {"add": {"rule": {"family": "inet", "table": "sekisho", "chain": "input",
                          "expr": [{"accept": None}]}}}
    )  # fmt: skip
    (said,) = differences(wanted, normalise(more))
    assert said.startswith("rule input: not ours")
    fewer = rules()
    fewer["nftables"] = [
        entry for entry in fewer["nftables"] if entry.get("add", {}).get("set", {}).get("name")
        != "ssh_from"
    ]  # fmt: skip
    assert differences(wanted, normalise(fewer)) == ("set ssh_from is missing",)


def test_order_of_rules_matters_and_order_of_elements_does_not() -> None:
    wanted = normalise(rules())
    turned = rules()
    turned["nftables"][-3:] = reversed(turned["nftables"][-3:])
    assert differences(wanted, normalise(turned)) != ()
    two = {SITE: ("controllers: [10.77.0.1]", "controllers: [10.77.0.1, 10.77.0.2]")}
    one = policy("core-1", two)["nftables"]
    other = copy.deepcopy(one)
    for entry in other["nftables"]:
        if entry.get("add", {}).get("set", {}).get("name") == "ssh_from":
            entry["add"]["set"]["elem"].reverse()
    assert differences(normalise(one), normalise(other)) == ()


def test_a_changed_policy_and_a_foreign_or_dormant_table_are_told() -> None:
    wanted = normalise(rules())
    opened = rules()
    for entry in opened["nftables"]:
        chain = entry.get("add", {}).get("chain", {})
        if chain.get("name") == "forward":
            chain["policy"] = "accept"
    assert any("chain forward" in line for line in differences(wanted, normalise(opened)))
    foreign = rules()
    foreign["nftables"].append({"table": {"family": "ip", "name": "nat"}})
    assert any("nat" in line for line in differences(wanted, normalise(foreign)))
    dormant = rules()
    dormant["nftables"].append(
        {"table": {"family": "inet", "name": "sekisho", "flags": ["dormant"]}}
    )
    assert any("dormant" in line for line in differences(wanted, normalise(dormant)))


@pytest.mark.parametrize("garbled", [None, [], {}, {"nftables": {}}, {"nftables": [1]},
                                     {"nftables": [{"add": 1}]}, {"nftables": [{}]}])  # fmt: skip
def test_what_is_no_libnftables_json_is_refused(garbled: Any) -> None:
    with pytest.raises(SekishoError):
        normalise(garbled)
