"""The topology in the terminal: the data path from left to right, and a table of machines."""

from __future__ import annotations

from itertools import pairwise

from rich.console import Console
from rich.table import Table

from sekisho.site.model import MANAGEMENT, Kind, Purpose, Role, Site

_ORDER = (Role.GATEWAY, Role.INBOUND, Role.CORE, Role.OUTBOUND, Role.MONITOR, Role.TERMINAL)


def print_site(site: Site, console: Console | None = None) -> None:
    """Print the flows as a path, then machines and links; long lists are cut with a count."""
    console = console or Console()
    console.print(f"[bold]{site.title.en}[/]  {site.title.ja}  ({site.name}, {site.profile})\n")
    for flow in list(site.flows.values())[:20]:
        steps = [flow.sender, *([flow.via] if flow.via else []), flow.receiver]
        path = steps[0]
        for left, right in pairwise(steps):
            arrow = "[bold cyan]══▶[/]" if _outside(site, left, right) else "[bold]──▶[/]"
            path += f" {arrow} {right}"
        console.print(f"  {flow.name:<14} {path}   :{flow.port} {flow.mode}")
    if len(site.flows) > 20:
        console.print(f"  … and {len(site.flows) - 20} flows more")
    console.print("  [cyan]══▶[/] IP-VPN   ──▶ dedicated line; replies carry no payload\n")
    table = Table("machine", "role", "management", "link", "interface", "address", box=None)
    machines = sorted(site.machines.values(), key=lambda one: (_ORDER.index(one.role), one.name))
    for machine in machines[:60]:
        ours = machine.on(MANAGEMENT)
        first = [machine.name, machine.role.value, str(ours.address) if ours else "none"]
        others = [one for one in machine.interfaces.values() if one.link != MANAGEMENT]
        rows = [[one.link, one.name, str(one.address)] for one in others] or [["", "", ""]]
        for row in rows:
            table.add_row(*first, *row)
            first = ["", "", ""]
    console.print(table)
    if len(machines) > 60:
        console.print(f"… and {len(machines) - 60} machines more")
    desks = [link for link in site.links.values() if link.purpose is Purpose.TERMINAL]
    for link in desks:
        console.print(f"\ndesk {link.name}: SSH from terminals to core only ({link.network})")


def _outside(site: Site, one: str, other: str) -> bool:
    link = site.links[site.joins[one, other]]
    return link.kind is Kind.IP_VPN
