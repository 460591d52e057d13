"""The prover against the kernel: random rules and packets, listings, replays, mutants."""

# ruff: noqa: E501
# rules of nft are shown whole

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from provermutants import table
from proverworld import compare
from tests.vm.proof import LAW, opened

from sekisho.control.replay.confirm import confirm
from sekisho.control.replay.namespaces import replay
from sekisho.core.errors import SekishoError
from sekisho.prover.findings import Outcome
from sekisho.prover.packet import Packet
from sekisho.prover.passage import WAYS, passage
from sekisho.prover.prove import prove
from sekisho.prover.rules import read_rules
from siteworld import lab_site, policy

pytestmark = pytest.mark.kernel

#: Others' habits, one rule each, as nft(8) writes them.
COMMON = """
ct state vmap { established : accept, related : accept, invalid : drop }
ct state established,related accept
tcp dport { 22, 80-90, 443 } ct state new accept
tcp flags & (fin|syn|rst|psh|ack|urg) == 0x0 drop
tcp flags ! syn accept
ip saddr . tcp dport { 1.1.1.1 . 22, 2.2.2.0/24 . 80-85 } accept
iifname { "eth0", "wg*" } accept
iif != "lo" ip daddr 127.0.0.0/8 drop
meta l4proto { tcp, udp } th dport 53 accept
icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
icmp type echo-request limit rate 5/second accept
fib daddr type != local drop
fib saddr . iif oif missing drop
meta pkttype { broadcast, multicast } drop
ip frag-off & 0x1fff != 0 drop
tcp option maxseg size 1-500 drop
exthdr frag exists drop
meta ipsec exists accept
rt ipsec exists accept
ipsec in reqid 1 accept
quota over 10 mbytes drop
ct count over 10 drop
meta skuid 0 accept
meta hour "10:00"-"12:00" accept
numgen random mod 10 < 5 accept
meta mark set ct mark
ct mark set meta mark
tcp option maxseg size set 1200
log prefix "x" group 2
reject with icmpx type admin-prohibited
"""


