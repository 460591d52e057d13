"""Unsound models, put back one at a time: each must be found among the packets the kernel passed.

`stateworld.py --rulesets 700 --keep FILE`, then `statemutants.py FILE` prints for each the number
of the (rule set, packet) pair by which it is found; kernel and rule sets are the same for all.
"""

# ruff: noqa: T201
# started by hand it prints its table

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "agent"), str(Path(__file__).parent)]

import z3  # noqa: E402
from stateworld import Tally, read  # noqa: E402

from sekisho.prover import (  # noqa: E402
    constants,
    expressions,
    hooks,
    network,
    passage,
    rewriting,
    rules,
    statements,
)
from sekisho.prover.chance import Chance  # noqa: E402
from sekisho.prover.packet import FALSE, TRUE, Packet, all_of  # noqa: E402

#: The pairs within which each has to be found.
WITHIN = 5_000


def _names_as_listed() -> list[Any]:
    """Read intervals of interface names as nft lists them: empty."""
    text = constants._text
    return [
        patch.object(constants, "_listed", lambda _, low, high: (low, high)),
        patch.object(constants, "_text", lambda kind, width, one: (0, 0) if not one
                     else text(kind, width, one)),
    ]  # fmt: skip


def _missing_unreadable() -> list[Any]:
    """Let ``missing`` match only of packets that could have the thing."""
    whole = expressions._READERS["tcp option"]

    def read(reader: Any, body: Any) -> Any:
        found = whole(reader, body)
        tcp = all_of(reader.packet.protocol == 6, reader.packet.readable(160))
        return replace(found, readable=all_of(found.readable, tcp))

    return [patch.dict(expressions._READERS, {"tcp option": read})]


def _as_it_came() -> list[Any]:
    """Look at the packet as it comes where it has left."""
    whole = passage.passage

    def made(rules: Any, way: str, packet: Any, *more: Any) -> Any:
        found = whole(rules, way, packet, *more)
        left = found.packet.aged() if way == "forward" else found.packet
        return replace(
            found, left=left.with_(mark=found.left.get("mark"), oif=found.left.get("oif"))
        )

    return [patch.object(network, "passage", made)]


def _listed_order() -> list[Any]:
    """Run base chains of one priority in the order they are listed."""
    return [patch.object(hooks, "orders", lambda group, _: [tuple(group)])]


def _one_visit() -> list[Any]:
    """Give a rule the same choices each time it is evaluated."""
    return [patch.object(hooks, "visited", lambda _: 1)]


def _notrack_unseen() -> list[Any]:
    """Let ``notrack`` change nothing a rule can read before connection tracking."""
    return [patch.object(expressions.Track, "left_alone", lambda self, _: self)]


def _notrack_always() -> list[Any]:
    """Let ``notrack`` work behind connection tracking, too."""
    return [patch.object(expressions.Track, "left_alone", lambda self, here: expressions.Track(
        z3.If(here, z3.BitVecVal(expressions.UNTRACKED, 32), self.state), self.reply))]  # fmt: skip


def _no_template() -> list[Any]:
    """Let ``ct zone set`` change no state."""
    return [patch.object(expressions.Track, "given_zone", lambda self, _: self)]


def _template_directed() -> list[Any]:
    """Let a rule read the direction of a zone's template."""
    whole = expressions.Track.given_zone

    def given(self: Any, here: Any) -> Any:
        found = whole(self, here)
        return expressions.Track(found.state, found.reply)

    return [patch.object(expressions.Track, "given_zone", given)]


def _one_choice(start: str) -> Callable[[], list[Any]]:
    """Return a mutant: what begins so is one variable, wherever it is read."""

    def patches() -> list[Any]:
        name = Chance.name
        return [patch.object(Chance, "name", lambda self, what: f"{self.prefix}?{what}"
                             if what.startswith(start) else name(self, what))]  # fmt: skip

    return patches


def _nat_where_it_says() -> list[Any]:
    """Run chains of type nat at their own priorities."""
    whole = hooks._steps

    def steps(rules: Any, hook: str, families: Any) -> Iterator[Any]:
        kept = replace(rules, tables=tuple(
            replace(table, chains={name: one for name, one in table.chains.items()
                                   if one.kind != "nat"}) for table in rules.tables))  # fmt: skip
        yield from whole(kept, hook, families)
        for table, chain in rules.base(hook, families):
            if chain.kind == "nat":
                yield hooks._Step(chain.priority, changes=True, take=hooks._at(table, chain))

    return [patch.object(hooks, "_steps", steps)]


