"""Every single mutation of the lab's rules: refuted by the laws, or shown to change nothing."""

# ruff: noqa: C901, E501, PLR0912, T201
# one branch a kind of mutation; started by hand it prints its table

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import z3

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sekisho.compile.policy import compile_host
from sekisho.prover.findings import Outcome
from sekisho.prover.laws import host_laws
from sekisho.prover.network import Network
from sekisho.prover.packet import Packet
from sekisho.prover.passage import WAYS, passage
from sekisho.prover.rules import read_rules
from sekisho.site.model import Site
from siteworld import ISSUED, lab_site

VERDICTS = ("accept", "drop", "goto")
#: Refuted by a law; lets the same pass; lets less pass, and still every regular packet.
CAUGHT = ("refuted", "equivalent", "stricter")
Mutant = tuple[str, str, Any]


def mutants(document: dict[str, Any]) -> Iterator[Mutant]:
    """Yield (kind, what, document) for every mutation of one place."""
    entries = document["nftables"]
    rules = [index for index, entry in enumerate(entries) if "rule" in entry.get("add", {})]
    for index in rules:
        body = entries[index]["add"]["rule"]
        name = f"{body['chain']} #{[i for i in rules if entries[i]['add']['rule']['chain'] == body['chain']].index(index) + 1}"
        yield "deletion", name, _without(document, index)
        for place, statement in enumerate(body["expr"]):
            (kind, _), *_ = statement.items()
            if kind in VERDICTS:
                for other in ("accept", "drop"):
                    if other != kind:
                        yield (
                            "verdict",
                            f"{name} {kind}→{other}",
                            _with(document, index, place, {other: None}),
                        )
            elif kind == "match" or (kind == "counter" and isinstance(statement[kind], dict)):
                yield (
                    "widening",
                    f"{name} without {kind} {place}",
                    _with(document, index, place, None),
                )
            if kind == "match":
                for told, changed in _other_matches(statement["match"]):
                    yield (
                        told,
                        f"{name} {kind} {place}",
                        _with(document, index, place, {"match": changed}),
                    )
        narrow = copy.deepcopy(document)
        narrow["nftables"][index]["add"]["rule"]["expr"].insert(
            0, {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 77}}
        )
        yield "narrowing", f"{name} only with a mark", narrow
    for one, other in itertools.pairwise(rules):
        if entries[one]["add"]["rule"]["chain"] == entries[other]["add"]["rule"]["chain"]:
            swapped = copy.deepcopy(document)
            listed = swapped["nftables"]
            listed[one], listed[other] = listed[other], listed[one]
            yield "reorder", f"{entries[one]['add']['rule']['chain']} {one}↔{other}", swapped
    for index, entry in enumerate(entries):
        (kind, body), *_ = entry.get("add", {"": {}}).items()
        if kind == "chain" and "policy" in body:
            changed = copy.deepcopy(document)
            changed["nftables"][index]["add"]["chain"]["policy"] = "accept"
            yield "policy", body["name"], changed
        if kind in ("set", "map"):
            for place, element in enumerate(body.get("elem", ())):
                changed = copy.deepcopy(document)
                del changed["nftables"][index]["add"][kind]["elem"][place]
                yield "narrowing", f"{body['name']} without element {place}", changed
                wider = copy.deepcopy(document)
                held = wider["nftables"][index]["add"][kind]["elem"]
                held.append(_neighbour(element))
                yield "widening", f"{body['name']} with a neighbour of {place}", wider


def _neighbour(element: Any) -> Any:
    if isinstance(element, list):
        return [_neighbour(element[0]), element[1]]
    if isinstance(element, dict) and "concat" in element:
        parts = list(element["concat"])
        parts[-1] = parts[-1] + 1
        return {"concat": parts}
    head, _, last = str(element).rpartition(".")
    return f"{head}.{int(last) + 40}"


