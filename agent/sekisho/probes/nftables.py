"""The packet filter as the kernel has it, and as the next boot will load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sekisho.core.canonical import digest
from sekisho.core.errors import SekishoError
from sekisho.nft.readback import normalise
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, Run, files, output

RULES = "/etc/sekisho/nftables.json"
_ALWAYS = "/proc/net/dev"
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
        "rules": document,
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
        "lines": _encrypted(rules["rule"], rules["map"]),
        "line_ends": [_words(one) for one in rules["set"].get("line_ends", {}).get("elem", [])],
        "tunnel_ends": _elements(rules["set"].get("tunnel_ends", {})),
        "line_outer": _outer(rules["rule"]),
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
    if name.startswith("line_reply_"):
        return []  # of the same flows; `lines` looks at both
    if mode == "line":
        return [f"{direction} {' '.join(places)} tcp {port}"
                for places, port, _ in _jumps(name, body, rules)]  # fmt: skip
    protocol = {"flow": "tcp", "diode": "udp"}.get(mode)
    used = json.dumps({"data": f"@{name}"})[1:-1] in json.dumps(rules)
    if protocol is None or not used:
        return [f"{name} is no map of ours, or no rule asks it"]
    found = []
    for key, _counter in body.get("elem", []):
        *places, port = _words(key).split(" ")
        found.append(f"{direction} {' '.join(places)} {protocol} {port}")
    return found


def _jumps(
    name: str, body: Mapping[str, Any], rules: Mapping[str, Any]
) -> list[tuple[list[str], str, str]]:
    """Return a verdict map's hops as (places, port, chain); one that tells when no rule asks it."""
    if json.dumps({"data": f"@{name}"})[1:-1] not in json.dumps(rules):
        return [([name], "is asked by no rule", "")]
    found = []
    for key, verdict in body.get("elem", []):
        *places, port = _words(key).split(" ")
        found.append((places, port, str(verdict.get("jump", {}).get("target", "no chain"))))
    return found


def _encrypted(rules: Mapping[str, Any], maps: Mapping[str, Any]) -> list[str]:
    """Return what each encrypted flow must come by and go by: ``intake from 17 10.… 10.…``.

    Both ways are looked at, the pushes' chain and the replies'; a way that passes anything without
    asking for IPsec is told, and so is one that does not end in a drop.
    """
    found: set[str] = set()
    for name, body in maps.items():
        if not name.startswith("line_"):
            continue
        back = name.startswith("line_reply_")
        for _, _, chain in _jumps(name, body, rules):
            flow = chain.partition("-")[2]
            listed = [rule.get("expr", []) for rule in rules.get(chain, [])]
            if not listed or {"drop": None} not in listed[-1] or _matches_of(listed[-1]):
                found.add(f"{flow or name} {'reply' if back else 'push'} does not end in a drop")
            for expr in listed[:-1]:
                found |= _asks(flow, expr, back=back)
    return sorted(found)


def _outer(rules: Mapping[str, Any]) -> list[str]:
    """Return rules that pass ESP, AH or IKE other than between the ends of a line."""
    ends = '"right": "@line_ends"'
    found = []
    for chain in _HOOKS:
        for rule in rules.get(chain, []):
            expr = rule.get("expr", [])
            text = json.dumps(expr, sort_keys=True)
            carries = any(
                match.get("right") in ("esp", "ah", 50, 51, 500, 4500)
                and match["left"].get("payload", match["left"].get("meta")) is not None
                for match in _matches_of(expr)
            )
            if {"accept": None} in expr and carries and ends not in text:
                found.append(f"{chain} {text}")
    return found


def _matches_of(expr: list[Any]) -> list[Any]:
    return [one["match"] for one in expr if "match" in one]


def _asks(flow: str, expr: list[Any], *, back: bool) -> set[str]:
    wanted: dict[str, dict[str, Any]] = {}
    for match in _matches_of(expr):
        ipsec = match["left"].get("ipsec")
        if ipsec is not None and match.get("op") == "==" and ipsec.get("spnum", 0) == 0:
            wanted.setdefault(ipsec.get("dir", "?"), {})[ipsec.get("key")] = match["right"]
    passes = {"accept": None} in expr or any("goto" in one or "jump" in one for one in expr)
    if passes and not any("reqid" in keys for keys in wanted.values()):
        return {f"{flow} {'reply' if back else 'push'} passes without IPsec"}
    found = set()
    for way, keys in wanted.items():
        side = "from" if (way == "in") != back else "to"
        far, near = ("saddr", "daddr") if way == "in" else ("daddr", "saddr")
        found.add(f"{flow} {side} {keys.get('reqid')} {keys.get(far)} {keys.get(near)}")
    return found


