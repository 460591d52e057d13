"""Network facts are read from what the tools print; what is garbled is an error, never a fact."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sekisho.catalogue.judge import walk
from sekisho.probes.model import Probe, ProbeError
from sekisho.probes.registry import registry
from sekisho.site.networkd import network_files
from siteworld import policy

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
        for path, text in network_files(policy("inbound-1")).items()
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
