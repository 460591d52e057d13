"""Whatever a host says of its routes and policies: a clear error, or values; nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.core.errors import SekishoError
from sekisho.prover.hostfacts import read_net
from sekisho.prover.hostnet import HostNet

WORDS = st.sampled_from((
    "type", "dst", "gateway", "dev", "table", "prefsrc", "metric", "flags", "priority", "src",
    "srclen", "iif", "ipproto", "sport", "sport_start", "not", "action", "nexthops", "fwmark",
    "ifname", "addr_info", "local", "prefixlen", "family", "state", "lladdr",
))  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=12),
    st.sampled_from(("default", "all", "10.0.0.0/8", "10.77.1.1", "main", "local", "lo", "eth0",
                     "UP", "inet", "unicast", "blackhole", "tcp", "1-65535", "::1")),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=12,
)
LINES = st.sampled_from((
    "src 10.1.1.1/32 dst 10.2.2.2/32 ", "src 10.1.1.1/33 dst 10.2.2.2/32 proto nosuch ",
    "\tdir out priority 5 ptype main ", "\tsocket in priority 0 ptype main ",
    "\ttmpl src 10.1.1.1 dst 10.1.1.2", "\t\tproto esp reqid 7 mode tunnel", "\tmark 0x5/0xff ",
    "\tif_id 0x3", "\tproto esp spi 0x1 reqid 1 mode tunnel", "\treplay-window 0 ", "", "\t",
))  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(LINES | st.text(max_size=20), max_size=6).map("\n".join),
)


def ran(stdout: str) -> dict[str, Any]:
    return {"rc": 0, "stdout": stdout, "stderr": "", "truncated": False}


LO = {"ifname": "lo", "flags": ["UP"], "addr_info": []}
MAIN = {"priority": 32766, "src": "all", "table": "main"}


def read(**labels: Any) -> HostNet | None:
    """Return what was read of sound facts with some listings changed; None: an error told why."""
    given_ = {"addresses": [LO], "ipv4": [], "rules": [MAIN], "neighbours": []} | labels
    texts = {key: value if isinstance(value, str) else json.dumps(value)
             for key, value in given_.items()}  # fmt: skip
    probes = {
        "links": {"addresses": ran(texts["addresses"])},
        "routes": {key: ran(texts[key]) for key in ("ipv4", "rules", "neighbours")},
        "lines": {key: ran(texts.get(key, "")) for key in ("policies", "associations")},
        "sysctl": {"live": {"files": {}}},
    }
    try:
        return read_net(probes, "h\x1b[1m")
    except SekishoError as bad:
        told = bad
    assert "\x1b" not in told.diagnostics()
    assert told.problems[0].where
    return None


def test_sound_facts_are_read() -> None:
    assert read() is not None


@given(st.sampled_from(("addresses", "ipv4", "rules", "neighbours")), VALUES)
@settings(max_examples=examples(400))
def test_a_strange_listing_is_an_error_or_values(label: str, value: Any) -> None:
    read(**{label: value})
    read(**{label: [value]})
    read(**{label: [value] if label == "neighbours" else [*([LO] if label == "addresses" else []),
                                                         MAIN, value]})  # fmt: skip


@given(st.sampled_from(("addresses", "ipv4", "rules", "neighbours", "policies", "associations")),
       TEXTS)  # fmt: skip
@settings(max_examples=examples(400))
def test_a_strange_text_is_an_error_or_values(label: str, text: str) -> None:
    read(**{label: text})


@given(st.dictionaries(st.sampled_from(("links", "routes", "lines", "sysctl")), VALUES))
@settings(max_examples=examples(200))
def test_strange_outcomes_are_an_error(probes: dict[str, Any]) -> None:
    with pytest.raises(SekishoError):
        read_net(probes, "h")


@given(st.text(min_size=1, max_size=30).filter(str.strip))
def test_no_key_of_a_route_or_a_rule_is_passed_over(key: str) -> None:
    """A key nobody knows may change where packets go."""
    route = {"dst": "10.0.0.0/8", "dev": "lo", "flags": []}
    known = {"type", "dst", "gateway", "dev", "table", "protocol", "scope", "prefsrc", "metric",
             "flags"}  # fmt: skip
    if key not in known:
        assert read(ipv4=[{**route, key: 1}]) is None
    rule_known = {"priority", "src", "srclen", "dst", "dstlen", "iif", "iif_detached", "ipproto",
                  "sport", "sport_start", "sport_end", "dport", "dport_start", "dport_end",
                  "table", "action", "not", "suppress_prefixlen", "protocol"}  # fmt: skip
    if key not in rule_known:
        assert read(rules=[{**MAIN, key: 1}]) is None
