"""Deliverability: what is declared arrives over real facts; what stops it is named, or an error."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sekisho.cli.main import main
from sekisho.core.errors import SekishoError
from sekisho.policy.host_policy import HostPolicy
from sekisho.prover.deliver import Delivery, deliverable
from sekisho.prover.explain import explain, follow, wanted
from sekisho.prover.findings import Finding, Outcome, exit_code
from sekisho.prover.hostfacts import read_net
from sekisho.prover.hostnet import HostNet, compiled
from sekisho.prover.network import Network
from sekisho.prover.prove import network_of, prove
from sekisho.prover.relations import relations
from sekisho.site.declared import lines
from sekisho.site.model import Site
from siteworld import SITE as SITE_FILE
from siteworld import copy_lab, host_policy, lab_site, policy, tunnelled

IN: dict[str, tuple[str, str] | str] = {
    SITE_FILE: ("network: 10.77.1.0/29", "encryption: ipsec\n      network: 10.77.1.0/29")
}
#: Facts of the lab's machines, from an evidence bundle; of each probe what routing needs.
FACTS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).resolve().parents[2] / "golden/facts").glob("*.json"))
}
assert len(FACTS) == 6
Change = Callable[[dict[str, Any]], None]


@cache
def site_of(*, sealed: bool = False) -> Site:
    return lab_site(IN if sealed else None)


@cache
def policies(*, sealed: bool = False) -> dict[str, dict[str, Any]]:
    return {host: policy(host, IN if sealed else None) for host in site_of().machines}


def listed(host: str, probe: str, label: str, change: Callable[[list[Any]], None]) -> Change:
    """Return a change of one JSON listing."""

    def apply(facts: dict[str, Any]) -> None:
        outcome = facts[host][probe].setdefault(label, {"rc": 0, "stdout": "[]"})
        value = json.loads(outcome["stdout"])
        change(value)
        outcome["stdout"] = json.dumps(value)

    return apply


def route(host: str, entry: dict[str, Any]) -> Change:
    return listed(host, "routes", "ipv4", lambda held: held.insert(0, {"flags": [], **entry}))


def no_route(host: str, target: str) -> Change:
    def drop(held: list[Any]) -> None:
        (found,) = (one for one in held if one["dst"] == target and "table" not in one)
        held.remove(found)

    return listed(host, "routes", "ipv4", drop)


def rule(host: str, entry: dict[str, Any]) -> Change:
    return listed(host, "routes", "rules", lambda held: held.append(entry))


def switch(host: str, name: str, value: str) -> Change:
    def apply(facts: dict[str, Any]) -> None:
        facts[host]["sysctl"]["live"]["files"][f"/proc/sys/net/ipv4/conf/{name}"]["text"] = value

    return apply


def card(host: str, name: str, **more: Any) -> Change:
    def apply(held: list[Any]) -> None:
        next(one for one in held if one["ifname"] == name).update(more)

    return listed(host, "links", "addresses", apply)


def text(host: str, label: str, value: str) -> Change:
    def apply(facts: dict[str, Any]) -> None:
        facts[host]["lines"][label]["stdout"] = value

    return apply


def both(*changes: Change) -> Change:
    def apply(facts: dict[str, Any]) -> None:
        for one in changes:
            one(facts)

    return apply


def neighbour(host: str, dev: str, address: str, state: str, mac: str = "") -> Change:
    entry = {"dst": address, "dev": dev, "state": [state]} | ({"lladdr": mac} if mac else {})
    return listed(host, "routes", "neighbours", lambda held: held.append(entry))


def nets(change: Change | None = None) -> dict[str, HostNet | SekishoError]:
    facts = copy.deepcopy(FACTS)
    if change is not None:
        change(facts)
    desk = compiled(host_policy("terminal-1"))
    found: dict[str, HostNet | SekishoError] = {"terminal-1": desk}
    return found | {host: read(probes, host) for host, probes in facts.items()}


def read(probes: Any, host: str) -> HostNet | SekishoError:
    try:
        return read_net(probes, host)
    except SekishoError as bad:
        return bad


@cache
def network() -> Network:
    """Return the compiled rules of every host, translated once for all tests."""
    documents = {host: one["nftables"] for host, one in policies().items()}
    return network_of(documents, site_of())[0]


def judged(
    scope: str, change: Change | None = None, rules: dict[str, Any] | None = None
) -> Finding:
    """Return the finding about one relation, with changed facts or with other rules of some."""
    held = network()
    if rules:
        held = network_of({h: p["nftables"] for h, p in policies().items()} | rules, site_of())[0]
    (relation,) = (one for one in relations(site_of()) if one.name == scope)
    return Delivery(held, site_of(), nets(change)).judge(relation)


def test_everything_declared_arrives_by_the_facts_of_real_machines_and_as_compiled() -> None:
    found = {one.scope: one for one in deliverable(network(), site_of(), nets())}
    assert {one.outcome for one in found.values()} == {Outcome.PROVEN}
    assert len(found) > 30
    assert found["intake"].reason == ""
    assert found["desk terminal-1 to core-1"].reason == "terminal-1 as compiled"
    whole = {host: compiled(HostPolicy.parse(one)) for host, one in policies().items()}
    assert exit_code(list(deliverable(network(), site_of(), whole))) == 0


@pytest.mark.parametrize("sealed", [False, True])
def test_every_declared_line_of_every_host_is_on_a_relations_way(sealed: bool) -> None:
    site = site_of(sealed=sealed)
    there = {
        (stage.host, stage.way, stage.iif, stage.oif, leg.protocol, leg.sport, leg.dport)
        for relation in relations(site) for leg in relation.legs for stage in leg.stages
    }  # fmt: skip
    for machine in site.machines.values():
        for line in lines(site, machine):
            if line.senders == line.receivers:
                continue  # a monitor that asks itself does so by its loopback
            back = line.back
            ports = (line.port if back else 0, 0 if back else line.port)
            if line.protocol == 1:
                ports = (8, 0) if back else (0, 8)
            if line.ipsec == "outer":
                ports = (line.port, line.port)
            mine = (machine.name, line.way, line.iif, line.oif, line.protocol, *ports)
            assert mine in there, (line, machine.name)


WAN, LAN = "10.77.1.0/29", "10.77.2.0/29"
BLOCK = "src 10.77.3.1/32 dst 10.77.3.2/32 \n\tdir in action block priority 0 ptype main \n"
TUNNEL = (
    "src 10.77.3.0/24 dst 10.77.3.0/24 \n\tdir out priority 7 ptype main \n"
    "\ttmpl src 10.77.3.1 dst 10.77.3.2\n\t\tproto esp reqid 5 mode tunnel\n"
)
#: What is changed → the relation, and what stops it.
STOPS: dict[str, tuple[Change, str, str]] = {
    "the way back": (
        no_route("inbound-1", WAN), "intake", ("first packet: inbound-1: no route to 10.77.1.2, "
        "which came by eth1: net.ipv4.conf.all.rp_filter = 1"),
    ),
    "the way there": (
        no_route("outbound-1", "10.77.6.0/29"), "provide", ("first packet: outbound-1: no route to "
        "10.77.6.2"),
    ),
    "a wrong next hop": (
        both(no_route("inbound-1", WAN),
             route("inbound-1", {"dst": WAN, "gateway": "10.77.2.6", "dev": "eth1"})),
        "intake", ("reply: inbound-1: route 10.77.1.0/29 via 10.77.2.6 dev eth1 table main for "
        "10.77.1.2; declared is 10.77.2.1 dev eth1"),
    ),
    "a wrong interface": (
        both(no_route("core-1", "10.77.4.0/29"),
             route("core-1", {"dst": "10.77.4.0/29", "dev": "eth3", "prefsrc": "10.77.4.1"})),
        "release", ("first packet: core-1: route 10.77.4.0/29 dev eth3 table main for 10.77.4.2; "
        "declared is dev eth2"),
    ),
    "a blackhole": (
        route("gate-in", {"type": "blackhole", "dst": "10.77.2.2"}), "intake",
        "first packet: gate-in: route blackhole 10.77.2.2/32 table main for 10.77.2.2",
    ),
    "a rule that diverts": (
        both(rule("gate-in", {"priority": 5, "src": "10.77.1.2", "table": "77"}),
             route("gate-in", {"dst": "default", "dev": "eth0", "table": "77"})),
        "intake", "gate-in: route 0.0.0.0/0 dev eth0 table 77 by routing rule 5 (lookup 77)",
    ),
    "a rule that refuses": (
        rule("core-1", {"priority": 5, "src": "10.77.3.2", "srclen": 31, "action": "prohibit"}),
        "store", "first packet: core-1: routing rule 5 (prohibit) to 10.77.3.1, which came by eth1",
    ),
    "a rule of every port": (
        rule("core-1", {"priority": 5, "src": "all", "ipproto": "tcp", "dport_start": 1,
                        "dport_end": 65535, "action": "unreachable"}),
        "store", "first packet: core-1: routing rule 5 (unreachable) to 10.77.3.1, which came by",
    ),
    "no address": (
        both(card("core-1", "eth1", addr_info=[]),
             listed("core-1", "routes", "ipv4", lambda held: held.__setitem__(slice(None), [
                 one for one in held if one.get("dst") != "10.77.3.2"]))),
        "store", "core-1: it does not answer for 10.77.3.2 at eth1",
    ),
    "another source": (
        both(no_route("core-1", "10.77.4.0/29"),
             route("core-1", {"dst": "10.77.4.0/29", "dev": "eth2", "prefsrc": "10.77.7.2"})),
        "release", "it would speak as 10.77.7.2, not as 10.77.4.1",
    ),
    "forwarding off": (
        switch("gate-in", "eth1/forwarding", "0\n"), "intake",
        "first packet: gate-in: net.ipv4.conf.eth1.forwarding = 0",
    ),
    "forwarding off on the way back": (
        switch("gate-in", "eth2/forwarding", "0\n"), "intake",
        "reply: gate-in: net.ipv4.conf.eth2.forwarding = 0",
    ),
    "a source that belongs elsewhere": (
        route("gate-in", {"dst": "10.77.1.2", "dev": "eth0"}), "intake",
        ("first packet: gate-in: route 10.77.1.2/32 dev eth0 table main to 10.77.1.2, which came "
        "by eth1: net.ipv4.conf.all.rp_filter = 1"),
    ),
    "an interface that is down": (
        card("inbound-1", "eth2", flags=["BROADCAST"]), "store", "inbound-1: interface eth2 is down"
    ),
    "an interface without its wire": (
        card("inbound-1", "eth2", flags=["NO-CARRIER", "UP"]), "store",
        "inbound-1: interface eth2 has no carrier",
    ),
    "an interface that is not there": (
        card("inbound-1", "eth2", ifname="eth9"), "store", "inbound-1: no interface eth2"
    ),
    "a policy that blocks": (
        text("core-1", "policies", BLOCK), "store",
        ("first packet: core-1: xfrm policy in 10.77.3.1/32 10.77.3.2/32 covers what is to pass in "
        "clear"),
    ),
    "a policy that encrypts": (
        text("inbound-1", "policies", TUNNEL), "store",
        "first packet: inbound-1: xfrm policy out 10.77.3.0/24 10.77.3.0/24 covers what is",
    ),
    "ARP that nobody answers": (
        neighbour("inbound-1", "eth2", "10.77.3.2", "FAILED"), "store",
        "first packet: inbound-1: neighbour 10.77.3.2 dev eth2 did not answer ARP",
    ),
    "a neighbour fixed to another's card": (
        neighbour("inbound-1", "eth2", "10.77.3.2", "PERMANENT", "02:00:00:00:00:01"), "store",
        "neighbour 10.77.3.2 dev eth2 is fixed to 02:00:00:00:00:01, not 52:54:00:77:03:02",
    ),
    "ARP that is not answered": (
        switch("core-1", "eth1/arp_ignore", "8\n"), "store",
        ("first packet: core-1: it does not answer for 10.77.3.2 at eth1: "
        "net.ipv4.conf.eth1.arp_ignore = 8"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STOPS)
def test_what_stops_a_flow_is_named_with_its_host(name: str) -> None:
    change, scope, told = STOPS[name]
    found = judged(scope, change)
    assert found.outcome is Outcome.UNDELIVERABLE
    assert told in found.reason
    assert exit_code([found]) == 1
    assert judged("time outbound-1 to monitor-1", change).outcome is Outcome.PROVEN


@pytest.mark.parametrize(
    "change",
    [
        neighbour("inbound-1", "eth2", "10.77.3.2", "PERMANENT", "52:54:00:77:03:02"),
        neighbour("inbound-1", "eth2", "10.77.3.2", "STALE", "52:54:00:77:03:02"),
        rule("core-1", {"priority": 5, "src": "10.9.9.9", "table": "77"}),
        rule("core-1", {"priority": 5, "src": "all", "iif": "eth9", "iif_detached": None,
                        "action": "blackhole"}),
        rule("core-1", {"priority": 5, "src": "all", "table": "main", "suppress_prefixlen": 0}),
        # Programs have other ports to choose from.
        rule("inbound-1", {"priority": 5, "src": "all", "ipproto": "tcp", "sport_start": 1024,
                        "sport_end": 40000, "action": "blackhole"}),
        rule("core-1", {"priority": 5, "not": None, "src": "0.0.0.0", "srclen": 0,
                        "action": "blackhole"}),
        route("core-1", {"type": "throw", "dst": "default", "table": "local"}),
        route("core-1", {"dst": "10.77.3.1", "dev": "eth3", "flags": ["dead"]}),
        route("core-1", {"dst": "10.77.3.0/29", "dev": "eth3", "metric": 9}),
    ],
)  # fmt: skip
def test_what_changes_nothing_for_a_flow_stops_nothing(change: Change) -> None:
    assert judged("store", change).outcome is Outcome.PROVEN


POLICY = "src 10.1.1.1/32 dst 10.2.2.2/32 \n\tdir out priority 0 ptype main \n"
TEMPLATE = "\ttmpl src 10.77.3.2 dst 10.77.3.1\n\t\tproto esp reqid 7 mode tunnel\n"
#: What nobody here knows → a word of it that the error must hold.
UNKNOWN: dict[str, tuple[Change, str]] = {
    "a rule by mark": (
        rule("core-1", {"priority": 5, "src": "all", "fwmark": "0x7", "table": "77"}), "fwmark"),
    "a rule by the device out": (
        rule("core-1", {"priority": 5, "src": "all", "oif": "eth1", "table": "77"}), "oif"),
    "a rule that jumps": (rule("core-1", {"priority": 5, "src": "all", "goto": 9}), "goto"),
    "a rule by user": (
        rule("core-1", {"priority": 5, "src": "all", "uid_start": 0, "uid_end": 0,
                        "table": "7"}), "uid_end"),
    "a rule by service": (
        rule("core-1", {"priority": 5, "src": "all", "tos": "0x10", "table": "9"}), "tos"),
    "a rule of a VRF": (
        rule("core-1", {"priority": 5, "src": "all", "l3mdev": None}), "l3mdev"),
    "several next hops": (
        route("core-1", {"dst": "10.9.0.0/16", "nexthops": [
            {"gateway": "10.77.3.1", "dev": "eth1", "weight": 1, "flags": []}]}), "nexthops"),
    "a next hop object": (
        route("core-1", {"dst": "10.9.0.0/16", "nhid": 1, "gateway": "10.77.3.1", "dev": "eth1"}),
        "nhid"),
    "a next hop of IPv6": (
        route("core-1", {"dst": "10.9.0.0/16", "via": {"family": "inet6", "host": "fe80::1"},
                         "dev": "eth1"}), "via"),
    "a route by service": (
        route("core-1", {"dst": "10.9.0.0/16", "tos": "0x08", "dev": "eth1"}), "tos"),
    "an encapsulating route": (
        route("core-1", {"dst": "10.9.0.0/16", "encap": "ip", "dev": "eth1"}), "encap"),
    "a route with a metric of TCP's": (
        route("core-1", {"dst": "10.9.0.0/16", "dev": "eth1", "metrics": [{"mtu": 100}]}),
        "metrics"),
    "a route's flag": (
        route("core-1", {"dst": "10.9.0.0/16", "dev": "eth1", "flags": ["pervasive"]}),
        "pervasive"),
    "a kind of route": (
        route("core-1", {"dst": "10.9.0.0/16", "type": "nat", "dev": "eth1"}), "nat"),
    "a card in a bridge": (card("core-1", "eth1", master="br0"), "eth1"),
    "a policy by mark": (
        text("core-1", "policies", POLICY + "\tmark 0x5/0xffffffff \n" + TEMPLATE), "mark"),
    "a policy of a virtual interface": (
        text("core-1", "policies", POLICY + TEMPLATE + "\tif_id 0x3\n"), "ESP, tunnel mode"),
    "an optional template": (
        text("core-1", "policies", POLICY + TEMPLATE + "\t\tlevel use \n"), "ESP, tunnel mode"),
    "two templates": (
        text("core-1", "policies", POLICY + TEMPLATE + TEMPLATE), "ESP, tunnel mode"),
    "transport mode": (
        text("core-1", "policies", POLICY + TEMPLATE.replace("tunnel", "transport")), "transport"),
    "an association by mark": (
        text("core-1", "associations", "src 10.1.1.1 dst 10.1.1.2\n\tproto esp spi 0x1 reqid 1 "
             "mode tunnel\n\tmark 0x5/0xff \n"), "mark"),
    "a command that failed": (
        lambda facts: facts["core-1"]["routes"]["ipv4"].update(rc=1), "exit status 1"),
    "a listing that was cut": (
        lambda facts: facts["core-1"]["routes"]["rules"].update(truncated=True), "cut"),
    "facts that are missing": (
        lambda facts: facts["core-1"].pop("lines"), "probe lines"),
    "a switch nobody read": (
        lambda facts: facts["core-1"]["sysctl"]["live"]["files"].pop(
            "/proc/sys/net/ipv4/conf/eth1/rp_filter"), "net.ipv4.conf.eth1.rp_filter"),
    "two policies of one rank": (
        text("core-1", "policies", BLOCK + BLOCK.replace(" action block", "")), "one priority"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_an_error_by_name_and_never_a_pass(name: str) -> None:
    change, word = UNKNOWN[name]
    one = judged("store", change)
    assert one.outcome is Outcome.ERROR
    assert word in one.reason
    assert "core-1" in one.reason
    assert exit_code([one]) == 2


def by_tunnels() -> tuple[Network, Site, dict[str, HostNet | SekishoError]]:
    edits = tunnelled()
    site = lab_site(edits)
    own = {host: policy(host, edits) for host in site.machines}
    held = network_of({host: one["nftables"] for host, one in own.items()}, site)[0]
    return held, site, {host: compiled(HostPolicy.parse(one)) for host, one in own.items()}


def test_a_flow_through_a_tunnel_is_an_error_by_name_and_never_a_pass() -> None:
    found = list(deliverable(*by_tunnels()))
    assert {one.scope for one in found if one.outcome is not Outcome.PROVEN} == {
        "intake",
        "provide",
    }
    assert all("wg-" in one.reason for one in found if one.outcome is Outcome.ERROR)
    assert exit_code(found) == 2


def test_explain_does_not_tell_what_arrives_through_a_tunnel() -> None:
    held, site, facts = by_tunnels()
    ends, what = ("hospital-a", "inbound-1"), wanted("tcp/7601")
    found = explain(held, site, ends, what)[-1]
    assert found.outcome is Outcome.REFUTED, "the rules let it through"
    with pytest.raises(SekishoError) as told:
        follow(Delivery(held, site, facts), site, ends, what, found)
    assert "gate-in: got wg-" in told.value.diagnostics()


def test_strange_words_are_escaped() -> None:
    change = route("core-1", {"dst": "10.9.0.0/16", "\x1b[31m": 1})
    assert "\x1b" not in judged("store", change).reason


def test_a_machine_that_no_flow_passes_forwards_nothing() -> None:
    changed = nets(switch("core-1", "eth2/forwarding", "1\n"))
    one = Delivery(network(), site_of(), changed).forwards_nothing("core-1")
    assert one.outcome is Outcome.REFUTED
    assert one.reason == "net.ipv4.conf.eth2.forwarding = 1"


# -- the packet filter, and ARP at its hooks ------------------------------------------------------


def filtered(host: str, *more: dict[str, Any]) -> dict[str, Any]:
    """Return a host's rules with more objects at their end."""
    changed = copy.deepcopy(policies()[host]["nftables"])
    changed["nftables"] += [{"add": one} for one in more]
    return {host: changed}


