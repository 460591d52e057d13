"""Flows run left to right, hop by hop on links that exist, and never in a ring. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sekisho.core.errors import Problem
from sekisho.site.model import Flow, Purpose, Role, Side, Site

#: From left to right; a flow goes exactly one step.
_PLACE = {"provider": 0, "inbound": 1, "core": 2, "outbound": 3, "recipient": 4}
_ORDER = "provider → inbound → core → outbound → recipient"


def flow_problems(site: Site) -> Iterator[Problem]:
    """Yield every flow that is not one step to the right over declared links."""
    ends: dict[tuple[str, str, int], str] = {}
    used: set[str] = set()
    served: set[str] = set()
    for flow in site.flows.values():
        mark = (flow.sender, flow.receiver, flow.port)
        if mark in ends:
            yield Problem(
                flow.at,
                f"flows.{flow.name}",
                f"the same ends and port as {ends[mark]}",
                "each flow once",
            )
        ends.setdefault(mark, flow.name)
        if flow.port in (9723, 9090, 9093):
            yield Problem(
                flow.at, f"flows.{flow.name}.port", str(flow.port), "a port not used by monitoring"
            )
        served |= {flow.sender, flow.receiver}
        yield from _one_step(site, flow)
        for left, right in _hops(flow):
            joined = site.joins.get((left, right))
            if joined is None or site.links[joined].purpose is not Purpose.DATA:
                yield Problem(
                    flow.at,
                    f"flows.{flow.name}",
                    f"no data link between {left} and {right}",
                    "every hop on a link of its own",
                    "6-iv-d-2",
                )
            else:
                used.add(joined)
    for link in site.links.values():
        if link.purpose is Purpose.DATA and link.name not in used:
            yield Problem(
                link.at, f"links.{link.name}", "no flow over it", "only links a flow needs",
                "6-iv-a",
            )  # fmt: skip
    for peer in site.peers.values():
        if peer.name not in served:
            yield Problem(
                peer.at, f"peers.{peer.name}", "no flow from or to it", "only peers a flow needs",
                "6-iv-a",
            )  # fmt: skip
    yield from _rings(site)


def _hops(flow: Flow) -> list[tuple[str, str]]:
    if flow.via is None:
        return [(flow.sender, flow.receiver)]
    return [(flow.sender, flow.via), (flow.via, flow.receiver)]


def _kind_of(site: Site, name: str) -> str | None:
    if name in site.peers:
        return site.peers[name].side.value
    return site.machines[name].role.value if name in site.machines else None


def _one_step(site: Site, flow: Flow) -> Iterator[Problem]:
    key = f"flows.{flow.name}"
    kinds = {}
    for field, name in (("from", flow.sender), ("to", flow.receiver)):
        kinds[field] = _kind_of(site, name)
        if kinds[field] is None:
            yield Problem(flow.at, f"{key}.{field}", name, "a machine or a peer of this site")
    left, right = _PLACE.get(kinds["from"] or ""), _PLACE.get(kinds["to"] or "")
    if None in kinds.values():
        return
    if left is None or right is None or right != left + 1:
        item = "6-iv-d-3" if right is not None and left is not None and right < left else "6-iv-e"
        if kinds["from"] == Role.INBOUND:
            item = "6-iv-d-2"
        yield Problem(
            flow.at, key, f"{kinds['from']} → {kinds['to']}", f"one step of {_ORDER}", item
        )
        return
    outside = Side.PROVIDER in kinds.values() or Side.RECIPIENT in kinds.values()
    if not outside:
        if flow.via is not None:
            yield Problem(
                flow.at, f"{key}.via", flow.via, "no gateway between our own servers", "6-iv-e"
            )
        return
    gateway = site.machines.get(flow.via or "")
    if gateway is None or gateway.role is not Role.GATEWAY:
        yield Problem(
            flow.at, f"{key}.via", flow.via or "nothing", "the gateway it passes", "6-iv-d-1"
        )


def _rings(site: Site) -> Iterator[Problem]:
    """Kahn's algorithm; what is left over stands on a ring or behind one."""
    after: dict[str, list[str]] = {}
    before: dict[str, int] = {}
    for flow in site.flows.values():
        after.setdefault(flow.sender, []).append(flow.receiver)
        before[flow.receiver] = before.get(flow.receiver, 0) + 1
        before.setdefault(flow.sender, 0)
    free = [name for name, count in before.items() if count == 0]
    while free:
        for name in after.get(free.pop(), []):
            before[name] -= 1
            if before[name] == 0:
                free.append(name)
    left = sorted(name for name, count in before.items() if count)
    if left:
        yield Problem(
            site.at,
            "flows",
            f"a ring: data could come back to {', '.join(left[:6])}",
            f"no way back ({_ORDER})",
            "6-iv-d-2",
        )
