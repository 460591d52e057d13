"""What `nft -j list table inet sekisho` says, in a form that can be compared. Pure.

The kernel and nft rewrite what was loaded: handles, counters' values, the order of set elements,
of flags and of states, and a set of one value. `normalise` takes either side, the document we load
or the list we read, to one form; `differences` tells them apart for a reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable

Json = dict[str, Any]
_KINDS = ("counter", "set", "map", "chain", "rule")
#: Fields that say nothing about what passes.
_NOISE = frozenset({"handle", "family", "table", "index", "packets", "bytes", "used"})
#: Lists whose order has no meaning, by the key they stand under.
_SETS = frozenset({"set", "|"})


def normalise(document: Any) -> Json:
    """Return the comparable form of ``document``: loaded commands, or a list that was read back.

    Shape: ``{"counter": [names], "set": {name: …}, "map": {name: …}, "chain": {name: …},
    "rule": {chain: [expr, …]}, "other": […]}``; rules keep their order. Objects of other tables and
    of unknown kinds land under ``other``, so that nothing escapes comparison.
    Raises `SekishoError` when it is not libnftables JSON.
    """
    if not isinstance(document, dict) or not isinstance(document.get("nftables"), list):
        raise _garbled(document)
    found: Json = {"counter": [], "set": {}, "map": {}, "chain": {}, "rule": {}, "other": []}
    for entry in document["nftables"]:
        if not isinstance(entry, dict) or len(entry) != 1:
            raise _garbled(entry)
        (kind, body), *_ = entry.items()
        if kind in ("delete", "metainfo"):
            continue
        if kind == "add" and isinstance(body, dict) and len(body) == 1:
            (kind, body), *_ = body.items()
        if not isinstance(body, dict):
            raise _garbled(entry)
        _place(found, kind, body)
    found["counter"].sort()
    found["other"].sort(key=_text)
    return found


def _garbled(entry: object) -> SekishoError:
    problem = Problem("nftables", "", printable(entry), "libnftables JSON")
    return SekishoError("cannot read the rules", (problem,))


def _place(found: Json, kind: str, body: Mapping[str, Any]) -> None:
    family = body.get("family")
    if kind == "table":
        if (family, body.get("name")) != ("inet", "sekisho"):
            found["other"].append({"table": {"family": family, "name": body.get("name")}})
        elif body.get("flags"):  # a dormant table filters nothing
            found["other"].append({"flags": body["flags"]})
        return
    rest = {key: _plain(value, key) for key, value in body.items() if key not in _NOISE}
    if (family, body.get("table")) != ("inet", "sekisho") or kind not in _KINDS:
        found["other"].append({kind: rest})
        return
    name = str(body.get("chain") if kind == "rule" else body.get("name"))
    if kind == "counter":
        found["counter"].append(name)
    elif kind == "rule":
        # A policy of accept, an unknown field: everything but the comment is compared.
        rest.pop("chain", None)
        found["rule"].setdefault(name, []).append(rest)
    else:
        rest.pop("name", None)
        if "elem" in rest:
            rest["elem"] = sorted(rest["elem"], key=_text)
        found[kind][name] = rest


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _plain(value: Any, key: str) -> Any:
    """Return ``value`` with everything that has no meaning put into one order and form."""
    if isinstance(value, dict):
        return _plain_mapping(value, key)
    if isinstance(value, list):
        listed = [_plain(one, "") for one in value]
        if key in _SETS or (key in ("right", "&") and all(map(_is_flag, listed))):
            return sorted(listed, key=_text)
        return [sorted(one, key=_text) if _all_flags(one) else one for one in listed]
    return value


def _plain_mapping(value: Json, key: str) -> Any:
    if set(value) == {"|"}:
        return sorted((_plain(one, "|") for one in value["|"]), key=_text)
    if set(value) == {"elem"} and isinstance(value["elem"], dict) and "val" in value["elem"]:
        return _plain(value["elem"]["val"], key)  # an element with a counter or time-out
    if set(value) == {"set"} and isinstance(value["set"], list) and len(value["set"]) == 1:
        return _plain(value["set"][0], key)
    if key == "limit":
        value = {"burst": 5, "inv": False, **value}
        value.pop("rate_unit", None)
    return {one: _plain(what, one) for one, what in value.items() if not _idle(one, what)}


def _idle(key: str, value: Any) -> bool:
    """Return whether a field says what leaving it out says."""
    return (key == "counter" and value is None) or (key == "burst_unit")


def _is_flag(value: Any) -> bool:
    return isinstance(value, str)


def _all_flags(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_flag, value))


def differences(wanted: Json, loaded: Json, limit: int = 20) -> tuple[str, ...]:
    """Return what ``loaded`` lacks or has too much, both `normalise`d; empty when equal."""
    found: list[str] = []
    for kind in ("set", "map", "chain", "rule"):
        for name in sorted({*wanted[kind], *loaded[kind]}):
            want, have = wanted[kind].get(name), loaded[kind].get(name)
            if want == have:
                continue
            if have is None:
                found.append(f"{kind} {name} is missing")
            elif want is None:
                found.append(f"{kind} {name} is not ours")
            else:
                found += [f"{kind} {name}: {line}" for line in _apart(kind, want, have)]
    for name in sorted({*wanted["counter"]} ^ {*loaded["counter"]}):
        missing = name in wanted["counter"]
        found.append(f"counter {name} is {'missing' if missing else 'not ours'}")
    found += [f"not ours: {printable(_text(one), 160)}" for one in loaded["other"]]
    return tuple(found[:limit]) + (
        (f"and {len(found) - limit} more",) if len(found) > limit else ()
    )


def _apart(kind: str, want: Any, have: Any) -> list[str]:
    if kind == "rule":
        wanted, loaded = [_text(one) for one in want], [_text(one) for one in have]
        lines = [f"missing {printable(one, 160)}" for one in wanted if one not in loaded]
        lines += [f"not ours {printable(one, 160)}" for one in loaded if one not in wanted]
        return lines or ["the rules stand in another order, or twice"]
    if kind in ("set", "map"):
        first = {_text(one) for one in want.get("elem", [])}
        second = {_text(one) for one in have.get("elem", [])}
        if first != second:
            return [f"lacks {one}" for one in sorted(first - second)] + [
                f"holds {one} too" for one in sorted(second - first)
            ]
    return [f"{printable(_text(have), 160)} instead of {printable(_text(want), 160)}"]
