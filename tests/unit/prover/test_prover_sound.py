"""What the prover must not prove: rewritten packets, faulty listings, hosts that answer garbage."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.cli.main import main
from sekisho.control.cli import flows_input
from sekisho.core.errors import SekishoError
from sekisho.prover.belongs import alike
from sekisho.prover.constants import folded, joined
from sekisho.prover.findings import Finding, Outcome, exit_code
from sekisho.prover.network import Network
from sekisho.prover.prove import network_of, prove
from sekisho.prover.rules import UnknownConstructError, read_rules
from sekisho.site.declared import lines
from siteworld import lab_raw, lab_site, policy

SITE = lab_site()
GATE = policy("gate-in")["nftables"]
Json = dict[str, Any]
NFT13 = {"metainfo": {"version": "1.1.3", "release_name": "x", "json_schema_version": 1}}
NFT106 = {"metainfo": {"version": "1.0.6", "release_name": "x", "json_schema_version": 1}}


def match(left: Json, right: Any, op: str = "==") -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> Json:
    return {"meta": {"key": key}}


def part(protocol: str, name: str) -> Json:
    return {"payload": {"protocol": protocol, "field": name}}


def put(key: Json, value: Any) -> Json:
    return {"mangle": {"key": key, "value": value}}


ACCEPT: Json = {"accept": None}


def with_chain(hook: str, *statements: Json) -> Json:
    """Return gate-in's rules and a chain of its own table that only rewrites."""
    changed = copy.deepcopy(GATE)
    here = {"family": "inet", "table": "sekisho"}
    changed["nftables"] += [
        {"add": {"chain": {**here, "name": "z", "type": "filter", "hook": hook, "prio": 100,
                           "policy": "accept"}}},
        {"add": {"rule": {**here, "chain": "z", "expr": list(statements)}}},
    ]  # fmt: skip
    return changed


def with_rule(*statements: Json, chain: str = "forward") -> Json:
    """Return gate-in's rules and one more before all others of a chain."""
    changed = copy.deepcopy(GATE)
    first = next(i for i, one in enumerate(changed["nftables"]) if "rule" in one.get("add", {}))
    body = {"family": "inet", "table": "sekisho", "chain": chain, "expr": list(statements)}
    changed["nftables"].insert(first, {"add": {"rule": body}})
    return changed


def judged(document: Any) -> list[Finding]:
    return list(prove({"gate-in": document}, SITE))


def refuted(found: list[Finding]) -> set[str]:
    return {one.law for one in found if one.outcome is Outcome.REFUTED}


def listing(*expr: Any, kind: str = "filter", hook: str = "forward", **table: Any) -> Json:
    """Return a small listing: one table, one chain that drops, one rule."""
    here = {"family": "inet", "table": "t"}
    return {"nftables": [
        {"table": {"family": "inet", "name": "t", "handle": 1, **table}},
        {"chain": {**here, "name": "f", "handle": 1, "type": kind, "hook": hook, "prio": 0,
                   "policy": "drop"}},
        {"rule": {**here, "chain": "f", "handle": 2, "expr": list(expr)}},
    ]}  # fmt: skip


def passes(document: Json, way: str = "forward") -> bool:
    network = Network({"h": read_rules(document, "h")})
    one = network.way("h", way)
    terms = [one.packet.flag("ipsec-in") == False]  # noqa: E712 - a term of the solver
    return network.openings(one, terms) is not None


THROUGH = "6-iv-e.only-declared-through"
#: What is added at the packet's end of the way → the law that has to see it.
REWRITTEN = {
    "another receiver": (with_chain("postrouting", match(part("ip", "ttl"), 13),
                                    put(part("ip", "daddr"), "8.8.8.8")), THROUGH),
    "another port": (with_chain("postrouting", match(meta("oifname"), "eth2"),
                                put(part("tcp", "dport"), 22)), THROUGH),
    "another sender": (with_chain("postrouting", put(part("ip", "saddr"), "10.77.9.9")), THROUGH),
    "options become payload": (with_chain("postrouting", put(part("tcp", "doff"), 5)), THROUGH),
    "a length that hides payload": (
        with_rule(match(part("ip", "length"), 100), put(part("ip", "length"), 40),
                  {"jump": {"target": "bare"}}, chain="forward"), THROUGH),
    "a first segment without SYN": (
        with_chain("postrouting", put(part("tcp", "flags"), ["ack"])),
        "6-iv-a.connections-begin-with-syn"),
    "administration's answer to another": (
        with_chain("output", match(meta("oifname"), "eth0"), put(part("ip", "daddr"), "8.8.8.8")),
        "6-iv-a.management-serves-administration"),
    "what arrives is delivered as another": (
        with_chain("input", put(part("tcp", "dport"), 4444)), "6-iv-a.only-declared-in"),
    "routed anew by a mark": (
        {"nftables": [*with_chain("output", put(meta("mark"), 1))["nftables"][:-2],
                      {"add": {"chain": {"family": "inet", "table": "sekisho", "name": "z",
                                         "type": "route", "hook": "output", "prio": -150,
                                         "policy": "accept"}}}]}, "6-iv-d-1.only-declared-out"),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITTEN)