def _nat_each_time() -> list[Any]:
    """Ask chains of type nat of each new packet, a connection's second one too."""
    return [patch.object(hooks, "asked", lambda _: TRUE)]


def _nat_all() -> list[Any]:
    """Ask the next chain of type nat although one before has translated."""

    def at(table: Any, chain: Any) -> Any:
        return lambda trip: hooks._base_chain(trip, table, chain, trip.alive, hooks._End())

    return [patch.object(hooks, "_at_nat", at)]


def _checksums_stay() -> list[Any]:
    """Leave the transport's checksum as it is when a field is rewritten."""
    return [patch.object(rewriting, "checksums", lambda *_: [])]


def _head_checksum_stays() -> list[Any]:
    """Leave the IPv4 header's checksum as it is when a field is rewritten."""
    write = Packet.write

    def kept(self: Any, base: str, *writes: Any) -> Any:
        return write(self, base, *(one for one in writes if (base, one.offset) != ("nh4", 80)))

    return [patch.object(Packet, "write", kept)]


def _always_written() -> list[Any]:
    """Let a field be rewritten though the checksum over it is out of reach."""
    return [patch.object(statements, "summed", lambda *_: TRUE)]


def _protocol_anew() -> list[Any]:
    """Look at the protocol anew for each rule."""
    whole = Packet.bits

    def bits(self: Any, base: str, offset: int, width: int, *, entry: bool = False) -> Any:
        del entry
        return whole(self, base, offset, width)

    return [patch.object(Packet, "bits", bits)]


def _nothing_moves() -> list[Any]:
    """Keep the transport header where it was when the header's length or kind is rewritten."""
    return [patch.object(rewriting, "_moved", lambda _, packet, __: packet)]


def _length_cuts() -> list[Any]:
    """Take the rewritten length field for the packet's length."""
    return [patch.object(Packet, "size", property(lambda self: self.field("ip", "length")))]


def _narrow_shift() -> list[Any]:
    """Shift in the width of what is shifted."""

    def read(reader: Any, body: Any) -> Any:
        left = reader.value(body[0])
        bits = left.bits << body[1]
        return expressions.Value(bits, left.readable, left.kind)

    return [patch.dict(expressions._READERS, {"<<": read})]


def _one_route() -> list[Any]:
    """Let a packet made here leave by the interface it was first routed to."""
    return [patch.object(passage, "routed_anew", lambda packet: packet)]


def _route_known_early() -> list[Any]:
    """Let rules read before routing where a packet will leave."""
    whole = Packet.with_

    def kept(self: Any, **parts: Any) -> Any:
        if set(parts) == {"oif"} and z3.is_bv_value(parts["oif"]):
            parts = {}
        return whole(self, **parts)

    return [patch.object(Packet, "with_", kept)]


def _device_is_way_in() -> list[Any]:
    """Take chains at a device for chains every packet goes through once, by the way it comes in."""
    whole = Packet.with_

    def kept(self: Any, **parts: Any) -> Any:
        if set(parts) == {"iif", "oif"} and "?device" in str(parts["iif"]):
            parts = {}
        return whole(self, **parts)

    return [
        patch.object(Packet, "with_", kept),
        patch.object(hooks, "unsure", lambda _, __, after: after),
    ]


def _dormant_as_listed() -> list[Any]:
    """Believe a table's flags whichever nft listed them."""
    return [patch.object(rules, "is_dormant", lambda _, flags, __: "dormant" in flags
                         and isinstance(flags, (list, str)))]  # fmt: skip


def _dormant_awake() -> list[Any]:
    """Take a dormant table for one that filters."""
    return [patch.object(rules, "is_dormant", lambda *_: False)]


def _no_mark_kept() -> list[Any]:
    """Let every packet come without a mark, by the loopback too."""
    return [patch.object(passage, "mark_on_arrival", lambda *_: z3.BitVecVal(0, 32))]


