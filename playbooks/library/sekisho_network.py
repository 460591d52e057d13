#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring the running network to the site's plan, in one module run, with check mode."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils import sekisho_handles as handles
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.sekisho_text import lines_of, shown

DOCUMENTATION = r"""
module: sekisho_network
short_description: Remove what the site does not declare from the running network
description:
  - Compares the running network with the host's compiled policy and takes away what is not
    declared. Files are C(sekisho_files)' business. What is missing is put up by systemd-networkd,
    and only when the packet filter is loaded.
  - Never touches the management address, sshd, systemd or networkd.
options:
  policy: {type: dict, required: true, description: The host's compiled policy.}
  reconfigure: {type: bool, default: false, description: networkd's files changed.}
  tunnels: {type: bool, default: false, description: Have the WireGuard tunnels as declared, too.}
  anew: {type: bool, default: false, description: Make every tunnel anew; its key is new.}
"""

#: Units whose sockets are the machine's own; a process may call itself as these programs do.
_KEPT = {"ssh.service", "ssh.socket", "systemd-networkd.service", "init.scope"}
_SOCKET = re.compile(r"(?P<address>.*):(?P<port>[0-9]+|\*)")
_INODE = re.compile(r" ino:([0-9]+)", re.ASCII)


Policy = Mapping[str, Any]


class Plan:
    """What is off, and the commands that mend it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.said: list[str] = []
        self.commands: list[list[str]] = []
        self.ended: list[handles.Process] = []

    def ask(self, *argv: str) -> str:
        """Return what a command prints; a failure ends the module."""
        code, out, err = self.module.run_command(list(argv))
        if code != 0:
            self.module.fail_json(msg=f"{' '.join(argv)}: {err.strip() or code}")
        return out

    def json(self, *argv: str) -> list[dict[str, Any]]:
        """Return the entries of a command's list in JSON."""
        try:
            return [entry for entry in json.loads(self.ask(*argv) or "[]") if entry]
        except ValueError as bad:
            self.module.fail_json(msg=f"{' '.join(argv)}: its answer is no JSON: {bad}")

    def mend(self, said: str, *argv: str) -> None:
        """Record what is off, and the command that mends it."""
        self.said.append(said)
        self.commands.append(list(argv))


def shadowed(plan: Plan) -> None:
    """Take away what is mounted over the machine's identity."""
    for mount in handles.mounts():
        point = mount.point
        if re.match(r"/sys/(devices/virtual/dmi|class/dmi|class/net|devices/.*/net)/", point):
            plan.mend(f"something is mounted over {shown(point)}", "umount", point)


def name(plan: Plan, policy: Policy) -> None:
    """Give the machine its name."""
    if handles.text_of("/proc/sys/kernel/hostname").strip() != policy["host"]:
        plan.mend("the machine bears another name", "hostname", policy["host"])


def links(plan: Plan, policy: Policy) -> set[str]:
    """Take away cards that are none and addresses that are not declared; return what is missing."""
    missing = set()
    own = {(n, one["address"]) for n, one in policy["interfaces"].items()}
    seen = set()
    tunnels = {"{} wireguard".format(one["interface"]) for one in policy["tunnels"]}
    for entry in plan.json("ip", "-json", "-details", "address", "show"):
        card = entry["ifname"]
        declared = policy["interfaces"].get(card)
        kind = entry.get("linkinfo", {}).get("info_kind")
        if kind and declared is None and f"{card} {kind}" not in tunnels:
            plan.mend(f"{card} is no card of the site", "ip", "link", "delete", card)
            continue
        if "PROMISC" in entry.get("flags", []):
            plan.mend(f"{card} listens in", "ip", "link", "set", card, "promisc", "off")
        for one in entry.get("addr_info", []):
            if one.get("family") != "inet" or one.get("local") == "127.0.0.1":
                continue
            address = "{}/{}".format(one["local"], one["prefixlen"])
            seen.add((card, address))
            if (card, address) not in own:
                plan.mend(f"{card} has {address}", "ip", "address", "delete", address, "dev", card)
    missing |= {card for card, _ in own - seen}
    return missing


