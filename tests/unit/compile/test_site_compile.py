"""A host's policy holds what its role needs, and nothing of anybody else's."""

from __future__ import annotations

import ipaddress

import pytest

from sekisho.compile.picture import draw
from sekisho.compile.policy import compile_host
from sekisho.control.inventory.read import read_inventory
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.network.networkd import network_files
from sekisho.policy.parts import Route
from sekisho.site.parse import parse_site
from sekisho.site.rules.invariants import check
from siteworld import ISSUED, ROOT, SITE, host_policy, lab_site, policy

HOSTS = ["inbound-1", "core-1", "outbound-1", "gate-in", "gate-out", "monitor-1", "terminal-1"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_policy_is_canonical_and_the_same_twice(host: str) -> None:
    assert canonical(policy(host)) == canonical(policy(host))


@pytest.mark.parametrize("host", HOSTS)
def test_no_machine_gets_a_default_route(host: str) -> None:
    for route in policy(host)["routes"]:
        assert ipaddress.ip_network(route["to"]).prefixlen >= 8
    rest = {key: value for key, value in policy(host).items() if key != "declared"}  # no routes
    assert "0.0.0.0/0" not in str(rest)


def test_only_inbound_and_outbound_need_a_route_and_only_to_their_peers() -> None:
    routes = {host: policy(host)["routes"] for host in HOSTS}
    assert routes.pop("inbound-1") == [
        {"to": "10.77.1.0/29", "via": "10.77.2.1", "interface": "eth1"}
    ]
    assert routes.pop("outbound-1") == [
        {"to": "10.77.6.0/29", "via": "10.77.5.2", "interface": "eth2"}
    ]
    assert not any(routes.values())


def test_core_receives_from_inbound_and_pushes_to_outbound_and_no_more() -> None:
    flows = policy("core-1")["flows"]
    assert [(flow["direction"], flow["peer"]) for flow in flows] == [
        ("in", "inbound-1"),
        ("out", "outbound-1"),
    ]


def test_a_gateway_only_forwards() -> None:
    (flow,) = policy("gate-in")["flows"]
    assert flow["direction"] == "forward"
    assert (flow["from_address"], flow["to_address"]) == ("10.77.1.2", "10.77.2.2")
    assert (flow["in_interface"], flow["out_interface"]) == ("eth1", "eth2")


def test_accounts_are_those_of_the_role() -> None:
    people = {host: set(policy(host)["accounts"]) for host in HOSTS}
    assert people["gate-in"] == people["gate-out"] == {"aoki", "auditor"}
    assert people["core-1"] == people["inbound-1"] == {"aoki", "auditor", "baba"}
    assert people["monitor-1"] == {"aoki", "auditor", "chiba"}


def test_listeners_are_on_single_addresses() -> None:
    for host in HOSTS:
        for one in policy(host)["listeners"]:
            assert one["address"].startswith("10.77.")


def test_a_peer_behind_the_carriers_router_gets_a_route_of_its_own() -> None:
    site = parse_site(read_inventory(ROOT / "inventory" / "example"))
    gate = compile_host(site, "gate-east", serial=1, issued=ISSUED)
    assert Route("192.168.140.5/32", "172.20.8.9", "enp2s0") in gate.routes
    inbound = compile_host(site, "inbound-1", serial=1, issued=ISSUED)
    assert [(route.to, route.via) for route in inbound.routes] == [
        ("172.20.8.0/24", "10.20.16.1"),
        ("172.21.8.0/24", "10.20.16.5"),
        ("192.168.140.5/32", "10.20.16.1"),
    ]


def test_the_example_is_sound() -> None:
    site = parse_site(read_inventory(ROOT / "inventory" / "example"))
    assert check(site, now=ISSUED.date()) == []


def test_an_unknown_host_is_told() -> None:
    with pytest.raises(SekishoError, match="cannot compile"):
        compile_host(lab_site(), "core-2", serial=1, issued=ISSUED)


def test_network_files_bind_name_and_card_and_learn_nothing() -> None:
    files = network_files(host_policy("inbound-1"))
    text = files["/etc/systemd/network/05-sekisho-eth1.network"]
    for line in ("MACAddress=52:54:00:77:02:02", "Name=eth1", "Address=10.77.2.2/29", "DHCP=no",
                 "IPv6AcceptRA=no", "LinkLocalAddressing=no", "LLMNR=no", "MulticastDNS=no",
                 "Destination=10.77.1.0/29", "Gateway=10.77.2.1"):  # fmt: skip
        assert f"\n{line}\n" in f"\n{text}"
    assert "Gateway" not in files["/etc/systemd/network/05-sekisho-eth0.network"]


@pytest.mark.parametrize("language", ["en", "ja", "both"])
def test_the_picture_names_every_machine_and_peer(language: str) -> None:
    site = lab_site({SITE: ("en: Hospital A", 'en: "Hospital <A> & B"')})
    svg = draw(site, language)
    for name in (*site.machines, *site.peers):
        assert f">{name}<" in svg
    assert "<A>" not in svg
