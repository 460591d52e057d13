"""Network facts are read from what the tools print; what is garbled is an error, never a fact."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from sekisho.catalogue.judge import walk
from sekisho.network.networkd import network_files
from sekisho.probes.model import Probe, ProbeError
from sekisho.probes.registry import registry
from siteworld import host_policy, policy

PROBES = registry()


def ran(stdout: str, code: int = 0) -> dict[str, Any]:
    return {"rc": code, "stdout": stdout, "stderr": "", "truncated": False}


def read(texts: dict[str, str]) -> dict[str, Any]:
    return {
        "files": {
            path: {"mode": 0o644, "uid": 0, "gid": 0, "kind": "file", "text": text}
            for path, text in texts.items()
        }
    }


def parse(name: str, **raw: Any) -> Any:
    probe: Probe = PROBES[name]
    return probe.parse(raw)


LO = {"ifname": "lo", "flags": ["LOOPBACK"], "address": "00:00:00:00:00:00", "addr_info": [
    {"family": "inet", "local": "127.0.0.1", "prefixlen": 8}]}  # fmt: skip
ETH = {"ifname": "eth0", "flags": ["UP"], "address": "52:54:00:77:00:13", "promiscuity": 0,
       "addr_info": [{"family": "inet", "local": "10.77.0.13", "prefixlen": 24}]}  # fmt: skip


def links(*entries: dict[str, Any]) -> Any:
    return parse("links", addresses=ran(json.dumps([LO, *entries])))


def test_links_are_as_the_policy_writes_them() -> None:
    found = links(ETH)
    assert found["macs"] == ["eth0 52:54:00:77:00:13"]
    assert found["addresses"] == ["eth0 10.77.0.13/24"]
    assert found["virtual"] == found["ipv6"] == found["leased"] == found["listening_in"] == []


def test_what_is_no_card_listens_in_or_was_leased_is_seen() -> None:
    tunnel = {"ifname": "wg0", "linkinfo": {"info_kind": "wireguard"}, "addr_info": []}
    leased = {**ETH, "flags": ["PROMISC"], "addr_info": [
        {"family": "inet", "local": "10.0.0.5", "prefixlen": 24, "dynamic": True},
        {"family": "inet6", "local": "fe80::1", "prefixlen": 64}]}  # fmt: skip
    found = links(leased, tunnel)
    assert found["virtual"] == ["wg0 wireguard"]
    assert found["listening_in"] == ["eth0"]
    assert found["leased"] == ["eth0 10.0.0.5"]
    assert found["ipv6"] == ["eth0 fe80::1"]


def test_routes_are_told_apart() -> None:
    found = parse(
        "routes",
        ipv4=ran(json.dumps([
            {"dst": "10.77.1.0/29", "gateway": "10.77.2.1", "dev": "eth1"},
            {"dst": "192.168.140.5", "gateway": "10.77.2.1", "dev": "eth1"},
            {"dst": "10.77.2.0/29", "dev": "eth1", "protocol": "kernel"},
            {"dst": "default", "gateway": "10.77.0.1", "dev": "eth0"},
            {"dst": "10.9.0.0/16", "dev": "eth0", "table": "77"},
            {"type": "local", "dst": "10.77.2.2", "dev": "eth1", "table": "local"},
        ])),
        ipv6=ran("[]"),
        rules=ran(json.dumps([
            {"priority": 0, "src": "all", "table": "local"},
            {"priority": 77, "src": "10.0.0.1", "table": "77"},
            {"priority": 32766, "src": "all", "table": "main"},
        ])),
    )  # fmt: skip
    assert found["routes"] == [
        {"to": "10.77.1.0/29", "via": "10.77.2.1", "interface": "eth1"},
        {"to": "192.168.140.5/32", "via": "10.77.2.1", "interface": "eth1"},
    ]
    assert found["default"] == ["via 10.77.0.1 eth0"]
    assert found["connected"] == ["10.77.2.0/29"]
    assert found["other_tables"] == ["10.9.0.0/16 in table 77"]
    assert found["rules"] == ["77 10.0.0.1 77"]


def test_whatever_stands_in_another_table_is_told() -> None:
    ipv4 = [
        {"dst": "default", "gateway": "10.77.0.250", "dev": "eth0", "table": "77"},
        {"type": "local", "dst": "198.51.100.0/24", "dev": "lo", "table": "78"},
        {"type": "local", "dst": "127.0.0.1", "dev": "lo", "table": "local"},
    ]
    found = parse("routes", ipv4=ran(json.dumps(ipv4)), ipv6=ran("[]"), rules=ran("[]"))
    assert found["other_tables"] == ["default in table 77", "198.51.100.0/24 in table 78"]
    assert found["default"] == ["via 10.77.0.250 eth0"]


def test_sockets_are_as_the_policy_writes_them() -> None:
    found = parse(
        "sockets",
        sockets=ran(
            'udp UNCONN 0 0 127.0.0.1:323 0.0.0.0:* users:(("chronyd",pid=1,fd=5))\n'
            'tcp LISTEN 0 128 10.77.0.13:22 0.0.0.0:* users:(("sshd",pid=2,fd=3))\n'
            'tcp LISTEN 0 5 0.0.0.0:8098 0.0.0.0:* users:(("python3",pid=9,fd=3))\n'
            "tcp LISTEN 0 5 [::]:8099 [::]:*\n"
        ),
        packet=ran('p_raw UNCONN 0 0 *:eth0 * users:(("tcpdump",pid=7,fd=3))\n'),
    )
    assert "tcp 10.77.0.13:22" in found["outside"]
    assert "tcp 10.77.0.13:22" in policy("core-1")["sockets"]
    assert found["everywhere"] == ["tcp 0.0.0.0:8098 python3", "tcp [::]:8099 unknown"]
    assert found["loopback"] == ["udp 127.0.0.1:323"]
    assert found["packet"] == ["tcpdump"]


def networkd(texts: dict[str, str]) -> Any:
    cards = {f"/sys/class/net/{name}/address": "" for name in ("lo", "eth0", "eth1", "eth2")}
    return parse("networkd", networks=read(texts), cards=read(cards))


def test_our_network_files_read_as_the_policy() -> None:
    files = {
        path: text
        for path, text in network_files(host_policy("inbound-1")).items()
        if path.endswith(".network")
    }
    dhcp = "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n"
    files["/etc/systemd/network/10-eth0.network"] = dhcp  # the box's own file comes too late
    found = networkd(files)
    assert sorted(found["addresses"]) == sorted(policy("inbound-1")["addresses"])
    assert sorted(found["macs"]) == sorted(policy("inbound-1")["macs"])
    assert found["routes"] == policy("inbound-1")["routes"]
    for key in ("default", "leased", "learning", "unnamed", "unconfigured"):
        assert found[key] == [], key


@pytest.mark.parametrize(
    ("drop_in", "key", "told"),
    [
        ("[Network]\nDHCP=yes\n", "leased", ["eth0"]),
        ("[Network]\nDHCP=IPv4\n", "leased", ["eth0"]),
        ("[Network]\nLLMNR=resolve\n", "learning", ["eth0 LLMNR"]),
        ("[Network]\nGateway=10.0.0.9\n", "default", ["eth0 10.0.0.9"]),
        ("[Network]\nIPv4ReversePathFilter=loose\n", "rp_filter",
         ["eth0 IPv4ReversePathFilter=loose"]),
        ("[Network]\nIPv4ProxyARP=yes\n", "proxy_arp", ["eth0 IPv4ProxyARP=yes"]),
        ("[Network]\nIPv4RouteLocalnet=1\n", "route_localnet", ["eth0 IPv4RouteLocalnet=1"]),
        ("[Network]\nLLMNR=false\nIPv4ProxyARP=off\n", "learning", []),
        ("[Network]\nIPv4ReversePathFilter=strict\n", "rp_filter", []),
        ("[Match]\nHost=other\n", "unnamed", ["05-sekisho-eth0.network"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", ["/etc", "/run", "/usr/local/lib", "/usr/lib"])
def test_a_drop_in_of_any_folder_counts(
    folder: str, drop_in: str, key: str, told: list[str]
) -> None:
    ours = network_files(host_policy("core-1"))
    found = networkd(
        {
            **{path: text for path, text in ours.items() if path.endswith(".network")},
            f"{folder}/systemd/network/05-sekisho-eth0.network.d/x.conf": drop_in,
        }
    )
    assert found[key] == told


@pytest.mark.parametrize("match", ["Name=!lo", "Name=eth0\nVirtualization=no", "Type=ether"])
def test_a_file_that_may_match_any_card_is_told(match: str) -> None:
    text = f"[Match]\n{match}\n[Network]\nDHCP=yes\n"
    found = networkd({"/usr/local/lib/systemd/network/00-x.network": text})
    assert found["unnamed"] == ["00-x.network"]


def test_a_file_linked_to_nothing_is_no_file() -> None:
    raw = read({"/usr/lib/systemd/network/a.network": "[Match]\nName=eth0\n[Network]\nDHCP=yes\n"})
    raw["files"]["/etc/systemd/network/a.network"] = {
        "mode": 0o777, "uid": 0, "gid": 0, "kind": "link", "target": "/dev/null",
    }  # fmt: skip
    cards = read({"/sys/class/net/eth0/address": ""})
    found = parse("networkd", networks=raw, cards=cards)
    assert (found["leased"], found["unnamed"], found["unconfigured"]) == ([], [], ["eth0"])


def test_an_address_with_a_peers_network_is_not_the_declared_one() -> None:
    # ip address add 10.77.0.13 peer 198.51.100.0/24 dev eth0
    far = {"family": "inet", "local": "10.77.0.13", "address": "198.51.100.0", "prefixlen": 24}
    assert links({**ETH, "addr_info": [far]})["addresses"] == [
        "eth0 10.77.0.13 peer 198.51.100.0/24"
    ]


def test_loopback_in_promiscuous_mode_is_told() -> None:
    told = parse("links", addresses=ran(json.dumps([{**LO, "promiscuity": 1}])))
    assert told["listening_in"] == ["lo"]


def test_a_lease_a_default_route_and_a_file_for_any_card_are_seen() -> None:
    found = networkd(
        {
            "/etc/systemd/network/10-eth0.network": "[Match]\nName=eth*\n[Network]\nDHCP=yes\n"
            "[Route]\nGateway=10.0.0.1\n",
            "/etc/systemd/network/20-any.network": "[Match]\nType=ether\n[Network]\nDHCP=yes\n",
        }
    )
    assert found["leased"] == ["eth0", "eth1", "eth2"]
    assert found["default"] == ["eth0 10.0.0.1", "eth1 10.0.0.1", "eth2 10.0.0.1"]
    assert found["unnamed"] == ["20-any.network"]
    assert "eth0 LLMNR" in found["learning"]


ALL = ["forward", "input", "output"]


def filtered(change: Any = None) -> tuple[list[str], list[str]]:
    """Return ipv6_dropped and syn_first of core-1's rules, its input rules changed."""
    rules = copy.deepcopy(policy("core-1")["nftables"])
    listed = [e["add"]["rule"] for e in rules["nftables"] if "rule" in e.get("add", {})]
    if change is not None:
        change([rule for rule in listed if rule["chain"] == "input"])
    found = parse("nftables", loaded=ran(json.dumps(rules)), disk=read({}))["runtime"]
    return found["ipv6_dropped"], found["syn_first"]