def routes(plan: Plan, policy: Policy) -> set[str]:
    """Take away routes and rules that are not declared; return cards that lack theirs."""
    wanted = {(one["to"], one["via"], one["interface"]) for one in policy["routes"]}
    seen = set()
    for entry in plan.json("ip", "-json", "-4", "route", "show", "table", "all"):
        table, card, target = entry.get("table", "main"), entry.get("dev", ""), entry["dst"]
        if table == "local" or card == "lo" or (entry.get("protocol") == "kernel"):
            continue
        to = target if "/" in target or target == "default" else target + "/32"
        key = (to, entry.get("gateway", ""), card)
        if table == "main" and key in wanted:
            seen.add(key)
            continue
        argv = ["ip", "route", "delete", target]
        if entry.get("gateway"):
            argv += ["via", entry["gateway"]]
        if card:
            argv += ["dev", card]
        plan.mend(f"a route to {target}", *argv, "table", str(table))
    for entry in plan.json("ip", "-json", "rule", "show"):
        if entry.get("table") not in ("local", "main", "default") or entry.get("src") != "all":
            plan.mend(
                "a rule of priority {}".format(entry["priority"]),
                "ip", "rule", "delete", "priority", str(entry["priority"]),
            )  # fmt: skip
    # A tunnel comes up with its key, by the role wireguard: until then networkd has no such card.
    return {card for _, _, card in wanted - seen if Path("/sys/class/net", card).exists()}


def tunnels(
    plan: Plan, policy: Policy, *, anew: bool, wait: Callable[[float], None] = time.sleep
) -> None:
    """Have networkd make a tunnel anew that is not as declared; it changes none that is there."""
    left = {line.partition(" ")[0]: line for line in policy["tunnel_peers"]}
    for attempt in range(1 if anew else 20):
        off = [card for card, line in left.items() if anew or _held(plan).get(card) != [line]]
        if not off:
            return
        if attempt < 19 and not anew:
            wait(0.5)  # networkd may be at it
    for card in off:
        if Path("/sys/class/net", card).exists():
            plan.mend(f"{card} is not the declared tunnel", "ip", "link", "delete", card)
        else:
            plan.said.append(f"no tunnel {card}")
    # Its links stay up meanwhile; systemd gives it its credentials only when it starts.
    plan.commands.append(["systemctl", "restart", "systemd-networkd.service"])


def _held(plan: Plan) -> dict[str, list[str]]:
    """Return the kernel's tunnels as the policy writes them."""
    told = {}
    for what in ("listen-port", "endpoints", "allowed-ips"):
        told[what] = [line.split("\t") for line in lines_of(plan.ask("wg", "show", "all", what))]
    ports = {line[0]: line[1] for line in told["listen-port"]}
    ends = {(card, key): end for card, key, end in told["endpoints"]}
    held: dict[str, list[str]] = {}
    for card, key, allowed in told["allowed-ips"]:
        line = f"{card} {ports.get(card)} {key} {ends.get((card, key))} {allowed}"
        held.setdefault(card, []).append(line)
    return held


def tables(plan: Plan) -> bool:
    """Take away packet filters that are not ours; return whether ours is loaded."""
    listed = json.loads(plan.ask("nft", "-j", "list", "tables"))["nftables"]
    tables = [entry["table"] for entry in listed if "table" in entry]
    found = {(table["family"], table["name"]) for table in tables}
    # The second is the agent's, for a moment, while it compares.
    for family, name in sorted(found - {("inet", "sekisho"), ("inet", "sekisho_twin")}):
        plan.mend(f"a table {family} {name}", "nft", "delete", "table", family, name)
    return ("inet", "sekisho") in found


