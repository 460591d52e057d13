"""Replies without a place to write in: options that are not needed go, spare fields are set. Pure.

A reply without payload still has a header, and root on the receiving machine fills it as he likes.
Whatever the sender does not need is dropped (options) or set to one value (the rest), on the
machine itself and on its neighbour. What stays is counted in ASSURANCE.md: sequence and
acknowledgement within the window, the window, SACK blocks at a limited rate, and timing.

Timestamps are taken out of the SYN, so that no end expects them; on SYN and ACK then at most 12
bytes of options are left (MSS, SACK permitted, window scale), on other segments SACK alone.
Source: RFC 9293, 2018, 7323, 6864 (an identification means nothing where DF is set); nft(8).
"""

from __future__ import annotations

from typing import Any

from sekisho.flows.ruleset import Ruleset
from sekisho.flows.words import Json, ct_state, equals, meta, payload

CHECK = "6-iv-d-2.reply-without-payload"
#: TCP data offset of a segment whose only option is SACK → its option's first four bytes: two
#: no-operations, kind 5, length (1 to 4 blocks). Every common kernel writes it so.
SACK_HEADS = tuple((6 + 2 * blocks, 0x01010502 + 8 * blocks) for blocks in range(1, 5))
#: SACK blocks that pass as they are; the option of more is blanked, the segment still passes.
SACK_LIMIT: Json = {"limit": {"rate": 200, "burst": 400, "per": "second"}}
#: Data offsets of a SYN and ACK with options, timestamps refused.
SYN_ACK_WORDS = (6, 7, 8)
_FLAGS = payload("tcp", "flags")


def without_timestamps(rules: Ruleset, chain: str, direction: str, management: str) -> None:
    """Take the timestamp option out of a SYN on data interfaces: no end will use it."""
    rules.rule(
        chain,
        CHECK,
        ct_state("new"),
        equals(meta(direction), management, "!="),
        equals(_FLAGS, "syn", "in"),
        {"reset": {"tcp option": {"name": "timestamp"}}},
    )


def plain_replies(rules: Ruleset) -> Json:
    """Add the chains; return the statement that sends a reply through them.

    They drop or come back, they never accept.
    """
    for name in ("level", "sack", "plain"):
        rules.chain(name)
    off = rules.count("drop-reply-options")
    level: Json = {"goto": {"target": "level"}}
    rules.rule("plain", CHECK, equals(payload("tcp", "doff"), 5), level)
    rules.rule("plain", CHECK, _masked(["syn", "ack"], "ack"), {"goto": {"target": "sack"}})
    for words in SYN_ACK_WORDS:
        rules.rule(
            "plain",
            CHECK,
            _masked(["syn", "rst"], "syn"),
            equals(payload("tcp", "doff"), words),
            level,
        )
    rules.rule("plain", CHECK, off, {"drop": None})
    for words, head in SACK_HEADS:
        here = [
            equals(payload("tcp", "doff"), words),
            equals({"payload": {"base": "th", "offset": 160, "len": 32}}, head),
        ]
        rules.rule("sack", CHECK, *here, SACK_LIMIT, level)
        rules.rule("sack", CHECK, *here, {"reset": {"tcp option": {"name": "sack"}}}, level)
    rules.rule("sack", CHECK, off, {"drop": None})
    _level(rules)
    return {"jump": {"target": "plain"}}


def _masked(mask: list[str], flag: str) -> Json:
    return equals({"&": [_FLAGS, mask]}, flag)


def _set(protocol: str, field: str, value: Any) -> Json:
    return {"mangle": {"key": payload(protocol, field), "value": value}}


def _level(rules: Ruleset) -> None:
    """Set what a reply does not need: one value for every reply of a kind."""
    rules.rule(
        "level",
        CHECK,
        _set("ip", "dscp", "cs0"),
        _set("ip", "ecn", "not-ect"),
        _set("ip", "id", 0),
        _set("ip", "frag-off", 0x4000),  # do not fragment
        _set("ip", "ttl", 64),  # a ring of routes cannot keep it: the next hop's rules name a wire
        _set("tcp", "reserved", 0),
        _set("tcp", "urgptr", 0),
    )
    # ECN is thereby refused in the SYN and ACK, so that no later ECE is missed.
    whole = ["fin", "syn", "rst", "ack"]
    for mask, flag, value in (
        (whole, "ack", "ack"),
        (whole, "rst", "rst"),
        (["fin", "rst"], "fin", {"|": ["fin", "ack"]}),
        (["syn", "rst"], "syn", {"|": ["syn", "ack"]}),
        (["syn", "rst"], "rst", {"|": ["rst", "ack"]}),
    ):
        rules.rule(
            "level", CHECK, _masked(list(mask), flag), _set("tcp", "flags", value), {"return": None}
        )
