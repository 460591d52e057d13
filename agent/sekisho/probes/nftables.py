"""The packet filter as the kernel has it, and as the next boot will load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sekisho.canonical import digest
from sekisho.errors import SekishoError
from sekisho.flows.readback import normalise
from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output

RULES = "/etc/sekisho/nftables.json"
_HOOKS = ("input", "forward", "output")


def _document(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ProbeError(f"{what}: garbled JSON") from None


def _tables(document: Any) -> list[str]:
    found = []
    for entry in document["nftables"]:
        table = entry.get("table") or entry.get("add", {}).get("table")
        if isinstance(table, dict):
            found.append(f"{table.get('family')} {table.get('name')}")
    return sorted(set(found))


def _facts(document: Any, what: str) -> dict[str, Any]:
    """Return what checks ask of a rule set, loaded or on disk."""
    try:
        rules = normalise(document)
    except SekishoError as bad:
        raise ProbeError(f"{what}: {bad.message}") from None
    chains = rules["chain"]
    return {
        "digest": digest(rules),
        "tables": _tables(document),
        "hooks": sorted(
            f"{chain.get('hook')} {name} {chain.get('type')} {chain.get('prio')} "
            f"{chain.get('policy')}"
            for name, chain in chains.items()
            if "hook" in chain
        ),
        "sets": {name: _elements(body) for name, body in rules["set"].items()},
        "hops": sorted(
            hop for name, body in rules["map"].items() for hop in _hops(name, body, rules["rule"])
        ),
        "ipv6_dropped": _chains_where(rules["rule"], _drops_ipv6),
        "syn_first": _chains_where(rules["rule"], _wants_syn),
        **_replies(rules["rule"]),
    }


def _elements(body: Mapping[str, Any]) -> list[str]:
    return [_words(element) for element in body.get("elem", [])]


def _words(element: Any) -> str:
    if isinstance(element, dict) and "concat" in element:
        return " ".join(str(part) for part in element["concat"])
    return element if isinstance(element, str) else json.dumps(element, sort_keys=True)


def _hops(name: str, body: Mapping[str, Any], rules: Mapping[str, Any]) -> list[str]:
    """Return a map's hops, when a rule accepts by it: ``in eth1 10.… 10.… tcp 7601``."""
    mode, _, direction = name.partition("_")
    protocol = {"flow": "tcp", "diode": "udp"}.get(mode)
    used = json.dumps({"data": f"@{name}"})[1:-1] in json.dumps(rules)
    if protocol is None or not used:
        return [f"{name} is no map of ours, or no rule asks it"]
    found = []
    for key, _counter in body.get("elem", []):
        *places, port = _words(key).split(" ")
        found.append(f"{direction} {' '.join(places)} {protocol} {port}")
    return found


def _chains_where(rules: Mapping[str, Any], wanted: Any) -> list[str]:
    """Return the hook chains where a rule is ``wanted`` before any that accepts from a wire."""
    found = []
    for chain in _HOOKS:
        for rule in rules.get(chain, []):
            expr = rule.get("expr", [])
            if wanted(expr):
                found.append(chain)
                break
            if {"accept": None} in expr and not _loopback(expr):
                break
    return sorted(found)


def _loopback(expr: list[Any]) -> bool:
    return any(one.get("match", {}).get("right") == "lo" for one in expr)


def _drops_ipv6(expr: list[Any]) -> bool:
    match = {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv6"}
    others = [one for one in expr if "match" in one and one["match"] != match]
    return {"match": match} in expr and {"drop": None} in expr and not others


def _wants_syn(expr: list[Any]) -> bool:
    text = json.dumps(expr, sort_keys=True)
    return '"flags"' in text and '"op": "!="' in text and {"drop": None} in expr


def _replies(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lengths chain ``bare`` lets out, and whether everything else is dropped there."""
    lengths, odd = [], []
    bare = rules.get("bare", [])
    for rule in bare:
        expr = rule.get("expr", [])
        if {"accept": None} not in expr:
            if {"drop": None} not in expr and not any("log" in one for one in expr):
                odd.append(json.dumps(expr, sort_keys=True))
            continue
        fields = {
            one["match"]["left"].get("payload", {}).get("field"): one["match"]["right"]
            for one in expr
            if "match" in one and one["match"].get("op") == "=="
        }
        if set(fields) == {"doff", "length"}:
            lengths.append(f"{fields['doff']} {fields['length']}")
        else:
            odd.append(json.dumps(expr, sort_keys=True))
    last = bare[-1].get("expr", []) if bare else []
    dropped = {"drop": None} in last and not any("match" in one for one in last)
    return {"reply_lengths": sorted(lengths), "reply_odd": odd, "reply_else_dropped": dropped}


def _nftables(raw: Mapping[str, Any]) -> dict[str, Any]:
    loaded = _document(output(raw, "loaded"), "nft")
    if not isinstance(loaded, dict) or not isinstance(loaded.get("nftables"), list):
        raise ProbeError("nft: not libnftables JSON")
    result: dict[str, Any] = {"runtime": _facts(loaded, "nft")}
    entry = files(raw, "disk").get(RULES)
    if entry is None:
        result["disk"] = {"there": False}
        return result
    if entry.text is None:
        raise ProbeError(f"{RULES}: {entry.error or 'no content'}")
    result["disk"] = {"there": True, "mode": f"{entry.mode:04o}", "owner": entry.uid}
    document = _document(entry.text, RULES)
    if not isinstance(document, dict) or not isinstance(document.get("nftables"), list):
        raise ProbeError(f"{RULES}: not libnftables JSON")
    return result | {"disk": result["disk"] | _facts(document, RULES)}


PROBES = (
    Probe(
        name="nftables",
        operations={
            "loaded": Run(("nft", "-j", "list", "ruleset")),
            "disk": Read((RULES,)),
        },
        parse=_nftables,
    ),
)
