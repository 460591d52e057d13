"""The network part: addresses, routes, rules, forwarding, links and IPsec are the site's.

The kernel announces every change; the part reads the whole once it has settled, compares it with
the policy, tells what was and what is, and puts right what cannot cut the administrator. What came
and went between two readings is told from the announcements alone. While a change of the playbooks
waits for its confirmation, or a policy is just being written, it looks on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol, Self

from sekisho.core.errors import SekishoError, printable
from sekisho.host.agent.loop import Loop
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.parts.policy import PolicyPart
from sekisho.host.agent.reporter import Book, Paths
from sekisho.host.kernel.netlink import ROUTE, XFRM, KernelNetwork, NetworkChanges, spoken
from sekisho.host.metrics_table import NETWORK_KINDS
from sekisho.network.drift import Declared, addition, declared, forwarding, off, removal
from sekisho.network.netlink import Change, Fact
from sekisho.policy.host_policy import HostPolicy

CHECK = "6-iv-a.network-drift"
SETTLE_S = 0.2  # one command of `ip` is often several changes
#: The network comes up after the agent; a play brings a new policy's network minutes after it.
START_S, PLAY_S = 60.0, 900.0
#: Tries for one thing between two looks: somebody may be putting it back all the time.
TRIES = 5
SHOWN = 20  # lines of a list in the journal
MOST = 1000  # announcements against the policy that are kept between two readings


class Kernel(Protocol):
    """What the part needs of the kernel."""

    names: dict[int, str]

    def read(self) -> set[Fact]:
        """Return everything that is so."""

    def indexes(self) -> dict[str, int]:
        """Return interface → index."""

    def change(self, kind: int, body: bytes) -> None:
        """Change one thing."""


class NetworkPart(Part):
    """Compares, tells, repairs; ``settled`` says whether the policy's files are at rest."""

    NAME = "network"
    CHECKS = (CHECK,)
    EVERY_S = 30.0

    def __init__(
        self, book: Book, paths: Paths, settled: Callable[[], bool], kernel: Kernel | None = None
    ) -> None:
        self._book, self._settled = book, settled
        self._kernel: Kernel = kernel or KernelNetwork()
        self._pending = paths.state / "guard" / "pending.json"
        self._declared: Declared | None = None
        self._former: Declared | None = None
        self._awaited: set[Fact] = set()
        self._patient_until = 0.0
        self._facts: set[Fact] | None = None
        self._told: set[tuple[str, Fact]] = set()
        self._passing: dict[str, None] = {}
        self._more = 0
        self._listen: Callable[[int], None] | None = None
        self._hears_ipsec = False
        self._tries: Counter[Fact] = Counter()

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, common.paths, lambda: common.part(PolicyPart).settled())

    def watch(self, loop: Loop) -> None:
        """Listen to the kernel and have ``loop`` look after every change."""
        look_soon = loop.once(self.NAME, SETTLE_S, self.check)

        def changed(source: NetworkChanges) -> None:
            look_soon()  # first: what cannot be parsed is a change as well
            self.announced(source.take(self._kernel.names))

        def listen(protocol: int) -> None:
            source = NetworkChanges(protocol)
            loop.reader(self.NAME, source, lambda: changed(source))

        listen(ROUTE)
        self._listen = listen

    def look(self) -> None:
        """Look at everything, with tries for all of it again."""
        if self._listen is not None and not self._hears_ipsec and spoken(XFRM):
            self._listen(XFRM)  # IPsec may begin after us
            self._hears_ipsec = True
        self._tries.clear()
        self.check()

    def policy(self, policy: HostPolicy) -> None:
        """Take a new policy: what it declares anew is awaited, what it no longer does is let be."""
        new, old = declared(policy), self._declared
        now = self._book.clock()
        if old is None:
            self._awaited, self._patient_until = set(new.must), now + START_S
        elif new.must != old.must:
            self._former, self._awaited = old, set(new.must - old.must)
            self._patient_until = now + PLAY_S
        self._declared = new
        if self._facts is not None:
            self.check()

    def announced(self, changes: Iterable[Change]) -> None:
        """Remember what was announced and is against the policy: it may be gone when we look."""
        for change in changes:
            wrong = self._strange([change.fact]) if change.there else self._must(change.fact)
            if not wrong:
                continue
            if len(self._passing) >= MOST:
                self._more += 1
            else:
                word = "appeared" if change.there else "went"
                self._passing[f"{change.fact.kind} {change.fact.text} {word}"] = None

    def _must(self, fact: Fact) -> bool:
        return self._declared is not None and fact in self._declared.must

    def _strange(self, facts: Iterable[Fact]) -> list[Fact]:
        if self._declared is None:
            return []
        former = self._former
        return [
            one
            for one in off(self._declared, facts)[0]
            if former is None or not (one in former.must or former.may(one))
        ]

    def _off(self, facts: set[Fact]) -> set[tuple[str, Fact]]:
        assert self._declared is not None  # noqa: S101 - `check` asked
        self._awaited -= facts
        if self._book.clock() >= self._patient_until:
            self._former, self._awaited = None, set()
        missing = off(self._declared, facts)[1]
        return {("not declared", one) for one in self._strange(facts)} | {
            ("missing", one) for one in missing if one not in self._awaited
        }

    def check(self) -> None:
        """Read, compare, tell, repair."""
        if self._declared is None:
            self._book.up("network", works=False)
            return
        if self._pending.exists():
            return
        facts = self._kernel.read()
        found = self._off(facts)
        self._tell(facts, found)
        if found and self._settled():
            facts = self._repair(facts, found)
            found = self._off(facts)
        self._facts, self._told, self._passing, self._more = facts, found, {}, 0
        counts = Counter(fact.kind for _, fact in found)
        for kind in NETWORK_KINDS:
            self._book.metrics.set("sekisho_network_off", counts[kind], kind)
        self._book.up("network", works=self._listen is not None)

    def _tell(self, facts: set[Fact], found: set[tuple[str, Fact]]) -> None:
        """Journal what is newly off, with what was and what is."""
        new = found - self._told
        before = facts if self._facts is None else self._facts
        # Told by its announcement and by the reading is told once.
        standing = {f"{one.kind} {one.text} appeared" for _, one in new}
        standing |= {f"{one.kind} {one.text} went" for _, one in new}
        passing = [line for line in self._passing if line not in standing]
        known = {f"{one.kind} {one.text} appeared" for word, one in self._told if word[0] == "n"}
        passing = [line for line in passing if line not in known]
        if not new and not passing:
            return
        for _, fact in new:
            self._book.metrics.add("sekisho_network_drift_total", fact.kind)
        for line in passing:
            self._book.metrics.add("sekisho_network_drift_total", line.partition(" ")[0])
        lines = _lines(f"{word}: {one.kind} {one.text}" for word, one in new)
        self._book.detect(
            CHECK,
            "alert",
            printable((lines or [f"in passing: {passing[0]}"])[0], 200),
            {
                "off": lines,
                "was": _lines(f"{one.kind} {one.text}" for one in before - facts),
                "is": _lines(f"{one.kind} {one.text}" for one in facts - before),
                "in_passing": _lines(passing),
                "not_kept": self._more,
            },
        )

    def _repair(self, facts: set[Fact], found: set[tuple[str, Fact]]) -> set[Fact]:
        """Put right what may be put right; return what is so then."""
        assert self._declared is not None  # noqa: S101 - `check` asked
        indexes, done, refused = self._kernel.indexes(), [], []
        # What is strange goes first: it may stand in the place of what is missing. Sorted, an
        # address comes before the routes over it.
        for word, fact in sorted(found, key=lambda one: (one[0] == "missing", one[1].kind)):
            strange = word == "not declared"
            if fact.kind == "forwarding":
                message = forwarding(fact, indexes, on=not strange)
            elif strange:
                message = removal(self._declared, fact)
            else:
                message = addition(fact, indexes, facts)
            if message is None or self._tries[fact] >= TRIES:
                continue
            self._tries[fact] += 1
            try:
                self._kernel.change(*message)
            except SekishoError as error:
                refused.append(f"{fact.kind} {fact.text}: {error.message}")
            else:
                done.append(f"{word}: {fact.kind} {fact.text}")
        facts = self._kernel.read()
        if done or refused:
            self._book.metrics.add("sekisho_network_repairs_total", by=len(done))
            left = _lines(f"{word}: {one.kind} {one.text}" for word, one in self._off(facts))
            self._book.tell(
                "network.repaired", {"done": _lines(done), "refused": _lines(refused), "left": left}
            )
        return facts


def _lines(found: Iterable[str]) -> list[str]:
    listed = sorted(printable(one, 200) for one in found)
    more = len(listed) - SHOWN
    return listed[:SHOWN] + ([f"and {more} more"] if more > 0 else [])
