"""WireGuard lines: what the site may say, what is compiled and shown of it, how the key is kept."""

from __future__ import annotations

import base64
import json
import stat
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.cli.main import main
from sekisho.control.inventory.files import render
from sekisho.core.errors import SekishoError
from sekisho.core.names import IFNAME
from sekisho.core.yaml_nodes import Reader
from sekisho.evidence.page import _notes
from sekisho.evidence.report import AuditRun, HostRecord
from sekisho.host.line_request import tunnel_key
from sekisho.network.drift import addition, declared, off
from sekisho.network.netlink import NEWROUTE, Fact
from sekisho.network.networkd import FOLDER, TUNNEL_KEY, network_files
from sekisho.nft.quarantine import effect
from sekisho.policy.host_policy import HostPolicy
from sekisho.probes.model import ProbeError, Read
from sekisho.probes.nftables import _facts
from sekisho.probes.registry import registry
from sekisho.prover.findings import Finding, Outcome
from sekisho.prover.prove import prove
from sekisho.site.fields import wireguard_key
from sekisho.site.tunnels import CIPHERS, tunnel_name
from siteworld import INNER, SITE, TUNNEL_KEYS, copy_lab, lab_site, policy, problems, tunnelled

WG = tunnelled()
GATE = policy("gate-in", WG)
NAME = tunnel_name("wan-in", "hospital-a")
KEY = TUNNEL_KEYS["hospital-a"]


# -- the site model -----------------------------------------------------------------------------


def changed(old: str, new: str, *, second: bool = False) -> dict[str, str]:
    text = tunnelled(second=second)[SITE]
    assert old in text, old
    return {SITE: text.replace(old, new, 1)}


def test_a_site_with_wireguard_on_its_outside_links_is_sound() -> None:
    assert problems(WG) == []
    assert problems(tunnelled(second=True)) == []