def listed(text: str) -> Any:
    done = subprocess.run(
        ("unshare", "--user", "--map-root-user", "--net", "sh", "-c", "nft -f - && nft -j list ruleset"),
        input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode and "unshare" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_model_and_the_kernel_agree_on_random_packets() -> None:
    """A small seeded number; the recorded run is `proverworld.py 200 228 450`."""
    total: Counter[str] = Counter()
    for seed in (7, 118):
        try:
            tally, wrong = compare(seed, 150)
        except SekishoError as bad:
            if os.environ.get("CI"):
                raise
            pytest.skip(bad.diagnostics())
        assert wrong == []
        total += tally
    assert total["pass/pass"] > 30
    assert total["drop/drop"] > 30


@pytest.mark.parametrize("host", list(lab_site().machines))
def test_what_the_kernel_lists_of_the_compiled_rules_is_proven(host: str) -> None:
    done = subprocess.run(
        ("unshare", "--user", "--map-root-user", "--net", "sh", "-c",
         "nft -j -f - && nft -j list ruleset"),
        input=json.dumps(policy(host)["nftables"]), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    if done.returncode and "unshare" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    found = list(prove({host: json.loads(done.stdout)}, lab_site()))
    assert [one.as_json() for one in found if one.outcome is not Outcome.PROVEN] == []


def test_common_constructs_of_others_are_read_as_the_kernel_lists_them() -> None:
    rules = "\n".join(COMMON.strip().splitlines())
    nat = ("chain n { type nat hook prerouting priority dstnat; tcp dport 80 dnat ip to 10.0.0.1:8080\n"
           "}\nchain p { type nat hook postrouting priority srcnat; masquerade\n}\n")  # fmt: skip
    text = f"table inet t {{ chain i {{ type filter hook input priority 0; policy drop;\n{rules}\n}}\n{nat}}}\n"
    text += (
        "table ip a { chain i { type filter hook input priority 5; tcp dport 4 accept\n}\n}\n"
        "table ip6 b { chain i { type filter hook input priority 5; ip6 saddr ::1 drop\n}\n}\n"
    )
    read = read_rules(listed(text), "h")
    assert sum(len(c.rules) for t in read.tables for c in t.chains.values()) == len(
        COMMON.strip().splitlines()) + 4  # fmt: skip
    for way in WAYS:
        assert passage(read, way, Packet("p"), "p").fired


@pytest.mark.parametrize("chain", ["forward", "bare"])
def test_a_refutation_is_confirmed_by_the_kernel(chain: str) -> None:
    """In ``forward`` anything passes; in ``bare`` payload of a connection that is open."""
    changed = copy.deepcopy(policy("gate-in")["nftables"])
    place = next(i for i, one in enumerate(changed["nftables"]) if "rule" in one.get("add", {}))
    body = {"family": "inet", "table": "sekisho", "chain": chain, "expr": [{"accept": None}]}
    changed["nftables"].insert(place, {"add": {"rule": body}})
    rules = {"gate-in": changed}
    found = [one for one in prove(rules, lab_site()) if one.law == "6-iv-e.only-declared-through"]
    assert found[0].outcome is Outcome.REFUTED
    if chain == "bare":
        assert found[0].steps[0].packet["ct"] == "established"
        assert [one.way for one in found[0].before] == ["forward"]
    answer = confirm(rules, found[0])
    if answer["confirmed"] is None and not os.environ.get("CI"):
        pytest.skip(answer["told"])
    assert answer["confirmed"] is True, answer
    honest = confirm({"gate-in": policy("gate-in")["nftables"]}, found[0])
    assert honest["confirmed"] is False, "the right rules drop the same packet"


def test_a_hole_in_what_a_machine_of_the_lab_listed_is_confirmed_by_the_kernel() -> None:
    """The listing is Debian 13's; the kernel and nft are this machine's."""
    path = Path(__file__).resolve().parents[1] / "golden/listed/gate-in-nft-1.1.3.json"
    listed = json.loads(path.read_text(encoding="utf-8"))
    rules = {"gate-in": opened(listed)}
    (found,) = (one for one in prove(rules, lab_site()) if one.outcome is Outcome.REFUTED)
    assert found.law == LAW
    answer = confirm(rules, found)
    if answer["confirmed"] is None and not os.environ.get("CI"):
        pytest.skip(answer["told"])
    assert answer["confirmed"] is True, answer
    assert confirm({"gate-in": listed}, found)["confirmed"] is False


def crossed(*numbers: int, rule: str = "ip id set 0 accept") -> list[bool]:
    """Return what came through a rule, of packets with these identifications from one address."""
    text = f"table inet t {{ chain f {{ type filter hook forward priority 0; policy drop;\n{rule}\n}}\n}}"
    head = bytes.fromhex("4500001c000000004011000008080808080404040035003500080000")
    packets = [
        {"way": "forward", "iif": "a0", "oif": "b0",
         "bytes": (head[:4] + number.to_bytes(2, "big") + head[6:]).hex()}
        for number in numbers
    ]  # fmt: skip
    try:
        return [one["passed"] for one in replay({"text": text, "packets": packets})]
    except SekishoError as bad:
        if "lost its identification" not in bad.diagnostics() and not os.environ.get("CI"):
            pytest.skip(bad.diagnostics())
        raise


def test_a_replayed_packet_is_known_again_when_its_identification_was_set_to_nothing() -> None:
    assert crossed(900) == [True]
    assert crossed(900, rule="ip id 901 ip id set 0 accept") == [False]
    assert crossed(900, 901, rule="accept") == [True, True]


def test_a_replay_that_cannot_tell_which_packet_passed_is_an_error() -> None:
    with pytest.raises(SekishoError, match="cannot replay"):
        crossed(900, 901, rule="ip id 901 ip id set 0 accept")


@pytest.mark.slow
def test_mutants_are_refuted_or_shown_to_change_nothing() -> None:
    counts, left = table("monitor-1", step=9)
    assert left == []
    assert sum(counts.values()) > 15
    assert sum(number for (_, said), number in counts.items() if said == "refuted") > 8