def table(family: str, hook: str, *rules: list[Any], **more: Any) -> list[dict[str, Any]]:
    at = {"family": family, "table": "x"}
    base = {"chain": {**at, "name": "c", "type": "filter", "hook": hook, "prio": 0,
                      "policy": "accept", **more}}  # fmt: skip
    listed = [{"rule": {**at, "chain": "c", "expr": expr}} for expr in rules]
    return [{"table": {"family": family, "name": "x"}}, base, *listed]


def matching(protocol: str, field: str, right: Any) -> dict[str, Any]:
    left = {"payload": {"protocol": protocol, "field": field}}
    return {"match": {"op": "==", "left": left, "right": right}}


DROP: dict[str, Any] = {"drop": None}


def test_a_rule_that_stops_a_flow_is_named() -> None:
    more = table("inet", "input", [matching("tcp", "dport", 7601), DROP])
    one = judged("store", rules=filtered("core-1", *more))
    assert one.outcome is Outcome.UNDELIVERABLE
    assert one.reason == "first packet: core-1: inet x c rule 1 drops it"


def test_rules_of_two_hosts_that_let_no_packet_pass_both_are_told() -> None:
    low = table("inet", "output", [matching("tcp", "sport", {"range": [1024, 30000]}), DROP])
    high = table("inet", "input", [matching("tcp", "sport", {"range": [30001, 65535]}), DROP])
    rules = filtered("inbound-1", *low) | filtered("core-1", *high)
    one = judged("store", rules=rules)
    assert one.outcome is Outcome.UNDELIVERABLE
    assert "no one packet suits" in one.reason