def rule_of(rules: list[dict[str, Any]], check: str) -> dict[str, Any]:
    return next(rule for rule in rules if check in rule.get("comment", ""))


def narrowed(rules: list[dict[str, Any]]) -> None:
    port = {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 9}
    rule_of(rules, "hops-begin-with-syn")["expr"].insert(0, {"match": port})


def other_flags(rules: list[dict[str, Any]]) -> None:
    for one in rule_of(rules, "hops-begin-with-syn")["expr"]:
        if one.get("match", {}).get("right") == "syn":
            one["match"]["right"] = "rst"


def anything_but_loopback(rules: list[dict[str, Any]]) -> None:
    rules[0]["expr"][0]["match"]["op"] = "!="


def by_verdict_map(rules: list[dict[str, Any]]) -> None:
    key = {"meta": {"key": "iifname"}}
    rules[0]["expr"] = [{"vmap": {"key": key, "data": {"set": [["eth1", {"accept": None}]]}}}]


def elsewhere(rules: list[dict[str, Any]]) -> None:
    rules[0]["expr"] = [{"goto": {"target": "bare"}}]


@pytest.mark.parametrize("host", ["core-1", "gate-in", "gate-out", "inbound-1", "terminal-1"])
def test_our_rules_drop_ipv6_and_want_a_syn_first(host: str) -> None:
    loaded = ran(json.dumps(policy(host)["nftables"]))
    found = parse("nftables", loaded=loaded, disk=read({}))["runtime"]
    assert found["ipv6_dropped"] == found["syn_first"] == ALL


