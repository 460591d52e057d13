"""Who meets whom on which link: looked up once for a site. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sekisho.site.model import Interface, Kind, Link, Machine, Purpose, Role


def wires(machines: Mapping[str, Machine]) -> dict[str, dict[str, Interface]]:
    """Return link → machine → its (first) interface there."""
    found: dict[str, dict[str, Interface]] = {}
    for machine in machines.values():
        for interface in machine.interfaces.values():
            found.setdefault(interface.link, {}).setdefault(machine.name, interface)
    return found


def joins(links: Mapping[str, Link], machines: Mapping[str, Machine]) -> dict[tuple[str, str], str]:
    """Return (one, other) → link, in both directions, for neighbours that may speak.

    On an outside link a gateway meets each peer, but peers do not meet; on a terminal link core
    meets each terminal, but terminals do not meet. So the table stays linear in the site's size.
    """
    found: dict[tuple[str, str], str] = {}
    for link in links.values():
        ours = [name for name in link.between if name in machines]
        if link.purpose is Purpose.TERMINAL:
            hubs = [name for name in ours if machines[name].role is Role.CORE]
        elif link.kind is Kind.IP_VPN:
            hubs = ours
        else:
            hubs = list(link.between)
        for hub in hubs[:2]:
            for other in link.between:
                if other != hub:
                    found[hub, other] = found[other, hub] = link.name
    return found