@pytest.mark.parametrize(
    ("host", "hook", "word"),
    [("core-1", "input", "question"), ("core-1", "output", "answer"),
     ("inbound-1", "output", "question"), ("inbound-1", "input", "answer")],
)  # fmt: skip
def test_arp_that_is_dropped_at_its_own_hook_stops_a_flow(host: str, hook: str, word: str) -> None:
    more = table("arp", hook, policy="drop")
    one = judged("store", rules=filtered(host, *more))
    assert one.outcome is Outcome.UNDELIVERABLE
    assert f"{host}: arp x c policy drops the {word} of ARP for 10.77.3.2" in one.reason


@pytest.mark.parametrize(
    ("expr", "passes"),
    [
        ([matching("arp", "operation", "rrequest"), DROP], True),
        ([matching("arp", "saddr ip", "10.77.3.1"), DROP], False),
        ([matching("arp", "saddr ip", "10.77.3.3"), DROP], True),
        ([matching("arp", "daddr ip", {"prefix": {"addr": "10.77.3.0", "len": 29}}), DROP], False),
    ],
)
def test_rules_of_arp_are_translated(expr: list[Any], *, passes: bool) -> None:
    one = judged("store", rules=filtered("core-1", *table("arp", "input", expr)))
    assert (one.outcome is Outcome.PROVEN) is passes, one.reason