def _chains_where(rules: Mapping[str, Any], wanted: Any) -> list[str]:
    """Return the hook chains where a rule is ``wanted`` before any that may pass from a wire."""
    found = []
    for chain in _HOOKS:
        for rule in rules.get(chain, []):
            expr = rule.get("expr", [])
            if wanted(expr):
                found.append(chain)
                break
            if _may_pass(expr) and not _loopback(expr):
                break
    return sorted(found)


def _may_pass(expr: list[Any]) -> bool:
    """Return whether a rule may end a packet's way elsewhere than in a drop.

    The quarantine's chains are the exception: they pass less than the rules after them.
    """
    for one in expr:
        target = (one.get("goto") or one.get("jump") or {}).get("target", "")
        if target and not target.startswith("quarantine-"):
            return True
        if {"accept", "queue", "vmap"} & set(one):
            return True
    return False


def _loopback(expr: list[Any]) -> bool:
    return any(
        match.get("op") == "=="
        and match.get("right") == "lo"
        and match["left"].get("meta", {}).get("key") in ("iifname", "oifname")
        for match in _matches_of(expr)
    )


def _drops_ipv6(expr: list[Any]) -> bool:
    match = {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": "ipv6"}
    others = [one for one in expr if "match" in one and one["match"] != match]
    return {"match": match} in expr and {"drop": None} in expr and not others


#: Of a new connection's first segment SYN alone of these is set.
_NOT_SYN = {
    "op": "!=",
    "left": {
        "&": [
            {"payload": {"protocol": "tcp", "field": "flags"}},
            ["ack", "fin", "rst", "syn"],  # as `normalise` writes fin | syn | rst | ack
        ]
    },
    "right": "syn",
}
_NEW = {"left": {"ct": {"key": "state"}}, "right": "new"}


def _wants_syn(expr: list[Any]) -> bool:
    """Return whether a rule drops every new connection without a SYN, but for one card's."""
    usual = (_NOT_SYN, {"op": "in", **_NEW}, {"op": "==", **_NEW})
    others = [match for match in _matches_of(expr) if match not in usual]
    cards = [
        match
        for match in others
        if match.get("op") == "!="
        and match["left"].get("meta", {}).get("key") in ("iifname", "oifname")
        and isinstance(match["right"], str)
    ]
    return {"match": _NOT_SYN} in expr and {"drop": None} in expr and len(cards) == len(others) <= 1


def _comes_back(rules: Mapping[str, Any], expr: list[Any]) -> bool:
    """Return whether a rule only jumps, to a chain that is there and does nothing but rewrite.

    Known words alone: what is none of them might pass, copy or send on.
    """
    if len(expr) != 1 or "jump" not in expr[0]:
        return False
    there = rules.get(expr[0]["jump"]["target"], [])
    words = {word for rule in there for one in rule.get("expr", []) for word in one}
    return bool(words) and words <= {"match", "mangle", "return"}


def _replies(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lengths chain ``bare`` lets out, and whether everything else is dropped there."""
    lengths, odd = [], []
    bare = rules.get("bare", [])
    for rule in bare:
        expr = rule.get("expr", [])
        if {"accept": None} not in expr:
            drops = {"drop": None} in expr or any("log" in one for one in expr)
            if not drops and not _comes_back(rules, expr):
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


def _legacy(raw: Mapping[str, Any]) -> list[str]:
    """Return tables of the older iptables: they filter as well, and nft does not list them."""
    found = files(raw, "tables")
    if _ALWAYS not in found:
        raise ProbeError(f"{_ALWAYS}: no such file: the kernel's network is not shown")
    return sorted(
        f"{path.rpartition('/')[2].removesuffix('_tables_names')} {name}"
        for path, entry in found.items()
        if path != _ALWAYS
        for name in _names(entry)
    )


def _names(entry: FileOutcome) -> list[str]:
    if entry.text is None:
        raise ProbeError(f"{entry.path}: {entry.error or 'no content'}")
    return entry.text.split()


PROBES = (
    Probe(
        name="nftables",
        operations={
            "loaded": Run(("nft", "-j", "list", "ruleset")),
            "disk": Read((RULES,)),
        },
        parse=_nftables,
    ),
    Probe(
        name="legacy-tables",
        operations={
            "tables": Read(
                (*(f"/proc/net/{kind}_tables_names" for kind in ("ip", "ip6", "arp")), _ALWAYS)
            )
        },
        parse=lambda raw: {"tables": _legacy(raw)},
    ),
)
