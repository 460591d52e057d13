"""The packet filter around WireGuard: its own packets pass between the two ends only. Pure.

The flow inside needs no rule of its own kind: its hop is keyed by the tunnel's interface where
another's is keyed by the card's, so that a packet in clear on the card is nobody's hop, whatever
the tunnel does. Each tunnel is one peer's, so another peer's packets cannot come by it.
Source: nft(8); wireguard.com/protocol.
"""

from __future__ import annotations

from collections.abc import Iterable

from sekisho.nft.ipsec import SEGMENT
from sekisho.nft.ruleset import Ruleset
from sekisho.nft.statements import equals, jump_if_in, key, meta, payload
from sekisho.policy.parts import Tunnel

CHECK = "6-iv-d-1.tunnels-as-declared"


def tunnel_rules(rules: Ruleset, tunnels: Iterable[Tunnel]) -> None:
    """Pass the tunnels' own UDP, and have what goes through them say that its segments are short.

    Before the hops: what they pass is passed.
    """
    chosen = list(tunnels)
    if not chosen:
        return
    cards = rules.set("tunnel_cards", "ifname", sorted(one.interface for one in chosen))
    # A SYN tells the other end how long its segments may be; no ICMP tells of a smaller MTU here.
    for side in ("iifname", "oifname"):
        rules.rule(
            "forward",
            CHECK,
            jump_if_in(meta(side), cards),
            equals(payload("tcp", "flags"), "syn", "in"),
            {
                "mangle": {
                    "key": {"tcp option": {"name": "maxseg", "field": "size"}},
                    "value": SEGMENT,
                }
            },
        )
    ends = rules.set(
        "tunnel_ends",
        ["ifname", "ipv4_addr", "ipv4_addr", "inet_service"],
        (
            {"concat": [one.outside, one.peer_address, one.local_address, one.port]}
            for one in chosen
        ),
    )
    for chain, way, far, near in (
        ("input", "iifname", "saddr", "daddr"),
        ("output", "oifname", "daddr", "saddr"),
    ):
        place = [meta(way), payload("ip", far), payload("ip", near)]
        rules.rule(
            chain,
            CHECK,
            *(jump_if_in(key(*place, payload("udp", port)), ends) for port in ("sport", "dport")),
            rules.count(f"pass-tunnel-{chain}"),
            {"accept": None},
        )