@pytest.mark.parametrize(
    "more",
    [
        table("arp", "input", [matching("arp", "saddr ether", "02:00:00:00:00:01"), DROP]),
        table("arp", "input", [{"xt": {"type": "match", "name": "string"}}]),
        table("netdev", "ingress", [DROP], dev="eth1"),
        table("netdev", "egress", [{"accept": None}], dev=["eth1", "eth2"]),
        table("inet", "ingress", [DROP], dev="eth1"),
        table("bridge", "forward", [DROP]),
        table("netdev", "prerouting", [DROP], dev="eth1"),
        table("arp", "forward", [DROP]),
    ],
    ids=lambda more: f"{more[1]['chain']['family']} {more[1]['chain']['hook']}",
)
def test_no_family_of_tables_is_passed_over(more: list[dict[str, Any]]) -> None:
    one = judged("store", rules=filtered("core-1", *more))
    assert one.outcome is Outcome.ERROR
    assert "core-1" in one.reason


@pytest.mark.parametrize("hook", ["bridge forward", "netdev prerouting", "arp forward"])
def test_a_family_or_hook_without_a_meaning_is_an_error_for_the_laws(hook: str) -> None:
    family, _, where = hook.partition(" ")
    rules = filtered("core-1", *table(family, where, [DROP], dev="eth1"))
    found = list(prove(rules, site_of()))
    assert {one.outcome for one in found} == {Outcome.ERROR}
    assert all(family in one.reason for one in found)