def test_the_laws_look_at_the_packet_as_it_leaves(name: str) -> None:
    document, law = REWRITTEN[name]
    assert law in refuted(judged(document))


def test_rewriting_that_makes_no_other_packet_of_it_is_proven() -> None:
    """What no law looks at may be rewritten: a time to live, the identification."""
    found = judged(with_chain("postrouting", put(part("ip", "ttl"), 9), put(part("ip", "id"), 7)))
    assert exit_code(found) == 0


#: Constants that nft lists otherwise than the kernel has them, or that hold nothing.
FAULTY = {
    "an interval of names as nft lists it": match(
        meta("iifname"), {"set": [{"range": ["", ""]}]}),
    "a prefix of names": match(meta("iifname"), {"set": [{"prefix": {"addr": "", "len": 31}}]}),
    "an interval beside a name": match(meta("iifname"), {"set": ["eth9", {"range": ["", ""]}]}),
    "an interval of names in a pair": match(
        {"concat": [meta("iifname"), part("ip", "saddr")]},
        {"set": [{"concat": [{"range": ["", ""]}, "10.0.0.1"]}]}),
    "a verdict map with a prefix of names": {"vmap": {
        "key": meta("iifname"),
        "data": {"set": [[{"prefix": {"addr": "", "len": 32}}, ACCEPT], ["eth3*", ACCEPT]]}}},
    "an empty name": match(meta("iifname"), ""),
    "a set in braces that holds nothing": match(part("ip", "saddr"), {"set": []}),
    "an interval turned round": match(part("tcp", "dport"), {"range": [90, 80]}),
    "an interval of addresses turned round": match(
        part("ip", "saddr"), {"set": [{"range": ["10.0.0.9", "10.0.0.1"]}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_a_constant_that_nft_lists_wrongly_is_an_error_by_name(name: str) -> None:
    found = judged(with_rule(FAULTY[name], ACCEPT))
    assert {one.outcome for one in found} == {Outcome.ERROR}
    assert exit_code(found) == 2
    assert any("inet sekisho forward rule" in one.reason for one in found)


def test_a_name_with_a_wildcard_is_what_it_says() -> None:
    found = judged(with_rule(match(meta("iifname"), {"set": ["eth2*", "wg0"]}), ACCEPT))
    assert THROUGH in refuted(found)


@pytest.mark.parametrize(
    ("version", "flags", "said"),
    [(NFT13, "dormant", True), (NFT13, ["dormant", "owner"], True), (NFT13, [], False),
     (NFT13, "owner", False), (NFT106, ["dormant", "owner"], True), (None, "dormant", True),
     (NFT106, "t", None), (NFT106, "dormant", None), (NFT106, "owner", None), (NFT13, "t", None),
     (NFT13, {"x": 1}, None), (NFT13, [3], None)],
)  # fmt: skip
def test_whether_a_table_sleeps_is_read_as_its_nft_writes_it(
    version: Json | None, flags: Any, said: bool | None
) -> None:
    """nft 1.0.6 writes freed memory for a table's only flag: something is set, but what?"""
    document = listing(match(meta("mark"), 9), flags=flags)
    if version is not None:
        document["nftables"].insert(0, version)
    if said is None:
        with pytest.raises(UnknownConstructError, match="does not know"):
            read_rules(document)
    else:
        assert read_rules(document).tables[0].dormant is said
        assert passes(document) is said


def test_a_mark_is_kept_through_ipsec_and_by_the_loopback_only() -> None:
    marked = listing(match(meta("mark"), 7), ACCEPT)
    early = copy.deepcopy(marked)
    early["nftables"] += [
        {"chain": {"family": "inet", "table": "t", "name": "p", "type": "filter",
                   "hook": "prerouting", "prio": -150, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "t", "chain": "p", "expr": [
            match(part("ip", "protocol"), "esp"), put(meta("mark"), 7)]}},
    ]  # fmt: skip
    for document, kept in ((marked, False), (early, True)):
        network = Network({"h": read_rules(document, "h")})
        one = network.way("h", "forward")
        udp = [one.packet.six == False, one.packet.field("ip", "protocol") == 17]  # noqa: E712
        plain = [*udp, one.packet.flag("ipsec-in") == False]  # noqa: E712
        card = one.packet.get("iif") == int.from_bytes(b"eth0".ljust(16, b"\0"), "big")
        assert network.openings(one, [*plain, card]) is None
        assert (
            network.openings(one, [*udp, one.packet.flag("ipsec-in"), card]) is not None
        ) is kept


def test_names_of_protocols_and_groups_are_understood() -> None:
    for one in (match(meta("l4proto"), "mobility-header"), match(part("ip", "protocol"), "hip"),
                match(part("ip", "protocol"), "xns-idp"), match(meta("iifgroup"), "default"),
                match(meta("priority"), "1:7"), match(meta("skuid"), "root"),
                put(meta("priority"), "1:7"),
                match(part("ip", "saddr"), {"set": ["*"]})):  # fmt: skip
        assert passes(listing(one, ACCEPT))


BRACES = "jump {\n\t\t\tip saddr { 127.0.0.0/8 } counter packets 0 bytes 0 accept\n\t\t}"
#: What is no listing, or none nft could have written.
GARBLED: dict[str, Any] = {
    "a chain in braces": with_rule(BRACES),  # type: ignore[arg-type]
    "no JSON object": ["x"],
    "text instead of rules": "the facts hold no listing",
    "an entry that is none": {"nftables": [3]},
    "a body that is none": {"nftables": [{"table": "x"}]},
    "a table without a name": {"nftables": [{"table": {"family": "inet"}}]},
    "a family that is a list": {"nftables": [{"table": {"family": ["inet"], "name": "t"}}]},
    "a version that is none": {"nftables": [{"metainfo": {"version": 3}}]},
    "a hook without a type": {"nftables": [
        {"table": {"family": "inet", "name": "t"}},
        {"chain": {"family": "inet", "table": "t", "name": "c", "hook": "input"}}]},
    "a policy without a hook": {"nftables": [
        {"table": {"family": "inet", "name": "t"}},
        {"chain": {"family": "inet", "table": "t", "name": "c", "type": "filter", "prio": 0}}]},
    "rules of a chain nobody lists": {"nftables": [
        {"table": {"family": "inet", "name": "t"}},
        {"rule": {"family": "inet", "table": "t", "chain": "c", "expr": [ACCEPT]}}]},
    "elements of a set nobody lists": {"nftables": [
        {"table": {"family": "inet", "name": "t"}},
        {"element": {"family": "inet", "table": "t", "name": "s", "elem": [1]}}]},
    "a jump to nowhere": listing({"jump": {}}),
    "a jump with a number": listing({"jump": {"target": 3}}),
    "a key that is a text": listing(match({"meta": "x"}, 1), ACCEPT),
    "an offset below nought": listing(
        match({"payload": {"base": "th", "offset": -8, "len": 8}}, 1)),
    "no length": listing(match({"payload": {"base": "th", "offset": 0, "len": 0}}, 1)),
    "an endless length": listing(match({"payload": {"base": "xx", "offset": 0, "len": 10**12}}, 1)),
    "an element without a value": listing(match(part("ip", "saddr"), {"set": [{"elem": {}}]})),
    "a prefix without an address": listing(match(part("ip", "saddr"), {"prefix": {}})),
    "a prefix too long": listing(match(part("ip", "saddr"), {"prefix": {"addr": "1.2.3.4",
                                                                        "len": 99}})),
    "a pair of one": listing(match({"concat": [meta("iifname"), part("ip", "saddr")]},
                                   {"set": [{"concat": ["eth0"]}]})),
    "a map without pairs": listing({"vmap": {"key": meta("mark"), "data": {"set": [3]}}}),
    "a verdict that is none": listing({"vmap": {"key": meta("mark"), "data": {"set": [[1, 2]]}}}),
    "two fields of unlike size": listing(match(part("ip", "saddr"), part("tcp", "dport"))),
    "notrack at a device": {"nftables": [
        {"table": {"family": "netdev", "name": "t"}},
        {"chain": {"family": "netdev", "table": "t", "name": "f", "type": "filter",
                   "hook": "ingress", "prio": 0, "policy": "accept", "dev": "eth0"}},
        {"rule": {"family": "netdev", "table": "t", "chain": "f", "expr": [{"notrack": None}]}}]},
}  # fmt: skip


@pytest.mark.parametrize("name", GARBLED)
def test_a_garbled_listing_is_an_error_of_its_host_and_of_no_other(name: str) -> None:
    found = list(prove({"gate-in": GARBLED[name], "core-1": policy("core-1")["nftables"]}, SITE))
    assert {one.outcome for one in found if one.scope.startswith("gate-in")} == {Outcome.ERROR}
    assert {one.outcome for one in found if one.scope.startswith("core-1")} == {Outcome.PROVEN}
    assert exit_code(found) == 2


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where everything in a piece of JSON stands."""
    found = [here] if here else []
    if isinstance(value, (dict, list)):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in inner:
            found += places(one, (*here, key))
    return found


PLACES = places(GATE)
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**70), st.text(max_size=4), st.just([]), st.just({}),
    st.sampled_from(("*", "@x", {"set": []}, {"range": [1]}, {"prefix": {}}, {"elem": {}},
                     {"concat": []}, [["a"]], 1.5, {"|": []}, {"meta": "x"}, {"target": 3})),
)  # fmt: skip


@given(place=st.sampled_from(PLACES), junk=JUNK)
def test_junk_anywhere_in_a_listing_ends_in_an_answer(place: tuple[Any, ...], junk: Any) -> None:
    changed = copy.deepcopy(GATE)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = junk
    network, wrong = network_of({"gate-in": changed}, SITE)
    if not wrong:
        try:
            for way in ("input", "forward", "output"):
                network.way("gate-in", way)
        except SekishoError as bad:
            assert bad.problems  # noqa: PT017 - either answer is one; only a traceback is none


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"nftables": [{"x": 1', "\xff"])
def test_the_command_says_2_of_a_listing_that_is_none(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = lab_raw()
    for file in (raw.hosts, *raw.group_vars, *raw.host_vars):
        path = tmp_path / "lab" / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
    for name, key in raw.keys.items():
        (tmp_path / "lab" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "lab" / name).write_text(key, encoding="utf-8")
    file = tmp_path / "rules.json"
    file.write_bytes(text.encode("latin-1"))
    site = str(tmp_path / "lab")
    words = ["flows", "prove", "-i", site, "--host", "gate-in", "--ruleset", str(file)]
    assert main(words) == 2
    assert "holds no listing" in capsys.readouterr().out


def test_facts_without_a_listing_are_a_reason_and_no_traceback() -> None:
    deep = {"probes": {"nftables": {"loaded": {"rc": 0, "stdout": "[" * 100_000, "stderr": "",
                                               "truncated": False}}}}  # fmt: skip
    assert "no listing" in flows_input.loaded(deep, None)


def test_like_peers_are_one_question_and_a_bad_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lines of many peers fold into one; a peer whose packets do not pass is told by name."""
    asked: list[int] = []
    never = Network.never

    def counted(self: Network, *words: Any) -> bool:
        asked.append(1)
        return never(self, *words)

    monkeypatch.setattr(Network, "never", counted)
    assert exit_code(judged(GATE)) == 0
    assert len(asked) <= 6, "a question a way, with the quarantine and without"
    drop = match(part("ip", "saddr"), "10.77.1.2")
    found = judged(with_rule(drop, {"drop": None}))
    wrong = [one for one in found if one.outcome is Outcome.REFUTED]
    named = {one.scope for one in wrong}
    assert named
    own = {line.name for line in lines(SITE, SITE.machines["gate-in"])
           if any("10.77.1.2" in str(net) for net in line.senders)}  # fmt: skip
    assert {scope.removeprefix("gate-in ") for scope in named} <= own


def test_lines_alike_but_for_their_peers_are_one() -> None:
    (line, *_) = lines(SITE, SITE.machines["gate-in"])
    other = type(line)(**{name: getattr(line, name) for name in line.__slots__}
                       | {"name": "other", "senders": line.receivers})  # fmt: skip
    third = type(line)(**{name: getattr(line, name) for name in line.__slots__}
                       | {"name": "third", "port": line.port + 1})  # fmt: skip
    found = alike([line, other, third])
    assert sorted(len(members) for _, members in found) == [1, 2]
    both = next(one for one, members in found if len(members) == 2)
    assert set(both.senders) == {*line.senders, *line.receivers}


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=1, max_size=4).map(
    lambda listed: tuple((low, low + more) for low, more in listed)
)


@given(rows=st.lists(st.tuples(SPANS, SPANS), max_size=6))
def test_folded_rows_hold_exactly_what_the_rows_held(rows: list[Any]) -> None:
    def held(listed: list[Any]) -> set[tuple[int, int]]:
        return {
            (one, other)
            for left, right in listed
            for low, high in left
            for one in range(low, high + 1)
            for first, last in right
            for other in range(first, last + 1)
        }

    assert held(folded(rows)) == held(rows)
    for left, _ in rows:
        numbers = {one for low, high in left for one in range(low, high + 1)}
        assert numbers == {one for low, high in joined(left) for one in range(low, high + 1)}


def test_a_listing_survives_its_own_json() -> None:
    assert read_rules(json.loads(json.dumps(GATE))) == read_rules(GATE)