def listeners(plan: Plan, policy: Policy) -> None:
    """End what listens, or sniffs, without being declared."""
    wanted = set(policy["sockets"])
    strays = {}
    for line in _sockets(plan, "-l", "-t", "-u"):
        words = line.split()
        match = _SOCKET.fullmatch(words[4]) if len(words) > 5 else None
        if match is None:
            continue
        bare = match["address"].partition("%")[0]
        said = "{} {}:{}".format(words[0], match["address"], match["port"])
        if not bare.startswith(("127.", "[::1]", "[::ffff:127.")) and said not in wanted:
            strays[_inode(plan, line)] = f"{said} listens"
    strays |= dict.fromkeys(sniffers(), "a packet socket")
    if strays:
        for process, has in handles.holders(strays):
            _end(plan, process, strays[min(has)])


def sniffers(proc: Path = Path("/proc/net")) -> set[int]:
    """Return the inodes of packet and raw sockets, as the kernel lists them (packet(7), raw(7)).

    ss leaves the inode of a raw socket out where the kernel has no raw_diag.
    """
    found = set()
    for name, column in (("packet", 8), ("raw", 9), ("raw6", 9)):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in lines_of((proc / name).read_text(encoding="ascii"))[1:]:
                found.add(int(line.split()[column]))
    return found


def _sockets(plan: Plan, *kinds: str) -> list[str]:
    told = lines_of(plan.ask("ss", "-H", "-n", "-e", *kinds))
    return [line for line in told if not line.startswith("\t")]  # what goes on for longer


def _inode(plan: Plan, line: str) -> int:
    found = _INODE.search(line)  # the first: what follows may hold a control group's name
    if found is None:
        plan.module.fail_json(msg=f"ss does not tell a socket's inode: {line[:200]}")
    return int(found[1])


def _end(plan: Plan, process: handles.Process, said: str) -> None:
    if process.number == 1 or process.unit in _KEPT:
        process.close()
    elif process.unit.endswith((".service", ".socket")) and not process.unit.startswith(
        ("user@", "ssh")
    ):
        plan.mend(f"{said} ({process.unit})", "systemctl", "stop", process.unit)
        process.close()
    else:  # a login's own process
        plan.said.append(f"{said} ({shown(process.name)})")
        plan.ended.append(process)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "policy": {"type": "dict", "required": True},
            "reconfigure": {"type": "bool", "default": False},
            "tunnels": {"type": "bool", "default": False},
            "anew": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    policy = module.params["policy"]
    plan = Plan(module)
    shadowed(plan)
    name(plan, policy)
    loaded = tables(plan)
    missing = links(plan, policy)
    lacking = routes(plan, policy)
    listeners(plan, policy)
    # Without rules nothing is put up: no network before its filter.
    up = sorted(missing | lacking)
    if loaded and module.params["reconfigure"]:
        plan.mend("networkd's files changed", "networkctl", "reload")
    elif loaded and up:
        plan.mend(
            "{} lack their address or route".format(", ".join(up)), "networkctl", "reconfigure", *up
        )
    # In check mode the package may be missing still; that the tunnels are, too, was said with it.
    if loaded and module.params["tunnels"] and module.get_bin_path("wg"):
        tunnels(plan, policy, anew=module.params["anew"])
    if not module.check_mode:
        for argv in dict.fromkeys(map(tuple, plan.commands)):
            code, _, err = module.run_command(list(argv))
            if code != 0:
                module.fail_json(msg="{}: {}".format(" ".join(argv), err.strip()), off=plan.said)
        for process in plan.ended:
            with contextlib.suppress(ProcessLookupError):
                process.signal(signal.SIGTERM)
    module.exit_json(
        changed=bool(plan.said),
        off=plan.said,
        loaded=loaded,
        diff={"before": "".join(line + "\n" for line in plan.said), "after": ""},
    )


if __name__ == "__main__":
    main()