def test_what_nobody_can_foresee_is_an_error_and_a_limit_is_not() -> None:
    fib = {"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr", "iif"]}},
                     "right": False}}  # fmt: skip
    one = judged("store", rules=filtered("core-1", *table("inet", "input", [fib, DROP])))
    assert one.outcome is Outcome.ERROR
    assert "left open: fib oif" in one.reason
    limit = {"limit": {"rate": 10, "per": "second", "inv": True}}
    one = judged("store", rules=filtered("core-1", *table("inet", "input", [limit, DROP])))
    assert one.outcome is Outcome.PROVEN


def test_the_laws_of_direction_do_not_ask_the_routes() -> None:
    """A hole stays a hole although no route leads to it."""
    changed = copy.deepcopy(policies()["gate-in"]["nftables"])
    body = {"family": "inet", "table": "sekisho", "chain": "forward", "expr": [{"accept": None}]}
    first = next(i for i, one in enumerate(changed["nftables"]) if "rule" in one.get("add", {}))
    changed["nftables"].insert(first, {"add": {"rule": body}})
    laws = prove({"gate-in": changed}, site_of())
    law = next(one for one in laws if one.law == "6-iv-e.only-declared-through")
    assert law.outcome is Outcome.REFUTED


# -- encrypted lines ------------------------------------------------------------------------------