@pytest.mark.parametrize("change", [narrowed, other_flags])
def test_a_narrower_rule_does_not_want_a_syn_of_all(change: Any) -> None:
    assert filtered(change) == (ALL, ["forward", "output"])


@pytest.mark.parametrize("change", [anything_but_loopback, by_verdict_map, elsewhere])
def test_what_may_pass_before_them_is_seen(change: Any) -> None:
    assert filtered(change) == (["forward", "output"], ["forward", "output"])


def test_tables_of_the_older_iptables_are_told() -> None:
    old = {"/proc/net/dev": "", "/proc/net/ip_tables_names": "filter\nnat\n"}
    assert parse("legacy-tables", tables=read(old)) == {"tables": ["ip filter", "ip nat"]}
    none = {"/proc/net/dev": "", "/proc/net/ip_tables_names": ""}
    assert parse("legacy-tables", tables=read(none)) == {"tables": []}
    with pytest.raises(ProbeError):
        parse("legacy-tables", tables=read({}))


def test_the_rules_on_disk_are_judged_even_when_nothing_is_loaded() -> None:
    rules = policy("core-1")
    found = parse(
        "nftables",
        loaded=ran('{"nftables": [{"metainfo": {"version": "1.1.3"}}]}'),
        disk=read({"/etc/sekisho/nftables.json": json.dumps(rules["nftables"])}),
    )
    assert found["disk"]["digest"] == rules["nftables_digest"]
    assert found["runtime"]["digest"] != rules["nftables_digest"]
    assert found["runtime"]["tables"] == []
    assert sorted(found["disk"]["hops"]) == sorted(rules["hops"])
    assert walk(found, ["disk", "sets", "session_in"]) == rules["desk_in"]


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("links", {"addresses": ran("[]")}),
        ("links", {"addresses": ran("{")}),
        ("links", {"addresses": ran("", 1)}),
        ("links", {}),
        ("routes", {"ipv4": ran("7"), "ipv6": ran("[]"), "rules": ran("[]")}),
        ("sockets", {"sockets": ran("tcp LISTEN\n"), "packet": ran("")}),
        ("sockets", {"sockets": ran("", 1), "packet": ran("")}),
        ("networkd", {"networks": read({}), "cards": read({})}),
        ("networkd", {"networks": read({"/etc/systemd/network/a.network": "no section\n"}),
                      "cards": read({"/sys/class/net/eth0/address": ""})}),
        ("nftables", {"loaded": ran("{}"), "disk": read({})}),
        ("nftables", {"loaded": ran("x"), "disk": read({})}),
        ("nftables", {"loaded": ran('{"nftables": [3]}'), "disk": read({})}),
        ("nftables", {"loaded": ran('{"nftables": []}'),
                      "disk": read({"/etc/sekisho/nftables.json": "{"})}),
        ("identity", {"identity": read({})}),
    ],
)  # fmt: skip
def test_what_is_cut_missing_or_garbled_is_an_error(name: str, raw: dict[str, Any]) -> None:
    with pytest.raises(ProbeError):
        parse(name, **raw)


