"""The proof: what the audited machines had loaded keeps every law; a hole made on purpose does not."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

from tests.vm.trial import INVENTORY, MANAGED, Trial

from sekisho.control.cli.flows import tally, text_of
from sekisho.control.cli.flows_input import Signed, compiled, documents, load_site
from sekisho.control.replay.confirm import confirm
from sekisho.prover.findings import Outcome, exit_code
from sekisho.prover.prove import prove

#: Payload is let out of the chain that lets empty replies out.
HOLE = {"rule": {"family": "inet", "table": "sekisho", "chain": "bare", "expr": [{"accept": None}]}}
LAW = "6-iv-e.only-declared-through"


def main(bundle: Path, key: Path, inventory: Path = INVENTORY) -> Trial:
    """Prove a bundle's live rules, then refute and replay one hole; return the trial.

    ``key`` is the public key of who signed the evidence bundle.

    Machines that are not audited (terminals) stand there with what the site compiles to.
    """
    trial = Trial("proof", label="p")
    site = load_site(inventory)
    live = documents(site, list(MANAGED), None, Signed(bundle, key))
    others = [name for name in site.machines if name not in live]
    trial.step(f"the rules of {', '.join(live)} as loaded, of {', '.join(others)} as compiled")
    found = list(prove(live | compiled(site, others), site))
    trial.expect("every law is proven of the rules as loaded", exit_code(found) == 0, tally(found))
    trial.step("a hole on paper: gate-in's replies may carry payload")
    holed = {"gate-in": opened(live["gate-in"])}
    laws = (one for one in prove(holed, site) if one.outcome is Outcome.REFUTED)
    one = next((one for one in laws if one.law == LAW), None)
    trial.expect(f"{LAW} is refuted with a packet", one is not None)
    if one is not None:
        answer = confirm(holed, one)
        sys.stdout.write(text_of(one, answer))
        trial.expect("the kernel lets that packet through", answer["confirmed"], answer["told"])
        answer = confirm(live, one)
        trial.expect("and drops it by the loaded rules", answer["confirmed"] is False,
                     answer["told"])  # fmt: skip
    return trial


def opened(listed: dict[str, Any]) -> dict[str, Any]:
    """Return a listing with the hole before its first rule."""
    changed = copy.deepcopy(listed)
    first = next(place for place, one in enumerate(changed["nftables"]) if "rule" in one)
    changed["nftables"].insert(first, HOLE)
    return changed
