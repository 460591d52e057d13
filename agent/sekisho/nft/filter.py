"""A host's policy into its nftables rules: libnftables JSON of table ``inet sekisho``. Pure.

Default drop both ways. What passes is one lookup in a map keyed by interface, addresses and port,
so that the cost does not grow with the number of peers. A reply on a one-way hop goes to chain
``bare``, which lets out nothing but segments whose length is exactly their headers' length.

The document is one transaction: the table is added (so that the deletion succeeds), deleted
(so that no element of an older policy stays) and added anew. Rule comments carry check ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sekisho.nft.ipsec import is_line, line_ends, line_hops
from sekisho.nft.management import management_rules
from sekisho.nft.quarantine import quarantine_chains, quarantine_jump
from sekisho.nft.reply_fields import plain_replies
from sekisho.nft.ruleset import Ruleset
from sekisho.nft.statements import (
    Json,
    counter,
    ct_reply,
    ct_state,
    equals,
    iif,
    jump_if_in,
    key,
    log_drop,
    meta,
    oif,
    payload,
)
from sekisho.nft.wireguard import tunnel_rules
from sekisho.policy.host_policy import HostPolicy
from sekisho.policy.parts import Flow, Hop, Passage, Session

#: TCP data offset (32-bit words) → IPv4 total length of a segment without payload (bytes).
BARE_LENGTHS = tuple((words, 20 + 4 * words) for words in range(5, 16))

_HOP_TYPE = ["ifname", "ipv4_addr", "ipv4_addr", "inet_service"]
_PASS_TYPE = ["ifname", *_HOP_TYPE]


def compile_ruleset(policy: HostPolicy) -> Json:
    """Return the rules of a host from its policy (`sekisho.compile.policy`), as libnftables JSON.

    Only declared flows, sessions and the management services of the policy pass; an empty policy
    part passes nothing.
    """
    rules = Ruleset()
    management = policy.management.interface
    for chain, interface in (("input", iif), ("output", oif)):
        rules.rule(chain, "6-iv-a.default-drop", interface("lo"), {"accept": None})
    for chain, direction in (("input", "iifname"), ("forward", "iifname"), ("output", "oifname")):
        rules.rule(
            chain,
            "6-iv-a.ipv6-filtered-out",
            equals(meta("nfproto"), "ipv6"),
            rules.count(f"drop-{chain}-ipv6"),
            {"drop": None},
        )
        quarantine_jump(rules, chain)
        # Connection tracking would take a stream up in the middle; a hop must begin at its start.
        # Not on management: a session that is open when the rules are first loaded must live on.
        rules.rule(
            chain,
            "6-iv-a.hops-begin-with-syn",
            ct_state("new"),
            equals(meta(direction), management, "!="),
            equals({"&": [payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}, "syn", "!="),
            rules.count(f"drop-{chain}-not-syn"),
            {"drop": None},
        )
    tunnel_rules(rules, policy.tunnels)
    _hops(rules, policy.flows)
    line_ends(rules, policy.lines)
    _sessions(rules, policy.sessions)
    management_rules(rules, policy)
    quarantine_chains(rules, policy)
    _bare(rules)
    _ends(rules, management)
    return rules.document()


def _hop(entry: Hop | Session) -> list[Any]:
    return [entry.interface, entry.peer_address, entry.local_address, entry.port]


def _passage(entry: Passage) -> list[Any]:
    return [
        entry.in_interface,
        entry.out_interface,
        entry.from_address,
        entry.to_address,
        entry.port,
    ]


def _place(flow: Flow) -> list[Any]:
    return _passage(flow) if isinstance(flow, Passage) else _hop(flow)


def _hops(rules: Ruleset, flows: Iterable[Flow]) -> None:
    """Pass each declared flow: pushes in full, replies only without payload."""
    # direction → chain of pushes, chain of replies, fields of the pushed packet in a hop's order
    shapes: dict[str, tuple[str, str, list[Json], list[Json]]] = {
        "in": (
            "input",
            "output",
            [meta("iifname"), payload("ip", "saddr"), payload("ip", "daddr")],
            [meta("oifname"), payload("ip", "daddr"), payload("ip", "saddr")],
        ),
        "out": (
            "output",
            "input",
            [meta("oifname"), payload("ip", "daddr"), payload("ip", "saddr")],
            [meta("iifname"), payload("ip", "saddr"), payload("ip", "daddr")],
        ),
        "forward": (
            "forward",
            "forward",
            [
                meta("iifname"),
                meta("oifname"),
                payload("ip", "saddr"),
                payload("ip", "daddr"),
            ],
            [
                meta("oifname"),
                meta("iifname"),
                payload("ip", "daddr"),
                payload("ip", "saddr"),
            ],
        ),
    }
    chosen = list(flows)
    for direction, (push, reply, there, back) in shapes.items():
        kind = _PASS_TYPE if direction == "forward" else _HOP_TYPE
        # First: of an encrypted flow nothing may fall through to a rule that asks for less.
        line_hops(
            rules,
            [flow for flow in chosen if flow.direction == direction],
            direction=direction,
            kind=kind,
            push=(push, there),
            reply=(reply, back),
            places={flow.name: _place(flow) for flow in chosen if flow.direction == direction},
        )
        for mode, protocol, name in (
            ("one-way-tcp", "tcp", f"flow_{direction}"),
            ("diode", "udp", f"diode_{direction}"),
        ):
            hops = {
                f"flow-{flow.name}": _place(flow)
                for flow in chosen
                if flow.direction == direction and flow.mode == mode and not is_line(flow)
            }
            if not hops:
                continue
            target = rules.counter_map(name, kind, hops)
            counting = counter({**target, "key": key(*there, payload(protocol, "dport"))})
            if mode == "diode":
                # No reverse packet at all: no reply rule, and nothing to track.
                rules.rule(push, "6-iv-d-2.declared-flows-only", counting, {"accept": None})
                continue
            rules.rule(
                push,
                "6-iv-d-2.declared-flows-only",
                ct_state("established", "new"),
                counting,
                {"accept": None},
            )
            replies = rules.set(
                f"reply_{direction}", kind, ({"concat": hop} for hop in hops.values())
            )
            rules.rule(
                reply,
                "6-iv-d-2.reply-without-payload",
                ct_state("established"),
                ct_reply(),
                jump_if_in(key(*back, payload(protocol, "sport")), replies),
                {"goto": {"target": "bare"}},
            )


def _bare(rules: Ruleset) -> None:
    """Let out a TCP segment of an established hop only when it holds nothing but headers.

    `ip length <= 80` would not do: a segment with a short header could carry 40 bytes.
    """
    check = "6-iv-d-2.reply-without-payload"
    off = rules.count("drop-reply-payload")
    rules.rule("bare", check, equals(payload("ip", "hdrlength"), 5, "!="), off, {"drop": None})
    rules.rule(
        "bare",
        check,
        equals({"&": [payload("ip", "frag-off"), 0x3FFF]}, 0, "!="),  # DF may be set
        off,
        {"drop": None},
    )
    rules.rule(
        "bare",
        check,
        equals({"&": [payload("tcp", "flags"), ["syn", "ack"]]}, "syn"),
        off,
        {"drop": None},
    )
    rules.rule("bare", check, plain_replies(rules))
    # A usual ACK has a timestamp option (8 words) or none (5): try these first.
    for words, length in sorted(BARE_LENGTHS, key=lambda pair: (pair[0] not in (5, 8), pair)):
        rules.rule(
            "bare",
            check,
            equals(payload("tcp", "doff"), words),
            equals(payload("ip", "length"), length),
            rules.count("pass-reply-bare"),
            {"accept": None},
        )
    rules.rule("bare", check, *log_drop("reply"))
    rules.rule("bare", check, off, {"drop": None})


def _sessions(rules: Ruleset, sessions: Iterable[Session]) -> None:
    """Pass the terminals' SSH to core, over the desk link and nothing else."""
    chosen = list(sessions)
    for direction, there, back in (("in", "input", "output"), ("out", "output", "input")):
        hops = [_hop(entry) for entry in chosen if entry.direction == direction]
        if not hops:
            continue
        where = rules.set(f"session_{direction}", _HOP_TYPE, ({"concat": hop} for hop in hops))
        incoming = [meta("iifname"), payload("ip", "saddr"), payload("ip", "daddr")]
        outgoing = [meta("oifname"), payload("ip", "daddr"), payload("ip", "saddr")]
        first, second = (incoming, outgoing) if direction == "in" else (outgoing, incoming)
        rules.rule(
            there,
            "6-iv-e.terminals-reach-core-only",
            ct_state("established", "new"),
            jump_if_in(key(*first, payload("tcp", "dport")), where),
            rules.count("pass-session"),
            {"accept": None},
        )
        rules.rule(
            back,
            "6-iv-e.terminals-reach-core-only",
            ct_state("established"),
            ct_reply(),
            jump_if_in(key(*second, payload("tcp", "sport")), where),
            rules.count("pass-session"),
            {"accept": None},
        )


def _ends(rules: Ruleset, management: str) -> None:
    """Log a little, count everything, drop."""
    check = "6-iv-a.default-drop"
    for chain, interface in (("input", iif), ("output", oif)):
        rules.rule(chain, check, *log_drop(chain))
        rules.rule(
            chain,
            check,
            interface(management),
            rules.count(f"drop-{chain}-management"),
            {"drop": None},
        )
        rules.rule(chain, check, rules.count(f"drop-{chain}-data"), {"drop": None})
    rules.rule("forward", check, *log_drop("forward"))
    rules.rule("forward", check, rules.count("drop-forward"), {"drop": None})
