"""Encrypted links in the site model: what is compiled of them, and what is explained away."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.control.inventory.files import line_files
from sekisho.network.strongswan import ESP_PROPOSAL, IKE_PROPOSAL, strongswan_conf, swanctl_conf
from sekisho.nft.ipsec import peer_ruleset
from sekisho.policy.host_policy import HostPolicy
from sekisho.probes.lines import PROBES
from sekisho.probes.nftables import _facts
from sekisho.site.lines import lines_of, reqid
from siteworld import SITE, host_policy, lab_site, policy, problems

Edits = dict[str, tuple[str, str] | str]


VPN = "peers.hospital-a.vpn"


def said(link: str, word: str) -> Edits:
    networks = {"wan-in": "10.77.1.0/29", "hop-in": "10.77.3.0/29", "desk": "10.77.7.0/29"}
    network = f"network: {networks[link]}"
    return {SITE: (network, f"encryption: {word}\n      {network}")}


IN = said("wan-in", "ipsec")


def test_a_site_that_asks_for_nothing_has_no_line_and_no_file() -> None:
    for host in ("gate-in", "core-1"):
        compiled = policy(host, said("wan-in", "carrier"))
        assert compiled["lines"] == compiled["line_flows"] == compiled["everywhere"] == []
        assert line_files(HostPolicy.parse(compiled)) == {}
        assert "ipsec" not in json.dumps(compiled["nftables"])


def test_a_line_is_one_child_per_flow_with_exact_selectors() -> None:
    (line,) = policy("gate-in", IN)["lines"]
    assert (line["local_address"], line["peer_address"]) == ("10.77.1.1", "10.77.1.2")
    assert line["children"] == [
        {
            "flow": "intake",
            "reqid": reqid("wan-in", "intake"),
            "local_ts": "10.77.2.2/32[tcp/7601]",
            "remote_ts": "10.77.1.2/32[tcp]",
        }
    ]
    (theirs,) = lines_of(lab_site(IN), "hospital-a")
    assert (theirs.local_id, theirs.peer_id) == (line["peer_id"], line["local_id"])
    assert theirs.children[0].local_ts == line["children"][0]["remote_ts"]
    assert theirs.children[0].reqid == line["children"][0]["reqid"]
    assert line["starts"]
    assert not theirs.starts
    assert policy("inbound-1", IN)["lines"] == []


def test_a_dedicated_line_inside_may_ask_for_it_too() -> None:
    edits = said("hop-in", "ipsec")
    (left,), (right,) = policy("inbound-1", edits)["lines"], policy("core-1", edits)["lines"]
    assert (left["starts"], right["starts"]) == (True, False)
    assert left["children"][0]["reqid"] == right["children"][0]["reqid"]
    for host in ("inbound-1", "core-1"):
        compiled = policy(host, edits)
        facts = _facts(compiled["nftables"], host)
        assert facts["lines"] == compiled["line_hops"] != []
        assert sorted(facts["hops"]) == sorted(compiled["hops"])
        assert facts["line_ends"] == compiled["line_ends"]
        assert facts["line_outer"] == []


def test_the_number_of_a_flow_is_its_own_and_stays() -> None:
    assert reqid("wan-in", "intake") == 1745606847
    assert reqid("wan-in", "intake") != reqid("wan-out", "intake")


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_number_is_one_the_kernel_takes(link: str, flow: str) -> None:
    assert 0 < reqid(link, flow) < 2**31


def test_no_proposal_but_one_and_no_plugin_that_exempts() -> None:
    text = swanctl_conf(host_policy("gate-in", IN).lines)
    offered = {line.split("=")[1].strip() for line in text.splitlines() if "proposals =" in line}
    assert offered == {IKE_PROPOSAL, ESP_PROPOSAL}
    assert "revocation = strict" in text
    loaded = next(
        line for line in strongswan_conf().splitlines() if line.strip().startswith("load =")
    )
    assert not set(loaded.split()) & {"bypass-lan", "kernel-libipsec", "curl", "stroke", "forecast"}


def test_a_value_that_would_end_a_section_is_refused() -> None:
    (line,) = host_policy("gate-in", IN).lines
    with pytest.raises(ValueError, match="cannot stand"):
        swanctl_conf([replace(line, peer_id="x\n}")])


BAD: dict[str, tuple[Edits, str, str]] = {
    "a tunnel inside": (said("hop-in", "wireguard"), "links.hop-in.encryption", "a peer's line"),
    "an outside link in clear": (said("wan-in", "none"), "links.wan-in.encryption", "encrypt it"),
    "a carrier inside": (said("hop-in", "carrier"), "links.hop-in.encryption", "ip-vpn"),
    "a terminal's link": (said("desk", "ipsec"), "links.desk.encryption", "SSH"),
    "a word unknown": (said("wan-in", "tls"), "links.wan-in.encryption", ""),
    "an end without encryption": (
        {SITE: ("address: 10.77.1.2", "address: 10.77.1.2\n      vpn: 10.77.1.3")},
        "peers.hospital-a.vpn", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_combination_is_explained(name: str) -> None:
    edits, key, hint = BAD[name]
    found = [problem for problem in problems(edits) if problem.key == key]
    assert found, problems(edits)
    assert hint in found[0].hint


def two(*changes: tuple[str, str]) -> Edits:
    raw = next(file for file in _texts() if file[0] == SITE)[1]
    for old, new in changes:
        assert old in raw
        raw = raw.replace(old, new, 1)
    return {SITE: raw}


def _texts() -> list[tuple[str, str]]:
    from siteworld import lab_raw  # noqa: PLC0415 - this helper's alone

    return [(file.path, file.text) for file in lab_raw().group_vars]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("address: 10.77.1.2", "address: 10.77.1.2\n      vpn: 10.77.9.9"), VPN),
        (("address: 10.77.1.2", "address: 10.77.1.2\n      vpn: 10.77.1.1"), VPN),
        (("mode: one-way-tcp        # one", "mode: diode        # one"), "flows.intake.mode"),
    ],
)  # fmt: skip
def test_an_end_or_a_mode_that_does_not_fit_is_explained(change: tuple[str, str], key: str) -> None:
    assert key in {problem.key for problem in problems(two(IN[SITE], change))}  # type: ignore[arg-type]


def test_a_peer_behind_its_own_gateway_is_reached_by_a_route() -> None:
    edits = two(
        IN[SITE],  # type: ignore[arg-type]
        (
            "address: 10.77.1.2",
            "address: 192.0.2.9\n      vpn: 198.51.100.7\n      router: 10.77.1.6",
        ),
    )  # fmt: skip
    assert problems(edits) == []
    compiled = policy("gate-in", edits)
    assert {route["to"] for route in compiled["routes"]} == {"192.0.2.9/32", "198.51.100.7/32"}
    assert compiled["line_ends"] == ["eth1 198.51.100.7 10.77.1.1"]
    assert compiled["line_flows"][0].endswith("192.0.2.9/32[tcp]")


def test_the_peers_own_filter_names_its_flow_both_ways() -> None:
    rules = peer_ruleset(lines_of(lab_site(IN), "hospital-a"))["nftables"]
    drops = [entry for entry in rules if {"drop": None} in
             entry.get("add", {}).get("rule", {}).get("expr", [])]  # fmt: skip
    assert len(drops) == 4  # output, input, and forward both ways


# -- the probe ----------------------------------------------------------------------------------

POLICIES = """\
src 10.77.1.2/32 dst 10.77.2.2/32 proto tcp dport 7601 
\tdir fwd priority 366911 ptype main 
\ttmpl src 10.77.1.2 dst 10.77.1.1
\t\tproto esp reqid 1745606847 mode tunnel
src 0.0.0.0/0 dst 0.0.0.0/0 
\tsocket in priority 0 ptype main 
src 10.0.0.1/32 dst 10.0.0.2/32 
\tdir in action block priority 0 ptype main 
"""  # noqa: W291 - as iproute2 prints it
STATES = """\
src 10.77.1.1 dst 10.77.1.2
\tproto esp spi 0xc9a3e1f4 reqid 1745606847 mode tunnel
\treplay-window 0 flag af-unspec
\taead rfc4106(gcm(aes)) <<Keys hidden>> 128
"""


def raw(configuration: str, **more: str) -> dict[str, Any]:
    def run(text: str) -> dict[str, Any]:
        return {"rc": 0, "stdout": text, "stderr": "", "truncated": False}

    def read(path: str, text: str, mode: int = 0o644) -> dict[str, Any]:
        entry = {"mode": mode, "uid": 0, "gid": 0, "kind": "file", "text": text}
        return {"files": {path: entry} if text else {}}

    return {
        "configuration": read("/etc/swanctl/conf.d/sekisho.conf", configuration),
        "certificates": read("/etc/swanctl/x509/line.crt.pem", more.get("certificate", "")),
        "revocations": read("/etc/swanctl/x509crl/site.crl.pem", more.get("crl", "")),
        "keys": read("/etc/swanctl/private/line.key.pem", more.get("key", ""), 0o644),
        "now": run("1795316400\n"),
        "policies": run(POLICIES),
        "associations": run(STATES),
    }


def test_the_probe_reads_back_what_is_rendered() -> None:
    compiled = policy("gate-in", IN)
    fact = PROBES[0].parse(raw(swanctl_conf(HostPolicy.parse(compiled).lines), key="x"))
    assert fact["configured"] == compiled["line_flows"]
    assert fact["proposals"] == sorted([ESP_PROPOSAL, IKE_PROPOSAL])
    assert fact["trust"] == ["ecdsa-384-sha384-ike:ecdsa-sha384 strict"]
    assert fact["other_files"] == []
    assert fact["loaded"] == [
        "fwd 10.77.1.2/32 10.77.2.2/32 tcp 0 7601 esp tunnel 1745606847",
        "in 10.0.0.1/32 10.0.0.2/32 any 0 0 block",
    ]
    assert fact["algorithms"] == ["aead rfc4106(gcm(aes)) 128"]
    assert fact["keys_open"] == ["/etc/swanctl/private/line.key.pem 0644 0"]
    assert [line.partition(":")[2] for line in fact["certificate_wrong"]] == [" no such file"]
    assert [line.partition(":")[2] for line in fact["revocations_wrong"]] == [" no such file"]


@given(st.text(max_size=300))
def test_a_configuration_the_probe_does_not_know_is_told_not_taken(text: str) -> None:
    from sekisho.probes.model import ProbeError  # noqa: PLC0415 - this test's alone

    try:
        fact = PROBES[0].parse(raw(text))
    except ProbeError:
        return
    assert isinstance(fact["configured"], list)