BAD: dict[str, tuple[dict[str, str], str, str]] = {
    "no key": (
        changed(f"      wireguard: {{key: {KEY}, port: 51820}}\n", ""),
        "peers.hospital-a.wireguard",
        "6-iv-d-1",
    ),
    "a key that is none": (
        changed(KEY, KEY[:-2] + "=="),
        "peers.hospital-a.wireguard.key",
        "6-iv-d-1",
    ),
    "a port of the system's": (
        changed("port: 51820}", "port: 500}"),
        "peers.hospital-a.wireguard.port",
        "",
    ),
    "IKE's port": (
        changed("port: 51820}", "port: 4500}"),
        "peers.hospital-a.wireguard.port",
        "",
    ),
    "a word unknown": (
        changed("port: 51820}", "port: 51820, psk: x}"),
        "peers.hospital-a.wireguard.psk",
        "",
    ),
    "one address for both": (
        changed("      vpn: 10.77.1.2\n", ""),
        "peers.hospital-a.address",
        "6-iv-d-1",
    ),
    "an address on the line": (
        changed(f"address: {INNER['hospital-a']}", "address: 10.77.1.5"),
        "peers.hospital-a",
        "",
    ),
    "an end that is not on the line": (
        changed("vpn: 10.77.1.2", "vpn: 10.78.1.2"),
        "peers.hospital-a.vpn",
        "",
    ),
    "our own end": (
        changed("vpn: 10.77.1.2", "vpn: 10.77.1.1"),
        "peers.hospital-a.vpn",
        "6-iv-d-1",
    ),
    "a key without WireGuard": (
        changed("encryption: wireguard\n", "encryption: carrier\n"),
        "peers.hospital-a.wireguard",
        "6-iv-d-1",
    ),
    "a diode": (
        changed("mode: one-way-tcp        # one", "mode: diode        # one"),
        "flows.intake.mode",
        "6-iv-d-2",
    ),
    "another's port": (
        changed("port: 51821", "port: 51820", second=True),
        "peers.hospital-z.wireguard.port",
        "6-iv-d-1",
    ),
    "another's key": (
        changed(TUNNEL_KEYS["hospital-z"], KEY, second=True),
        "peers.hospital-z.wireguard.key",
        "6-iv-d-1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_explained_with_its_place(name: str) -> None:
    edits, key, item = BAD[name]
    found = [one for one in problems(edits) if one.key == key]
    assert found, problems(edits)
    assert found[0].item == item
    assert found[0].where.startswith(f"lab/{SITE}:")


@given(st.one_of(st.text(max_size=60), st.binary(min_size=30, max_size=34).map(
    lambda raw: base64.b64encode(raw).decode())))  # fmt: skip
def test_a_key_is_thirty_two_bytes_written_in_the_one_way_or_an_error(text: str) -> None:
    found: list[Any] = []
    read = Reader("site.yml", found)
    node = read.compose(f"key: {json.dumps(text)}")
    if node is None or not node.pairs:
        return
    wireguard_key(read, node.pairs["key"][1], "key")
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raw = b""
    good = len(raw) == 32 and any(raw) and base64.b64encode(raw).decode() == text
    assert (found == []) is good


@given(st.text(min_size=1), st.text(min_size=1))
def test_an_interface_has_a_name_the_kernel_takes(link: str, peer: str) -> None:
    assert IFNAME.fullmatch(tunnel_name(link, peer))
    assert len(tunnel_name(link, peer).encode()) < 16


def test_check_says_that_the_ciphers_are_outside_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_lab(tmp_path / "lab")
    (tmp_path / "lab" / SITE).write_text(WG[SITE], encoding="utf-8")
    assert main(["site", "check", str(tmp_path / "lab"), "--no-prove"]) == 0
    assert capsys.readouterr().out.count("outside the default cipher list") == 2
    assert main(["site", "check", str(tmp_path / "lab"), "--no-prove", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["notes"]) == 2


# -- what is compiled ---------------------------------------------------------------------------


def test_a_site_that_asks_for_none_has_none() -> None:
    compiled = policy("gate-in")
    assert compiled["tunnels"] == compiled["tunnel_peers"] == compiled["tunnel_ends"] == []
    assert "wg-" not in json.dumps(compiled)
    assert not any(path.endswith(".netdev") for path in network_files(HostPolicy.parse(compiled)))


def test_a_tunnel_is_one_peer_with_its_own_address_and_nothing_else() -> None:
    (one,) = GATE["tunnels"]
    assert GATE["tunnel_peers"] == [f"{NAME} 51820 {KEY} 10.77.1.2:51820 192.0.2.2/32"]
    assert GATE["tunnel_ends"] == ["eth1 10.77.1.2 10.77.1.1 51820"]
    assert one["ciphers"] == CIPHERS
    assert GATE["hops"] == [f"forward {NAME} eth2 192.0.2.2 10.77.2.2 tcp 7601"]
    assert GATE["routes"] == [{"to": "192.0.2.2/32", "via": "", "interface": NAME}]
    assert policy("inbound-1", WG)["routes"][0]["to"] == "192.0.2.2/32"
    assert policy("inbound-1", WG)["tunnels"] == GATE["lines"] == []
    assert {"udp 0.0.0.0:51820", "udp [::]:51820"} <= set(GATE["sockets"])


def test_a_peer_behind_the_carriers_router_gets_its_tunnel_the_same_way() -> None:
    edits = changed("vpn: 10.77.1.2\n", "vpn: 198.51.100.7\n      router: 10.77.1.6\n")
    assert problems(edits) == []
    assert policy("gate-in", edits)["routes"] == [
        {"to": "192.0.2.2/32", "via": "", "interface": NAME},
        {"to": "198.51.100.7/32", "via": "10.77.1.6", "interface": "eth1"},
    ]


def test_no_file_for_networkd_holds_a_private_key() -> None:
    files = network_files(HostPolicy.parse(GATE))
    text = files[f"{FOLDER}/05-sekisho-{NAME}.netdev"]
    assert "PrivateKey=@network.wireguard.sekisho\n" in text
    assert "PresharedKey" not in text
    assert sum("WireGuardPeer" in one for one in files.values()) == 1


def test_render_writes_both_files_beside_the_others(tmp_path: Path) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415 - this test's alone

    from sekisho.control.pki.authority import Pki  # noqa: PLC0415

    now = datetime(2026, 11, 22, tzinfo=UTC)
    (tmp_path / "site").mkdir()
    Pki(tmp_path / "site").make("lab", now=now)
    render(lab_site(WG), tmp_path / "site", ["gate-in"], tmp_path / "out", now=now)
    made = {path.name for path in (tmp_path / "out/gate-in/network").iterdir()}
    assert {f"05-sekisho-{NAME}.netdev", f"05-sekisho-{NAME}.network"} <= made


def test_the_rules_read_back_as_the_policy_declares() -> None:
    facts = _facts(GATE["nftables"], "gate-in")
    assert facts["hops"] == GATE["hops"]
    assert facts["tunnel_ends"] == GATE["tunnel_ends"]
    assert facts["line_outer"] == []
    assert "eth1" not in " ".join(facts["hops"])


def test_quarantine_says_that_the_tunnel_ends_too() -> None:
    _, cut = effect(HostPolicy.parse(GATE))
    assert "WireGuard with 10.77.1.2 on eth1" in cut


def test_the_agent_takes_the_tunnel_for_declared_and_its_route_back() -> None:
    wanted = declared(HostPolicy.parse(GATE))
    route = Fact("route", f"192.0.2.2/32 dev {NAME}", NAME)
    up = Fact("link", f"{NAME} up", NAME)
    assert {route, up, Fact("forwarding", f"ipv4 {NAME}", NAME)} <= wanted.must
    kind = Fact("link", f"{NAME} of kind wireguard", NAME)
    facts = {*wanted.must, kind, Fact("link", "lo up", "lo")}
    assert off(wanted, facts)[0] == []
    stranger = Fact("link", "wg-00000000 of kind wireguard", "wg-00000000")
    assert off(wanted, facts | {stranger})[0] == [stranger]
    message = addition(route, {NAME: 7}, {up})
    assert message is not None
    assert message[0] == NEWROUTE
    assert message[1][6] == 253  # on the link itself


# -- the prover ---------------------------------------------------------------------------------


def documents(edits: dict[str, str]) -> dict[str, Any]:
    return {name: policy(name, edits)["nftables"] for name in lab_site(edits).machines}


def refuted(found: list[Finding]) -> dict[str, Finding]:
    return {one.law: one for one in found if one.outcome is Outcome.REFUTED}


@pytest.mark.slow
def test_every_law_is_proven_with_tunnels_on_both_sides() -> None:
    found = list(prove(documents(WG), lab_site(WG)))
    assert [one.as_json() for one in found if one.outcome is not Outcome.PROVEN] == []
    ways = [one for one in found if one.law == "6-iv-d-2.no-payload-leaves"]
    assert all(one.reason != "0 ways" for one in ways), "nothing was looked at"


def without_interface(document: Any) -> Any:
    """Return a gateway's rules whose hops are looked up without the interface they come in by."""
    text = json.loads(json.dumps(document))
    taken = 0
    for entry in text["nftables"]:
        ((_, body),) = entry.items()
        held = body.get("map")
        if held and held["name"] == "flow_forward":
            del held["type"][0]
            for key, _ in held["elem"]:
                del key["concat"][0]
        for statement in body.get("rule", {}).get("expr", []):
            asked = statement.get("counter")
            if isinstance(asked, dict) and asked.get("map", {}).get("data") == "@flow_forward":
                del asked["map"]["key"]["concat"][0]
                taken += 1
    assert taken == 1
    return text


def test_rules_that_do_not_ask_for_the_tunnels_interface_are_refuted_with_a_clear_packet() -> None:
    site = lab_site(WG)
    sound = list(prove({"gate-in": GATE["nftables"]}, site))
    assert {one.outcome for one in sound} == {Outcome.PROVEN}
    found = refuted(list(prove({"gate-in": without_interface(GATE["nftables"])}, site)))
    step = found["6-iv-e.only-declared-through"].steps[0]
    assert step.packet["saddr"] == INNER["hospital-a"]
    assert step.packet["iif"] != NAME


def test_rules_with_the_card_in_the_tunnels_place_are_refuted() -> None:
    text = json.dumps(GATE["nftables"]).replace(NAME, "eth1")
    found = refuted(list(prove({"gate-in": json.loads(text)}, lab_site(WG))))
    assert {"6-iv-e.only-declared-through", "6-iv-d-1.declared-flows-pass"} <= set(found)


@pytest.mark.parametrize("old", ["51820", "10.77.1.2", "10.77.1.1"])
def test_tunnel_packets_to_another_end_or_port_are_refuted(old: str) -> None:
    new = {"51820": "51999", "10.77.1.2": "10.77.1.5", "10.77.1.1": "10.77.1.5"}[old]
    text = json.loads(json.dumps(GATE["nftables"]))
    for entry in text["nftables"]:
        held = entry.get("add", {}).get("set", {})
        if held.get("name") == "tunnel_ends":
            held["elem"] = json.loads(json.dumps(held["elem"]).replace(old, new))
    found = refuted(list(prove({"gate-in": text}, lab_site(WG))))
    assert {"6-iv-a.only-declared-in", "6-iv-d-1.only-declared-out"} <= set(found)


# -- the probe ----------------------------------------------------------------------------------


def ran(text: str) -> dict[str, Any]:
    return {"rc": 0, "stdout": text, "stderr": "", "truncated": False}


def raw(netdevs: dict[str, str], **more: Any) -> dict[str, Any]:
    entry = {"mode": 0o644, "uid": 0, "gid": 0, "kind": "file"}
    shown = {
        "cards": ran(json.dumps([{"ifname": NAME}])),
        "ports": ran(f"{NAME}\t51820\n"),
        "endpoints": ran(f"{NAME}\t{KEY}\t10.77.1.2:51820\n"),
        "allowed": ran(f"{NAME}\t{KEY}\t192.0.2.2/32\n"),
    }
    held = {"files": {path: entry | {"text": text} for path, text in netdevs.items()}}
    return {"configuration": held} | shown | more


def fact(netdevs: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    if netdevs is None:
        netdevs = {
            path: text
            for path, text in network_files(HostPolicy.parse(GATE)).items()
            if "netdev" in path
        }
    found = registry()["wireguard"].parse(raw(netdevs, **more))
    assert isinstance(found, dict)
    return found


def test_the_probe_reads_back_what_is_rendered_and_what_is_loaded() -> None:
    assert fact() == {"configured": GATE["tunnel_peers"], "loaded": GATE["tunnel_peers"]}


@pytest.mark.parametrize(
    "more",
    [
        {"ports": ran(f"{NAME}\t51821\n")},
        {"endpoints": ran(f"{NAME}\t{KEY}\t10.77.1.5:51820\n")},
        {"endpoints": ran(f"{NAME}\t{KEY}\t(none)\n")},
        {"allowed": ran(f"{NAME}\t{KEY}\t192.0.2.2/32 0.0.0.0/0\n")},
        {"allowed": ran(f"{NAME}\t{TUNNEL_KEYS['hospital-z']}\t192.0.2.2/32\n")},
        {"allowed": ran(""), "endpoints": ran("")},
        {"cards": ran("[{}]")},
        {"cards": ran(json.dumps([{"ifname": NAME}, {"ifname": "wg0"}]))},
    ],
)
def test_whatever_is_loaded_otherwise_is_not_as_declared(more: dict[str, Any]) -> None:
    assert fact(**more)["loaded"] != GATE["tunnel_peers"]


def test_a_machine_without_a_tunnel_needs_no_wg_and_one_with_a_tunnel_does() -> None:
    missing = {name: {"error": "wg is not installed"} for name in ("ports", "endpoints", "allowed")}
    assert fact({}, cards=ran(""), **missing) == {"configured": [], "loaded": []}
    with pytest.raises(ProbeError, match="not installed"):
        fact(**missing)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AllowedIPs=192.0.2.2/32", "AllowedIPs=192.0.2.2/32\nAllowedIPs=0.0.0.0/0"),
        ("Endpoint=10.77.1.2", "Endpoint=10.77.1.5"),
        (KEY, TUNNEL_KEYS["hospital-z"]),
        ("PrivateKey=@network.wireguard.sekisho", f"PrivateKey={KEY}"),
        ("ListenPort=51820", "ListenPort=51821"),
        ("Kind=wireguard", "Kind=dummy"),
        ("[WireGuardPeer]", f"[WireGuardPeer]\nPublicKey={KEY}\n[WireGuardPeer]"),
        ("[WireGuardPeer]", "[WireGuard]\nListenPort=51821\n[WireGuardPeer]"),
    ],
)
def test_a_file_that_says_otherwise_is_not_as_declared(old: str, new: str) -> None:
    path = f"{FOLDER}/05-sekisho-{NAME}.netdev"
    text = network_files(HostPolicy.parse(GATE))[path]
    assert old in text
    assert fact({path: text.replace(old, new)})["configured"] != GATE["tunnel_peers"]


def test_a_strangers_file_or_a_drop_in_is_told() -> None:
    script = Path(__file__).resolve().parents[3] / "hardening/checks/6-iv-d-1.tunnels-as-declared"
    text = (script / "fail.sh").read_text().split("<<'END'\n")[1].split("END\n")[0]
    told = fact({f"{FOLDER}/99-stranger.netdev": text})["configured"]
    assert told == [f"wg0 of kind wireguard in {FOLDER}/99-stranger.netdev"]
    path = f"{FOLDER}/05-sekisho-{NAME}.netdev.d/x.conf"
    assert fact({path: "[WireGuard]\nListenPort=1\n"})["configured"] != []


def test_a_tunnels_network_file_reads_as_the_policy_and_lends_its_place_to_no_card() -> None:
    files = {
        path: text
        for path, text in network_files(HostPolicy.parse(GATE)).items()
        if path.endswith(".network")
    }
    held = {path: {"mode": 0o644, "uid": 0, "gid": 0, "kind": "file", "text": text}
            for path, text in files.items()}  # fmt: skip
    names = ("lo", "eth0", "eth1", "eth2", NAME)
    cards = {f"/sys/class/net/{name}/address": next(iter(held.values())) for name in names}
    found = registry()["networkd"].parse({"networks": {"files": held}, "cards": {"files": cards}})
    assert sorted(found["macs"]) == sorted(GATE["macs"])
    assert found["routes"] == GATE["routes"]
    assert found["learning"] == found["unconfigured"] == found["default"] == []


def test_the_kernel_tells_the_tunnel_apart_from_other_virtual_cards() -> None:
    entries = [{"ifname": "lo"}, *(
        {"ifname": name, "linkinfo": {"info_kind": kind}}
        for name, kind in ((NAME, "wireguard"), ("wg0", "wireguard"), ("wg-00000000", "gre"))
    )]  # fmt: skip
    found = registry()["links"].parse({"addresses": ran(json.dumps(entries))})
    assert found["tunnels"] == GATE["tunnel_cards"]
    assert found["virtual"] == ["wg-00000000 gre", "wg0 wireguard"]
    routes = registry()["routes"].parse({
        "ipv4": ran(json.dumps([
            {"dst": "192.0.2.2", "dev": NAME, "protocol": "static", "scope": "link"},
            {"dst": "10.77.1.0/29", "dev": "eth1", "protocol": "kernel", "scope": "link"},
        ])), "ipv6": ran("[]"), "rules": ran("[]"),
    })  # fmt: skip
    assert routes["routes"] == GATE["routes"]
    assert routes["connected"] == ["10.77.1.0/29"]
    told = "".join(f"udp UNCONN 0 0 {at}:51820 {at}:*\n" for at in ("0.0.0.0", "[::]"))
    sockets = registry()["sockets"].parse({"sockets": ran(told), "packet": ran("")})
    assert sorted(sockets["kernel"]) == sorted(GATE["tunnel_sockets"])
    assert sockets["everywhere"] == []
    assert set(sockets["outside"]) <= set(GATE["sockets"])


# -- the key ------------------------------------------------------------------------------------


def test_the_key_is_made_once_closed_to_others_and_only_its_public_half_is_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / "credstore/network.wireguard.sekisho"
    assert tunnel_key(path, name="gate-in", check=True) == {"name": "gate-in", "made": True}
    assert not path.exists()
    first = tunnel_key(path, name="gate-in")
    assert (first["made"], stat.S_IMODE(path.stat().st_mode)) == (True, 0o600)
    assert path.read_text().strip() not in json.dumps(first)
    assert tunnel_key(path, name="gate-in") == first | {"made": False}
    path.chmod(0o640)
    with pytest.raises(SekishoError, match="open to others"):
        tunnel_key(path, name="gate-in")


def test_the_public_half_is_the_curves(tmp_path: Path) -> None:
    """RFC 7748, 6.1."""
    private = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
    public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    path = tmp_path / "key"
    path.write_bytes(base64.b64encode(bytes.fromhex(private)))
    path.chmod(0o600)
    told = tunnel_key(path, name="gate-in")["public"]
    assert base64.b64decode(str(told)).hex() == public


@pytest.mark.parametrize("text", ["", "no key", base64.b64encode(bytes(31)).decode()])
def test_a_key_that_is_none_is_an_error_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SekishoError, match="garbled"):
        tunnel_key(path, name="gate-in")
    assert path.read_text() == text


def test_the_audit_looks_at_the_keys_mode_and_not_into_it() -> None:
    looked = registry()["lines"].operations["keys"]
    assert isinstance(looked, Read)
    assert any(fnmatch(TUNNEL_KEY, glob) for glob in looked.globs)
    assert not looked.content


# -- the report ---------------------------------------------------------------------------------


def test_the_report_names_the_lines_outside_the_default_ciphers() -> None:
    def run(compiled: dict[str, Any]) -> AuditRun:
        host = HostRecord("gate-in", None, HostPolicy.parse(compiled), "not asked")
        return AuditRun("ssh", "lab", None, "then", "later", "tool", (host,))

    assert run(GATE).unlisted == (f"wan-in-hospital-a: {CIPHERS}",)
    assert "outside the default cipher list" in "".join(_notes(run(GATE), "en"))
    assert run(policy("gate-in")).unlisted == ()
    assert "outside the default" not in "".join(_notes(run(policy("gate-in")), "en"))
