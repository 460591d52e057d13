"""Quarantine: one element of one set leaves a host its monitor and its console. Pure.

Every host's rules hold the set ``quarantine``, empty. Once it holds ``ipv4`` (IPv6 never passes),
the first rule of each hook sends every packet but the loopback's to chains that pass metrics to the
monitors and time from them, and nothing else: established connections, data and administration end
with the transaction that adds the element. The way back is the console.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sekisho.nft.management import METRICS, TIME, Served
from sekisho.nft.ruleset import FAMILY, TABLE, Ruleset
from sekisho.nft.statements import Json, equals, meta
from sekisho.policy.host_policy import HostPolicy
from sekisho.policy.parts import Passage

SET = "quarantine"
#: What the set holds while the host is quarantined: a protocol family, of the type ``nf_proto``.
MEMBER = "ipv4"
#: The chain of each hook whose packets are quarantined.
CHAINS = {hook: f"quarantine-{hook}" for hook in ("input", "forward", "output")}
_CHECK = "6-iv-a.default-drop"


def quarantine_jump(rules: Ruleset, hook: str) -> None:
    """Add the rule that sends a quarantined host's packets away; only the loopback comes before."""
    if hook == "input":  # once
        rules.set(SET, "nf_proto", ())
        for chain in CHAINS.values():
            rules.chain(chain)
    target = {"goto": {"target": CHAINS[hook]}}
    rules.rule(hook, _CHECK, equals(meta("nfproto"), f"@{SET}"), target)


def quarantine_chains(rules: Ruleset, policy: HostPolicy) -> None:
    """Add what passes while the host is quarantined; the sets ``monitors``, ``time_servers`` exist.

    A monitor serves no time and scrapes nobody then: it may be the seized machine.
    """
    ours = policy.management
    served = Served(rules, ours.interface, ours.address, chains=CHAINS)
    check = "6-iv-b.metrics-to-monitors-only"
    served.incoming(check, "quarantine-metrics", "tcp", METRICS, "@monitors")
    if policy.time.servers:
        check = "6-iv-b.time-from-monitors-only"
        served.outgoing(check, "quarantine-time", "udp", TIME, "@time_servers")
    for chain in CHAINS.values():
        rules.rule(chain, _CHECK, rules.count("drop-quarantine"), {"drop": None})


def _element() -> Json:
    return {"element": {"family": FAMILY, "table": TABLE, "name": SET, "elem": [MEMBER]}}


def switch(*, on: bool) -> Json:
    """Return the transaction that throws the switch; thrown twice is no error."""
    # Deleting what is not there is one, so it is added first: nobody sees that in between.
    commands = [{"add": _element()}] + ([] if on else [{"delete": _element()}])
    return {"nftables": commands}


def switched(document: Any, *, on: bool) -> Any:
    """Return rules with the switch in the wanted position, as one transaction."""
    if not on:
        return document
    return {**document, "nftables": [*document["nftables"], {"add": _element()}]}


def is_on(objects: Iterable[Any]) -> bool | None:
    """Return whether listed objects have the switch on; None without the set: an older policy's."""
    for entry in objects:
        body = entry.get("set") or entry.get("add", {}).get("set") or {}
        if body.get("name") == SET and (body.get("family"), body.get("table")) == (FAMILY, TABLE):
            return MEMBER in body.get("elem", ())
    return None


def effect(policy: HostPolicy) -> tuple[list[str], list[str]]:
    """Return what quarantine leaves and what it cuts, for a reader, from a host's policy."""
    ours = policy.management
    here = f"{ours.address} on {ours.interface}"
    kept = ["the loopback, and the console"]
    kept += [f"metrics to monitor {who} (tcp/{METRICS} of {here})" for who in ours.monitors]
    kept += [f"time from monitor {who} (udp/{TIME})" for who in policy.time.servers]
    cut = [f"SSH and echo from controller {who} to {here}" for who in ours.controllers]
    cut += [f"SSH and echo from auditor {who} to {here}" for who in ours.auditors]
    if policy.role == "monitor":
        cut += [f"scraping of {ours.network}: nobody watches the other machines"]
        cut += [f"time served to {ours.network}"]
    ways = {"in": "from", "out": "to"}
    for flow in policy.flows:
        if isinstance(flow, Passage):
            ends = f"{flow.from_address} to {flow.to_address}, passed on"
        else:
            ends = f"{ways[flow.direction]} {flow.peer} ({flow.peer_address})"
        cut.append(f"flow {flow.name} {ends}, port {flow.port}")
    cut += [
        f"SSH session {ways[one.direction]} {one.peer} ({one.peer_address})"
        for one in policy.sessions
    ]
    cut += [f"WireGuard with {one.peer_address} on {one.outside}" for one in policy.tunnels]
    cut += [f"IPsec with {one.peer_address} on {one.interface}" for one in policy.lines]
    return kept, cut
