"""`sekisho quarantine`: leave this host only its monitor and its console, and back."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from sekisho.core.errors import SekishoError
from sekisho.host.journal.client import SOCKET, submit
from sekisho.host.kernel.nft import Nft
from sekisho.host.kernel.quarantine import Quarantine
from sekisho.host.policy_store import PolicyStore
from sekisho.nft.quarantine import effect
from sekisho.policy.host_policy import HostPolicy

app = typer.Typer(
    help="Leave this host only its monitor and its console, and set it free again. "
    "隔離: 監視とコンソールだけを残す。",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
ETC, STATE = Path("/etc/sekisho"), Path("/var/lib/sekisho")
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Why = Annotated[str, typer.Option(help="Reason, kept in the journal.", show_default=False)]
_Now = Annotated[bool, typer.Option("--now", help="Do it; without this nothing is changed.")]


@app.command(
    "on",
    epilog="Examples:  sekisho quarantine on --why 'alert 6-iv-b.detection, shell of aoki'  "
    "(shows what would be cut)  ·  sekisho quarantine on --now --why 'the same'",
)
def on(
    *,
    why: _Why,
    now: _Now = False,
    without_console: Annotated[
        bool, typer.Option(help="Although the site's policy proves no way in at the console.")
    ] = False,
    as_json: _Json = False,
) -> int:
    """Quarantine this host, now and after every restart; SSH ends too: the console is the way back.

    Without --now only what would be left and cut is shown. Exit code: 0 done or shown, 3 refused.
    """
    policy = _policy()
    kept, cut = effect(policy)
    switch = Quarantine(STATE / "quarantined", Nft())
    was = switch.loaded()
    answer: dict[str, Any] = {"on": was, "kept": kept, "cut": cut, "done": False}
    if now:
        if policy.console_proof is None and not without_console:
            raise SekishoError(
                "the policy proves no way in at the console, and nobody gets in elsewhere then: "
                "try the console and write console_proof, or say --without-console"
            )
        # Told first: the record is under way before anything is cut. Not a condition, though: a
        # host whose agent was stopped is one to quarantine.
        answer["n"] = _tell("quarantine.on", {"why": why, "cut": cut}, must=False)
        started = time.monotonic()
        switch.on()
        answer |= {"on": True, "done": True, "ms": _ms(started)}
    end = "nothing was changed; with --now what is marked - is cut"
    if now:
        end = (f"quarantined in {answer['ms']} ms, journal record {answer['n']}\n"
               "the way back: `sekisho quarantine off --now --why …` at the console")  # fmt: skip
    return _said(
        answer, [*(f"  {one}" for one in kept), *(f"- {one}" for one in cut), end], as_json=as_json
    )


@app.command(
    "off", epilog="Example:  sekisho quarantine off --now --why 'seen by baba and chiba, ticket 12'"
)
def off(*, why: _Why, now: _Now = False, as_json: _Json = False) -> int:
    """Set this host free: its declared lines pass again. Not without a journal that keeps it.

    Exit code: 0 done or shown, 3 refused.
    """
    switch = Quarantine(STATE / "quarantined", Nft())
    _, back = effect(_policy())
    answer: dict[str, Any] = {"on": switch.loaded(), "back": back, "done": False}
    if now:
        answer["n"] = _tell("quarantine.off", {"why": why}, must=True)
        started = time.monotonic()
        switch.off()
        answer |= {"on": False, "done": True, "ms": _ms(started)}
    end = "nothing was changed; with --now what is marked + passes again"
    if now:
        end = f"free again in {answer['ms']} ms, journal record {answer['n']}"
    return _said(answer, [*(f"+ {one}" for one in back), end], as_json=as_json)


@app.command("status", epilog="Example:  sekisho quarantine status --json")
def status(*, as_json: _Json = False) -> int:
    """Say whether this host is quarantined: 0 no, 1 yes, 2 it cannot be told, or half of it."""
    switch = Quarantine(STATE / "quarantined", Nft())
    try:
        loaded = switch.loaded()
    except SekishoError as error:
        sys.stderr.write(f"sekisho quarantine: {error.diagnostics()}\n")
        return 2
    kept = switch.kept()
    if as_json:
        sys.stdout.write(json.dumps({"loaded": loaded, "kept": kept}, sort_keys=True) + "\n")
    else:
        now, later = ("quarantined" if one else "free" for one in (loaded, kept))
        sys.stdout.write(f"now {now}, after a restart {later}\n")
    return 2 if loaded is not kept else int(loaded)


def _said(answer: dict[str, Any], lines: list[str], *, as_json: bool) -> int:
    told = json.dumps(answer, ensure_ascii=False, sort_keys=True) if as_json else "\n".join(lines)
    sys.stdout.write(told + "\n")
    return 0


def _policy() -> HostPolicy:
    """Return the signed policy in /etc, or the last good one: what is cut is read from it."""
    store = PolicyStore(ETC / "policy.json", STATE, host=os.uname().nodename.partition(".")[0])
    try:
        return store.load().value
    except SekishoError:
        return store.load_copy("good").value


def _tell(kind: str, data: dict[str, Any], *, must: bool) -> int | None:
    try:
        return submit(kind, data, path=SOCKET)
    except SekishoError as error:
        if must:
            raise
        sys.stderr.write(f"sekisho quarantine: not journalled: {error.diagnostics()}\n")
        return None


def _ms(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