def sealed_nets(change: Callable[[str], str] = str, host: str = "gate-in") -> dict[str, Any]:
    """Return the site's hosts as compiled, but ``host`` with what the kernel would list."""
    told = policies(sealed=True)
    found: dict[str, Any] = {n: compiled(HostPolicy.parse(one)) for n, one in told.items()}
    facts = copy.deepcopy(FACTS[host])
    reqid = policies(sealed=True)["gate-in"]["lines"][0]["children"][0]["reqid"]
    tunnel = (
        "\ttmpl src {} dst {}\n\t\tproto esp {}reqid " + str(reqid) + " mode tunnel\n"
    )  # fmt: skip
    there, back = "src 10.77.1.2/32 dst 10.77.2.2/32 proto tcp dport 7601 \n", (
        "src 10.77.2.2/32 dst 10.77.1.2/32 proto tcp sport 7601 \n")  # fmt: skip
    came, goes = ("10.77.1.2", "10.77.1.1"), ("10.77.1.1", "10.77.1.2")
    listed = "".join((
        there, "\tdir fwd priority 366911 ptype main \n", tunnel.format(*came, ""),
        there, "\tdir in priority 366911 ptype main \n", tunnel.format(*came, ""),
        back, "\tdir out priority 366911 ptype main \n", tunnel.format(*goes, "spi 0xc9a3e1f4 "),
        "src 0.0.0.0/0 dst 0.0.0.0/0 \n\tsocket in priority 0 ptype main \n",
        "src ::/0 dst ::/0 \n\tsocket out priority 0 ptype main \n",
    ))  # fmt: skip
    states = "".join(
        f"src {one} dst {other}\n\tproto esp spi 0xc9a3e1f4 reqid {reqid} mode tunnel\n"
        "\treplay-window 0 flag af-unspec esn\n\taead rfc4106(gcm(aes)) <<Keys hidden>> 128\n"
        "\tlastused 2026-11-26 15:00:00\n\tanti-replay esn context:\n"
        "\t seq-hi 0x0, seq 0x0, oseq-hi 0x0, oseq 0x5\n\t replay_window 1024, bitmap-length 32\n"
        "\t 00000000 00000000 \n"
        for one, other in (came, goes)
    )
    both_texts = change(f"{listed}====\n{states}").split("====\n")
    facts["lines"]["policies"]["stdout"], facts["lines"]["associations"]["stdout"] = both_texts
    return found | {host: read(facts, host)}


