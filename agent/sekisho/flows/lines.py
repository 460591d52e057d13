"""The packet filter of encrypted lines: an inner flow passes only by its own IPsec. Pure.

It asks the kernel's packet, never the IKE daemon: a push that should come by IPsec must carry the
mark of the security association with the flow's own number (``ipsec in reqid``), and one that should
leave by IPsec must already be bound to it (``ipsec out reqid``). With no daemon, no association or
no policy nothing matches, and the packet is dropped. The number is one of the flow *and* the link,
so that another party with a valid certificate cannot bring this party's flow (6-iv-d-1).

What carries it, ESP and IKE (UDP 500, 4500), passes between exactly the two ends.
Source: nft(8), IPSEC EXPRESSIONS; RFC 7296; RFC 4303.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.flows.ruleset import Ruleset
from sekisho.flows.words import Json, ct_reply, ct_state, equals, key, meta, payload

CHECK = "6-iv-d-4.line-flows-encrypted"
OUTER = "6-iv-d-4.line-carries-ipsec-only"
#: What a TCP segment may hold (bytes) when ESP in tunnel mode still has to fit into 1500.
SEGMENT = 1360
IKE_PORTS = (500, 4500)


def is_line(flow: Mapping[str, Any]) -> bool:
    """Return whether a flow of the policy crosses an encrypted line on this host."""
    return "line_from" in flow or "line_to" in flow


def line_ends(rules: Ruleset, lines: Iterable[Mapping[str, Any]]) -> None:
    """Pass ESP and IKE between the two ends of each line, and nothing else of theirs."""
    ends = sorted(
        [one["interface"], one["peer_address"], one["local_address"]] for one in lines
    )
    if not ends:
        return
    where = rules.set(
        "line_ends", ["ifname", "ipv4_addr", "ipv4_addr"], ({"concat": end} for end in ends)
    )
    for chain, way, far, near in (
        ("input", "iifname", "saddr", "daddr"),
        ("output", "oifname", "daddr", "saddr"),
    ):
        place = key(meta(way), payload("ip", far), payload("ip", near))
        rules.rule(
            chain,
            OUTER,
            equals(payload("ip", "protocol"), "esp"),
            equals(place, where),
            rules.count(f"pass-line-esp-{chain}"),
            {"accept": None},
        )
        for port in IKE_PORTS:
            rules.rule(
                chain,
                OUTER,
                equals(payload("udp", "sport"), port),
                equals(payload("udp", "dport"), port),
                equals(place, where),
                rules.count(f"pass-line-ike-{chain}"),
                {"accept": None},
            )


def line_hops(  # noqa: PLR0913 - a direction has these parts
    rules: Ruleset,
    flows: Iterable[Mapping[str, Any]],
    *,
    direction: str,
    kind: list[str],
    push: tuple[str, list[Json]],
    reply: tuple[str, list[Json]],
    places: Mapping[str, list[Any]],
) -> None:
    """Pass one direction's encrypted flows: one look-up, then a chain that asks for the IPsec.

    ``places``: flow → its key, as `sekisho.flows.nftables` forms it.
    """
    chosen = [flow for flow in flows if is_line(flow)]
    if not chosen:
        return
    for flow in chosen:
        _chains(rules, flow)
    there = rules.verdict_map(
        f"line_{direction}", kind, [(places[one["name"]], f"line-{one['name']}") for one in chosen]
    )
    back = rules.verdict_map(
        f"line_reply_{direction}",
        kind,
        [(places[one["name"]], f"back-{one['name']}") for one in chosen],
    )
    rules.rule(
        push[0],
        CHECK,
        ct_state("established", "new"),
        {"vmap": {"key": key(*push[1], payload("tcp", "dport")), "data": there}},
    )
    rules.rule(
        reply[0],
        CHECK,
        ct_state("established"),
        ct_reply(),
        {"vmap": {"key": key(*reply[1], payload("tcp", "sport")), "data": back}},
    )


def _chains(rules: Ruleset, flow: Mapping[str, Any]) -> None:
    came, goes = flow.get("line_from"), flow.get("line_to")
    clear = rules.count("drop-line-clear")
    for chain, comes_by, goes_by, end in (
        (f"line-{flow['name']}", came, goes, (rules.count(f"flow-{flow['name']}"), {"accept": None})),
        (f"back-{flow['name']}", goes, came, ({"goto": {"target": "bare"}},)),
    ):
        rules.chain(chain)
        matches = [*_by(comes_by, "in"), *_by(goes_by, "out")]
        # The receiver's SYN tells the other end how long its segments may be.
        rules.rule(
            chain,
            CHECK,
            *matches,
            equals(payload("tcp", "flags"), "syn", "in"),
            {"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": SEGMENT}},
        )
        rules.rule(chain, CHECK, *matches, *end)
        rules.rule(chain, CHECK, clear, {"drop": None})


def _by(line: Mapping[str, Any] | None, way: str) -> list[Json]:
    """Match packets that came in by (``in``) or will go out by (``out``) the line's association."""
    if line is None:
        return []
    far, near = ("saddr", "daddr") if way == "in" else ("daddr", "saddr")

    def ipsec(name: str, **more: str) -> Json:
        return {"ipsec": {"key": name, **more, "dir": way, "spnum": 0}}

    return [
        equals(ipsec("reqid"), line["reqid"]),
        equals(ipsec(far, family="ip"), line["peer_address"]),
        equals(ipsec(near, family="ip"), line["local_address"]),
    ]
