"""`normalise` takes what the kernel may rewrite to one form, and nothing else."""

from __future__ import annotations

import copy
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.core.errors import SekishoError
from sekisho.nft.readback import differences, normalise
from siteworld import policy

_RULES = {host: policy(host)["nftables"] for host in ("inbound-1", "core-1", "gate-in")}
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["add", "table", "set", "map", "rule", "chain", "elem", "name", "family",
                         "expr", "match", "|", "limit", "nftables", "metainfo"]),
        inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


def as_listed(document: Any, seed: int) -> Any:
    """Return what the kernel makes of it: handles, counts, orders, no commands."""
    chance = random.Random(seed)
    listed: list[Any] = [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}}]
    for entry in copy.deepcopy(document["nftables"]):
        if "delete" in entry:
            continue
        (kind, body), *_ = entry["add"].items()
        body["handle"] = chance.randrange(1000)
        if kind == "counter":
            body |= {"packets": chance.randrange(10**6), "bytes": chance.randrange(10**9)}
        if kind in ("set", "map") and "elem" in body:
            chance.shuffle(body["elem"])
        listed.append({kind: body})
    return {"nftables": listed}


@given(st.sampled_from(sorted(_RULES)), st.integers(0, 10**6))
def test_handles_counts_and_the_order_of_elements_do_not_matter(host: str, seed: int) -> None:
    document = _RULES[host]
    assert differences(normalise(document), normalise(as_listed(document, seed))) == ()


@given(st.sampled_from(sorted(_RULES)), st.integers(0, 10**6), st.data())
def test_any_object_taken_away_is_told(host: str, seed: int, data: st.DataObject) -> None:
    document = _RULES[host]
    listed = as_listed(document, seed)
    index = data.draw(st.integers(2, len(listed["nftables"]) - 1))
    gone = listed["nftables"].pop(index)
    if "table" in gone:
        return
    assert differences(normalise(document), normalise(listed)) != ()


@settings(max_examples=examples(200))
@given(st.lists(_JSON, max_size=6))
def test_any_json_is_normalised_or_refused(entries: list[Any]) -> None:
    try:
        found = normalise({"nftables": entries})
    except SekishoError:
        return
    differences(found, normalise(_RULES["core-1"]))
    assert normalise({"nftables": entries}) == found
