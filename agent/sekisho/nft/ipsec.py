"""The packet filter of encrypted lines: an inner flow passes only by its own IPsec. Pure.

It asks the kernel's packet, never the IKE daemon: a push that should come by IPsec must carry the
mark of the security association with the flow's own number (``ipsec in reqid``), and one that
should leave by IPsec must already be bound to it (``ipsec out reqid``). With no daemon, no
association or no policy nothing matches, and the packet is dropped. The number is one of the flow
*and* the link, so that another party with a valid certificate cannot bring this party's flow
(6-iv-d-1).

What carries it, ESP and IKE (UDP 500, 4500), passes between exactly the two ends.
Source: nft(8), IPSEC EXPRESSIONS; RFC 7296; RFC 4303.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.nft.ruleset import Ruleset
from sekisho.nft.statements import Json, ct_reply, ct_state, equals, key, meta, payload
from sekisho.policy.parts import Association, Flow, Line

CHECK = "6-iv-d-4.line-flows-encrypted"
OUTER = "6-iv-d-4.line-carries-ipsec-only"
#: What a TCP segment may hold (bytes) when ESP in tunnel mode still has to fit into 1500.
SEGMENT = 1360
IKE_PORTS = (500, 4500)
#: The program that holds them, as the kernel names it (15 characters at most).
IKE_DAEMON = "charon-systemd"
#: Where a peer keeps the packet filter we give it.
PEER_RULES = "/etc/sekisho/line.nft.json"
_SELECTOR = re.compile(r"([0-9.]+)/32\[tcp(?:/([0-9]+))?\]")


def is_line(flow: Flow) -> bool:
    """Return whether a flow of the policy crosses an encrypted line on this host."""
    return flow.line_from is not None or flow.line_to is not None


def line_ends(rules: Ruleset, lines: Iterable[Line]) -> None:
    """Pass ESP and IKE between the two ends of each line, and nothing else of theirs."""
    ends = sorted([one.interface, one.peer_address, one.local_address] for one in lines)
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
    flows: Iterable[Flow],
    *,
    direction: str,
    kind: list[str],
    push: tuple[str, list[Json]],
    reply: tuple[str, list[Json]],
    places: Mapping[str, list[Any]],
) -> None:
    """Pass one direction's encrypted flows: one look-up, then a chain that asks for the IPsec.

    ``places``: flow → its key, as `sekisho.nft.filter` forms it.
    """
    chosen = [flow for flow in flows if is_line(flow)]
    if not chosen:
        return
    for flow in chosen:
        _chains(rules, flow)
    there = rules.verdict_map(
        f"line_{direction}", kind, [(places[one.name], f"line-{one.name}") for one in chosen]
    )
    back = rules.verdict_map(
        f"line_reply_{direction}",
        kind,
        [(places[one.name], f"back-{one.name}") for one in chosen],
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


def _chains(rules: Ruleset, flow: Flow) -> None:
    came, goes = flow.line_from, flow.line_to
    clear = rules.count("drop-line-clear")
    for chain, comes_by, goes_by, end in (
        (
            f"line-{flow.name}",
            came,
            goes,
            (rules.count(f"flow-{flow.name}"), {"accept": None}),
        ),
        (f"back-{flow.name}", goes, came, ({"goto": {"target": "bare"}},)),
    ):
        rules.chain(chain)
        matches = [*_by(comes_by, "in"), *_by(goes_by, "out")]
        # The receiver's SYN tells the other end how long its segments may be.
        rules.rule(
            chain,
            CHECK,
            *matches,
            equals(payload("tcp", "flags"), "syn", "in"),
            {
                "mangle": {
                    "key": {"tcp option": {"name": "maxseg", "field": "size"}},
                    "value": SEGMENT,
                }
            },
        )
        rules.rule(chain, CHECK, *matches, *end)
        rules.rule(chain, CHECK, clear, {"drop": None})


def _by(line: Association | None, way: str) -> list[Json]:
    """Match packets that came in by (``in``) or will go out by (``out``) the line's association."""
    if line is None:
        return []
    far, near = ("saddr", "daddr") if way == "in" else ("daddr", "saddr")

    def ipsec(name: str, **more: str) -> Json:
        return {"ipsec": {"key": name, **more, "dir": way, "spnum": 0}}

    return [
        equals(ipsec("reqid"), line.reqid),
        equals(ipsec(far, family="ip"), line.peer_address),
        equals(ipsec(near, family="ip"), line.local_address),
    ]


def peer_ruleset(lines: Iterable[Line]) -> Json:
    """Return a packet filter for a peer's own end: its flows leave and come by IPsec or not at all.

    A table of its own, ``inet sekisho_line``, that passes everything else on: the rest of the
    peer's machine is the peer's. In ``forward`` too, where the peer's gateway is another machine.
    """
    table = {"family": "inet", "table": "sekisho_line"}
    rules: list[Json] = []
    for line in lines:
        for child in line.children:
            ours, own_port = selector(child.local_ts)
            theirs, port = selector(child.remote_ts)
            by = Association(child.reqid, line.local_address, line.peer_address)
            for chains, way, near, far in (
                (("output", "forward"), "out", "saddr", "daddr"),
                (("input", "forward"), "in", "daddr", "saddr"),
            ):
                flow = [equals(payload("ip", near), ours), equals(payload("ip", far), theirs)]
                side = way == "out"
                if port:
                    flow.append(equals(payload("tcp", "dport" if side else "sport"), port))
                if own_port:
                    flow.append(equals(payload("tcp", "sport" if side else "dport"), own_port))
                for chain in chains:
                    rules += [
                        {"rule": {**table, "chain": chain, "expr": [*flow, *rest]}}
                        for rest in ([*_by(by, way), {"accept": None}], [{"drop": None}])
                    ]
    chains_made = [
        {"chain": {**table, "name": hook, "type": "filter", "hook": hook, "prio": -1,
                   "policy": "accept"}}
        for hook in ("input", "forward", "output")
    ]  # fmt: skip
    made = {"table": {"family": "inet", "name": "sekisho_line"}}
    return {
        "nftables": [{"add": made}, {"delete": made}, *({"add": one} for one in
                     (made, *chains_made, *rules))]
    }  # fmt: skip


def selector(text: str) -> tuple[str, int]:
    """Return the address and the TCP port (0: any) of a traffic selector of ours."""
    match = _SELECTOR.fullmatch(text)
    assert match is not None  # noqa: S101 - `sekisho.site.lines.selectors` wrote it
    return match[1], int(match[2] or 0)