@cache
def sealed_network() -> Network:
    rules = {host: one["nftables"] for host, one in policies(sealed=True).items()}
    return network_of(rules, site_of(sealed=True))[0]


def sealed(
    change: Callable[[str], str] = str, network: Network | None = None
) -> dict[str, Finding]:
    site = site_of(sealed=True)
    delivery = Delivery(network or sealed_network(), site, sealed_nets(change))
    return {one.name: delivery.judge(one) for one in relations(site)
            if one.name == "intake" or "IPsec" in one.name}  # fmt: skip


def test_an_encrypted_flow_arrives_and_so_does_what_carries_it() -> None:
    found = sealed()
    assert found["intake"].outcome is Outcome.PROVEN, found["intake"].reason
    assert found["wan-in, IPsec gate-in and hospital-a"].outcome is Outcome.PROVEN
    whole = {host: compiled(HostPolicy.parse(one)) for host, one in policies(sealed=True).items()}
    delivery = Delivery(sealed_network(), site_of(sealed=True), whole)
    found = [delivery.judge(one) for one in relations(site_of(sealed=True))
             if one.name == "intake" or "IPsec" in one.name]  # fmt: skip
    assert exit_code(found) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda one: one.replace("dir fwd", "dir in"),
         "gate-in: no xfrm policy fwd covers 10.77.1.2 → 10.77.2.2, which is to be encrypted"),
        (lambda one: one.replace("dir out", "dir in"), "gate-in: no xfrm policy out covers"),
        (lambda one: one.replace("reqid ", "reqid 1"), "is not the line's own: reqid 1"),
        (lambda one: one.replace("tmpl src 10.77.1.2", "tmpl src 10.77.1.3"), "10.77.1.3"),
        (lambda one: one.partition("====\n")[0] + "====\n",
         "no association of ESP 10.77.1.2 → 10.77.1.1"),
        (lambda one: one.replace("0xc9a3e1f4 reqid", "0x00000000 reqid"), "no association of ESP"),
        (lambda _: "====\n", "no xfrm policy fwd"),
    ],
)  # fmt: skip
def test_an_encrypted_flow_without_its_policy_or_association_does_not_arrive(
    change: Callable[[str], str], told: str
) -> None:
    one = sealed(change)["intake"]
    assert one.outcome is Outcome.UNDELIVERABLE
    assert told in one.reason


