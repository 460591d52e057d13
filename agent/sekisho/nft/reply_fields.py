"""Replies say one thing in fields that are not needed: each is set to one value. Pure.

A reply without payload still has a header, and root on the receiving machine fills it as he likes.
What the sender has no use for is set to one value, on the machine itself and on its neighbour. What
stays is counted in ASSURANCE.md. TCP's options stay as they are: where a line loses packets a
delivery is slow without selective acknowledgement (SACK), and a connection that had agreed on
timestamps stands still when they are taken out (tests/kernel/lossworld.py).
Source: RFC 9293, 6864 (an identification means nothing where "do not fragment" is set); nft(8).
"""

from __future__ import annotations

from typing import Any

from sekisho.nft.ruleset import Ruleset
from sekisho.nft.statements import Json, equals, payload

CHECK = "6-iv-d-2.reply-without-payload"
_FLAGS = payload("tcp", "flags")


def plain_replies(rules: Ruleset) -> Json:
    """Add chain ``level``, which only rewrites and comes back; return the jump to it."""
    rules.chain("level")
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
        match = equals({"&": [_FLAGS, list(mask)]}, flag)
        rules.rule("level", CHECK, match, _set("tcp", "flags", value), {"return": None})
    return {"jump": {"target": "level"}}


def _set(protocol: str, field: str, value: Any) -> Json:
    return {"mangle": {"key": payload(protocol, field), "value": value}}
