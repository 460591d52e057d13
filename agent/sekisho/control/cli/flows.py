"""`sekisho flows`: prove direction from the rules a kernel has, and explain who may reach whom."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sekisho.control.cli.flows_input import given, load_site, need_solver, signed
from sekisho.core.errors import SekishoError
from sekisho.nft.quarantine import switched

if TYPE_CHECKING:
    from sekisho.prover.findings import Finding

app = typer.Typer(
    help="Prove direction from the rules the kernel has; explain who may reach whom.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Inventory = Annotated[
    Path, typer.Option("-i", "--inventory", help="The site's inventory.", show_default=False)
]
Hosts = Annotated[list[str] | None, typer.Option("--host", help="Only this host (repeatable).")]
Listing = Annotated[
    Path | None,
    typer.Option(help="Rules of the one --host: output of `nft -j list ruleset`; - reads it."),
]
Bundle = Annotated[
    Path | None, typer.Option(help="Rules as the hosts of this evidence bundle had them loaded.")
]
Key = Annotated[
    Path | None, typer.Option(help="With --bundle: the public key (PEM) of who signed it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(
    "prove",
    epilog="Examples:  sekisho flows prove -i inventory/lab  ·  "
    "sekisho flows prove -i inventory/lab --bundle out/evidence-lab-… --key auditor.pub.pem  ·  "
    "nft -j list ruleset | sekisho flows prove -i inventory/lab --host core-1 --ruleset -",
)
def prove_command(  # noqa: PLR0913 - the options of a command
    *,
    inventory: Inventory,
    host: Hosts = None,
    ruleset: Listing = None,
    bundle: Bundle = None,
    key: Key = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Send each refutation's packet in namespaces.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Print what is proven, too.")] = False,
    as_json: AsJson = False,
) -> int:
    """Prove or refute the site's laws from its hosts' rules, and that what is declared arrives.

    Without --ruleset or --bundle rules and routes are compiled from the site model: what would be
    applied. What arrives is asked of each host's routes, switches and IPsec policies besides.
    Exit code: 0 all proven, 1 refuted or undeliverable, 2 could not tell, 3 usage or configuration.
    """
    need_solver()
    from sekisho.prover.deliver import deliverable  # noqa: PLC0415 - needs z3
    from sekisho.prover.findings import exit_code  # noqa: PLC0415 - needs z3
    from sekisho.prover.prove import network_of, prove  # noqa: PLC0415 - needs z3

    site = load_site(inventory)
    held = given(site, host, ruleset, signed(bundle, key))
    rules = held.rules
    started = time.monotonic()
    known = network_of(rules, site)
    found = list(prove(rules, site, known=known, clock=time.monotonic))
    network = known[0] if rules == held.whole else network_of(held.whole, site)[0]
    found += deliverable(network, site, held.nets, host or (), clock=time.monotonic)
    took = time.monotonic() - started
    replayed = _replays(rules, found) if replay else {}
    code = exit_code(found)
    if as_json:
        told = [one.as_json() | ({"replay": replayed[index]} if index in replayed else {})
                for index, one in enumerate(found)]  # fmt: skip
        value = {"schema": 1, "kind": "sekisho-flows-proof", "site": site.name,
                 "hosts": sorted(rules), "seconds": round(took, 3), "exit_code": code,
                 "findings": told}  # fmt: skip
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
        return code
    for index, one in enumerate(found):
        if every or one.outcome.value != "proven":
            sys.stdout.write(text_of(one, replayed.get(index)))
    sys.stdout.write(f"{site.name}: {len(rules)} hosts, {tally(found)} ({took:.1f} s)\n")
    return code


@app.command(
    "explain",
    epilog="Examples:  sekisho flows explain -i inventory/lab hospital-a inbound-1 --with tcp/7601"
    "  ·  sekisho flows explain -i inventory/lab inbound-1 outbound-1",
)
def explain_command(  # noqa: PLR0913 - the options of a command
    sender: Annotated[str, typer.Argument(help="A machine or peer.", show_default=False)],
    receiver: Annotated[str, typer.Argument(help="A machine or peer.", show_default=False)],
    *,
    inventory: Inventory,
    what: Annotated[
        str, typer.Option("--with", help="any, icmp, esp, tcp, udp, tcp/PORT or udp/PORT.")
    ] = "any",
    bundle: Bundle = None,
    key: Key = None,
    as_json: AsJson = False,
) -> int:
    """Say whether a packet from SENDER may reach RECEIVER, by which hosts and rules.

    What the rules would let through although a host has no route, forwarding or IPsec policy for it
    is answered "stopped", with the fact that stops it.
    Exit code: 0 answered, 2 could not tell, 3 usage or configuration.
    """
    need_solver()
    from sekisho.prover.deliver import Delivery  # noqa: PLC0415 - needs z3
    from sekisho.prover.explain import explain, follow, wanted  # noqa: PLC0415 - needs z3
    from sekisho.prover.prove import network_of  # noqa: PLC0415 - needs z3

    site = load_site(inventory)
    held = given(site, None, None, signed(bundle, key))
    network, wrong = network_of(held.rules, site)
    if wrong:
        told = f"the rules of {wrong[0].scope} cannot be read: {wrong[0].reason}"
        sys.stderr.write(f"{told}\n{sender} → {receiver} with {what}: unknown\n")
        return 2
    ways = explain(network, site, (sender, receiver), wanted(what))
    yes = [one for one in ways if one.outcome.value == "refuted"]
    unsure = [one for one in ways if one.outcome.value == "error"]
    answer = "yes" if yes else "unknown" if unsure else "no"
    stopped = ""
    if yes:
        delivery = Delivery(network, site, held.nets)
        try:
            stopped = follow(delivery, site, (sender, receiver), wanted(what), yes[0])
            answer = "stopped" if stopped else "yes"
        except SekishoError as bad:
            answer, stopped = "unknown", bad.diagnostics()
    if as_json:
        value = {"schema": 1, "kind": "sekisho-flows-explanation", "from": sender, "to": receiver,
                 "with": what, "answer": answer, "stopped_by": stopped, "ways": len(ways),
                 "steps": [step.as_json() for one in yes for step in one.steps]}  # fmt: skip
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
    else:
        sys.stdout.write(f"{sender} → {receiver} with {what}: {answer}\n")
        if stopped:
            sys.stdout.write(f"  the rules let it through, but {stopped}\n")
        for one in yes:
            sys.stdout.write(_steps(one))
        if not yes and not unsure:
            sys.stdout.write(f"  no packet of that kind takes any of {len(ways)} ways\n")
    return 2 if answer == "unknown" else 0


def tally(found: list[Finding]) -> str:
    """Return how many laws stand how."""
    counts = Counter(one.outcome.value for one in found)
    listed = ("proven", "undeliverable", "refuted", "error")
    return ", ".join(f"{counts[what]} {what}" for what in listed)


def text_of(one: Finding, replayed: dict[str, Any] | None = None) -> str:
    """Return a finding for a terminal."""
    from sekisho.prover.findings import LAWS  # noqa: PLC0415 - needs z3

    law = LAWS[one.law]
    lines = [f"{one.outcome.value.upper():8} {law.id}  {one.scope}", f"  {law.en}  {law.ja}"]
    if one.reason:
        lines.append(f"  {one.reason}")
    text = "\n".join(lines) + "\n" + _steps(one)
    if one.chances:
        text += f"  left to chance: {', '.join(one.chances)}\n"
    if replayed is not None:
        text += f"  replay: {replayed['told']}\n"
    return text


def _steps(one: Finding) -> str:
    lines = []
    for label, steps in (("first", one.before), ("packet", one.steps)):
        for step in steps:
            shown = {key: value for key, value in step.packet.items() if key != "bytes"}
            listed = " ".join(f"{key}={value}" for key, value in shown.items() if value != "")
            lines.append(f"  {label} {step.host} {step.way}: {listed}")
            lines += [f"    {rule}" for rule in step.rules]
    return "\n".join(lines) + ("\n" if lines else "")


def _replays(rules: dict[str, Any], found: list[Finding]) -> dict[int, dict[str, Any]]:
    from sekisho.control.replay.confirm import confirm  # noqa: PLC0415 - needs z3
    from sekisho.prover.laws import QUARANTINE  # noqa: PLC0415 - needs z3

    def asked(one: Finding) -> dict[str, Any]:
        if one.law != QUARANTINE:
            return rules
        return {host: switched(rules[host], on=True) for host in one.hosts}

    return {
        index: confirm(asked(one), one)
        for index, one in enumerate(found)
        if one.outcome.value == "refuted" and one.steps
    }