def test_clear_rules_with_ipsec_in_the_kernel_do_not_pass_the_flow() -> None:
    site = site_of(sealed=True)
    rules = {host: one["nftables"] for host, one in policies(sealed=True).items()}
    shut = {"nftables": [*rules["gate-in"]["nftables"], *({"add": one} for one in table(
        "inet", "forward", [{"match": {"op": "==", "left": {"meta": {"key": "ipsec"}},
                                       "right": True}}, DROP]))]}  # fmt: skip
    held, _ = network_of(rules | {"gate-in": shut}, site)
    one = sealed(network=held)["intake"]
    assert one.reason.startswith("first packet: gate-in: inet x c rule 1 drops it")


# -- the command ----------------------------------------------------------------------------------


def explained(change: Change | None, ends: tuple[str, str], kind: str) -> str:
    found = explain(network(), site_of(), ends, wanted(kind))
    assert found[-1].outcome is Outcome.REFUTED, "the rules let it through"
    delivery = Delivery(network(), site_of(), nets(change))
    return follow(delivery, site_of(), ends, wanted(kind), found[-1])


@pytest.mark.slow
def test_explain_says_what_stops_a_packet_the_rules_let_through() -> None:
    ends = ("hospital-a", "inbound-1")
    assert explained(None, ends, "tcp/7601") == ""
    assert explained(switch("gate-in", "eth1/forwarding", "0\n"), ends, "tcp/7601") == (
        "packet: gate-in: net.ipv4.conf.eth1.forwarding = 0"
    )
    assert "no route" in explained(no_route("outbound-1", "10.77.6.0/29"),
                                   ("outbound-1", "university-b"), "tcp/7601")  # fmt: skip
    assert explained(None, ("monitor-1", "core-1"), "any") == ""
    for way in (("inbound-1", "hospital-a"), ("university-b", "outbound-1")):
        assert explained(None, way, "any") == ""


@pytest.mark.slow
def test_the_command_tells_what_does_not_arrive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "lab"
    copy_lab(site)
    words = ["flows", "prove", "-i", str(site), "--host", "monitor-1"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    laws = {one["law"] for one in told["findings"]}
    assert {"6-iv-b.declared-services-arrive", "6-iv-e.nothing-forwarded"} <= laws
    listing = tmp_path / "rules.json"
    listing.write_text(json.dumps(filtered(
        "monitor-1", *table("inet", "output", [matching("tcp", "dport", 9723), DROP])
    )["monitor-1"]))  # fmt: skip
    assert main([*words, "--ruleset", str(listing)]) == 1
    out = capsys.readouterr().out
    assert "UNDELIVERABLE 6-iv-b.declared-services-arrive  metrics monitor-1 to core-1" in out
    assert "first packet: monitor-1: inet x c rule 1 drops it" in out
    explain_words = ["flows", "explain", "-i", str(site), "hospital-a", "inbound-1"]
    assert main([*explain_words, "--with", "tcp/7601", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answer"], told["stopped_by"]) == ("yes", "")