def _other_matches(match: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    op, right = match["op"], match["right"]
    flipped = {"==": "!=", "!=": "=="}.get(op)
    if flipped:
        yield "verdict", match | {"op": flipped}
    if op == "in" and isinstance(right, list):
        for dropped in right:
            yield "narrowing", match | {"right": [one for one in right if one != dropped]}
    if op == "in":
        listed = right if isinstance(right, list) else [right]
        for more in ("invalid", "new", "established", "related", "untracked"):
            if more not in listed:
                yield "widening", match | {"right": [*listed, more]}
    if isinstance(right, int) and op == "==":
        first = right - (right == 15)  # a data offset has four bits
        yield "widening", match | {"right": {"range": [first, first + 1]}}


def _without(document: dict[str, Any], index: int) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    del changed["nftables"][index]
    return changed


def _with(document: dict[str, Any], index: int, place: int, statement: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    expr = changed["nftables"][index]["add"]["rule"]["expr"]
    if statement is None:
        del expr[place]
    else:
        expr[place] = statement
    return changed


def same(one: Any, other: Any) -> str:
    """Return ``equivalent`` or ``stricter`` when the solver shows it, else the way that differs.

    Chance (limits) is the same variable on both sides only where the rule is at its old place.
    """
    stricter = False
    first, second = read_rules(one, "h"), read_rules(other, "h")
    for way in WAYS:
        left = passage(first, way, Packet("p"), "p")
        right = passage(second, way, Packet("p"), "p")
        for more, wanted in (("wider", z3.And(right.passes, z3.Not(left.passes))),
                             ("stricter", z3.And(left.passes, z3.Not(right.passes)))):  # fmt: skip
            solver = z3.Solver()
            solver.add(left.sane, wanted)
            if solver.check() != z3.unsat:
                if more == "wider":
                    return f"wider: {way}"
                stricter = True
    return "stricter" if stricter else "equivalent"


@cache
def site() -> Site:
    """Return the lab, parsed once."""
    return lab_site()


@cache
def rules_of(host: str) -> Any:
    """Return what the lab compiles to for a host; mutants are copies of it."""
    return compile_host(site(), host, serial=1, issued=ISSUED).nftables.value()


def judge(host: str, document: Any) -> str:
    """Return refuted with the law's id, or what the solver says of the difference."""
    network = Network({host: read_rules(document, host)})
    for found in host_laws(network, site(), host):
        if found.outcome is Outcome.REFUTED:
            return f"refuted {found.law}"
        if found.outcome is Outcome.ERROR:
            return f"error {found.reason}"
    return same(rules_of(host), document)


def table(host: str, step: int = 1) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Judge every ``step``-th mutant of a host; return counts by kind and what was not caught."""
    counts: Counter[tuple[str, str]] = Counter()
    open_: list[str] = []
    for kind, what, document in itertools.islice(mutants(rules_of(host)), 0, None, step):
        said = judge(host, document)
        verdict = said.split(" ")[0].rstrip(":")
        known = verdict in CAUGHT
        counts[kind, verdict if known else "unexplained"] += 1
        if not known:
            open_.append(f"{host} {kind} {what}: {said}")
            print(open_[-1], file=sys.stderr, flush=True)
    return counts, open_


def lines_of(host: str, counts: Counter[tuple[str, str]]) -> str:
    """Return the rows of one host: kind, mutants, and how many are what."""
    rows = []
    for kind in dict.fromkeys(kind for kind, _ in counts):
        told = [counts[kind, verdict] for verdict in (*CAUGHT, "unexplained")]
        rows.append("| " + " | ".join((host, kind, str(sum(told)), *map(str, told))) + " |")
    return "\n".join(rows)


def main() -> int:
    """Print the table, a host's rows as soon as it is done; what is open goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hosts", nargs="*", default=list(site().machines))
    parser.add_argument("--step", type=int, default=1, help="judge every Nth mutant")
    parser.add_argument("--jobs", type=int, default=1, help="hosts at once")
    words = parser.parse_args()
    print(
        "| host | kind | mutants | " + " | ".join((*CAUGHT, "unexplained")) + " |\n|" + "---|" * 7
    )
    left = 0
    with Pool(words.jobs) as pool:
        work = pool.imap(partial(table, step=words.step), words.hosts)
        for host, (counts, open_) in zip(words.hosts, work, strict=True):
            print(lines_of(host, counts), flush=True)
            left += len(open_)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