def replies(*level: Any, jump: str = "jump") -> list[str]:
    """Return what is odd about the replies' chain when the chain it jumps to has these rules."""
    document = json.loads(json.dumps(policy("gate-in")["nftables"]))
    for entry in document["nftables"]:
        rule = entry.get("add", {}).get("rule", {})
        if rule.get("chain") == "bare" and "jump" in rule["expr"][0]:
            rule["expr"] = [{jump: rule["expr"][0]["jump"]}]
    for expr in level:
        document["nftables"].append({"add": {"rule": {
            "family": "inet", "table": "sekisho", "chain": "level", "expr": [expr]}}})  # fmt: skip
    found = parse("nftables", loaded=ran(json.dumps(document)), disk={"files": {}})
    odd: list[str] = found["runtime"]["reply_odd"]
    return odd


def test_replies_may_go_through_a_chain_that_only_rewrites() -> None:
    assert replies() == []
    assert replies({"return": None}) == []


@pytest.mark.parametrize(
    "word", ["accept", "queue", "dup", "fwd", "tproxy", "notrack", "vmap", "jump", "goto", "reset"]
)
def test_a_chain_that_may_do_more_than_rewrite_is_odd(word: str) -> None:
    assert len(replies({word: None})) == 1


def test_replies_that_do_not_come_back_are_odd() -> None:
    assert len(replies(jump="goto")) == 1