def _no_state_kept() -> list[Any]:
    """Let every packet be of no connection before tracking, by the loopback too."""
    return [patch.object(passage, "before_tracking", lambda *_: expressions.Track(
        z3.BitVecVal(expressions.INVALID, 32), FALSE))]  # fmt: skip


def _known_as_it_came() -> list[Any]:
    """Let tracking know a connection by the packet as it came, not as it was rewritten before."""
    whole = passage.passage

    def made(rules: Any, way: str, packet: Any, *more: Any) -> Any:
        found = whole(rules, way, packet, *more)
        return replace(found, tracked=found.packet)

    return [patch.object(network, "passage", made), patch.object(passage, "passage", made)]


def _sets_stay() -> list[Any]:
    """Take a set that rules fill for what it held when it was listed."""
    whole = statements._in_set
    return [patch.object(statements, "_in_set", lambda reader, left, held: whole(
        reader, left, replace(held, grows=False)))]  # fmt: skip


def _nat_asked_alone() -> list[Any]:
    """Let a connection's translation stay what the rule says of this packet."""
    return [patch.object(hooks, "translated", lambda _, packet, *__, **___: packet)]


MUTANTS: dict[str, Callable[[], list[Any]]] = {
    "intervals of names as listed": _names_as_listed,
    "missing is unreadable elsewhere": _missing_unreadable,
    "a packet leaves as it came": _as_it_came,
    "equal priorities in listed order": _listed_order,
    "one choice for two visits": _one_visit,
    "notrack unseen before tracking": _notrack_unseen,
    "notrack works behind tracking": _notrack_always,
    "a zone makes no template": _no_template,
    "a template has a direction": _template_directed,
    "one variable per ct key": _one_choice("ct "),
    "nat chains at their own priority": _nat_where_it_says,
    "nat chains asked of each packet": _nat_each_time,
    "nat chains asked behind a translation": _nat_all,
    "no packet translated as the first was": _nat_asked_alone,
    "transport checksums stay": _checksums_stay,
    "the IPv4 checksum stays": _head_checksum_stays,
    "written without a checksum in reach": _always_written,
    "one variable per TCP option": _one_choice("tcp option"),
    "protocol looked up anew in a chain": _protocol_anew,
    "the transport header never moves": _nothing_moves,
    "the length field is the length": _length_cuts,
    "shifts in the width of the field": _narrow_shift,
    "one route for a packet made here": _one_route,
    "the way out known before routing": _route_known_early,
    "the device is the way in": _device_is_way_in,
    "flags of tables believed": _dormant_as_listed,
    "dormant tables filter": _dormant_awake,
    "no mark kept over the loopback": _no_mark_kept,
    "no state kept over the loopback": _no_state_kept,
    "connections known as they came": _known_as_it_came,
    "filled sets as they were listed": _sets_stay,
}


@contextmanager
def unsound(name: str) -> Iterator[None]:
    """Put one unsound model back."""
    with ExitStack() as stack:
        for one in MUTANTS[name]():
            stack.enter_context(one)
        yield


def found_at(name: str, path: Path, within: int = WITHIN) -> int:
    """Return the number of the first pair an unsound model is wrong about; 0: it is not found."""
    tally = Tally(dropped=False)
    with unsound(name):
        for answer in read(path):
            ways = answer.get("ways", ())
            for number, _ in enumerate(ways):
                before = tally.counts["pairs"]
                if before >= within:
                    return 0
                tally.add({**answer, "ways": [ways[number]]})
                if tally.unsound:
                    return before + 1
    return 0


def _row(words: tuple[str, Path, int]) -> tuple[str, int]:
    return words[0], found_at(*words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers", type=Path, help="what stateworld.py --keep wrote")
    parser.add_argument("mutants", nargs="*", default=list(MUTANTS))
    parser.add_argument("--within", type=int, default=WITHIN)
    parser.add_argument("--jobs", type=int, default=1)
    words = parser.parse_args()
    left = 0
    with Pool(words.jobs) as pool:
        jobs = ((name, words.answers, words.within) for name in words.mutants)
        for name, pair in pool.imap(_row, jobs):
            print(f"| {name} | {pair or 'not found'} |", flush=True)
            left += not pair
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
