"""The rules part: the loaded packet filter is the policy's, or is made so again.

Which rules? Those of the newest *signed* policy whose packet filter was confirmed: the file loaded
at boot, /etc/sekisho/nftables.json, tells which. It is written, and rolled back, by the dead-man's
guard, so the agent never brings back rules that locked the administrator out; and since the rules
come from the signed policy, editing the file gains an intruder nothing. While a change waits for
its confirmation the agent looks on.

While the host is quarantined its switch belongs to the rules: it is put back when somebody throws
it by hand, and a switch that nobody asked for is drift as well (`sekisho.host.kernel.quarantine`).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol, Self

from sekisho.core.canonical import canonical, digest
from sekisho.core.errors import SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.host.agent.loop import Loop
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.reporter import Book, Paths
from sekisho.host.kernel.nft import Nft, NftChanges
from sekisho.host.kernel.quarantine import kept
from sekisho.host.policy_store import Floor, Policy, PolicyStore
from sekisho.nft.quarantine import is_on, switched
from sekisho.nft.readback import differences, normalise

SETTLE_S = 0.2  # a rule set is often changed in many small steps
MAX_FILE = 8 * 1024 * 1024
MOST = 40  # differences in the journal
KEPT = 16  # loaded rules that were not the policy's
DRIFT = "6-iv-a.rules-drift"
FILE = "6-iv-a.rules-file-differs"

Objects = list[dict[str, Any]]


class Table(Protocol):
    """What the part needs of the kernel's table."""

    def read(self) -> Objects | None:
        """Return the loaded objects, or None."""

    def load(self, rules: Any) -> None:
        """Replace the table."""

    def expected(self, rules: Any) -> Objects:
        """Return the rules as they would be read back."""

    def ruleset(self) -> Objects:
        """Return everything that is loaded."""

    def foreign(self) -> list[tuple[str, str]]:
        """Return family and name of tables that are not ours."""

    def remove(self, family: str, name: str) -> None:
        """Take a table away."""


class RulesPart(Part):
    """Compares what is loaded with what was agreed; repairs and reports."""

    NAME = "nft"
    CHECKS = (DRIFT, FILE)
    EVERY_S = 30.0

    def __init__(self, book: Book, paths: Paths, table: Table, store: PolicyStore) -> None:
        self._book, self._table, self._store = book, table, store
        self._file = paths.etc / "nftables.json"
        self._pending = paths.state / "guard" / "pending.json"
        self._current: Policy | None = None
        self._enforced: Policy | None = None
        self._wanted: dict[str, Any] | None = None
        self._file_differs = False
        self._drifted = paths.state / "drift"
        self._switch = paths.state / "quarantined"
        self._quarantined: bool | None = None
        self._read: tuple[bytes, str] = b"", ""  # the file, and the digest of its rules
        self._digests: dict[str, str] = {}

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, common.paths, Nft(), common.store)

    def start(self) -> None:
        """Remember what was enforced before this start."""
        try:
            # An older serial than the newest is what a roll-back leaves in force: no floor here.
            self._enforced = self._store.load_copy("enforced", floor=Floor())
        except SekishoError:
            self._enforced = None

    def watch(self, loop: Loop) -> None:
        """Look as soon as the kernel says that something of the rules changed, and has settled."""
        changes, look_soon = NftChanges(), loop.once(self.NAME, SETTLE_S, self.look)

        def changed() -> None:
            changes.drain()
            look_soon()

        loop.reader(self.NAME, changes, changed)

    def apply(self, policy: Policy) -> None:
        """Take a new policy, and look at once."""
        self.take(policy)
        self.look()

    def take(self, policy: Policy) -> None:
        """Take a new policy; its rules are enforced once the file says that they were confirmed."""
        self._current = policy

    def _agree(self) -> None:
        """Find out which policy's rules are to be enforced."""
        on_disk = self._on_disk()
        current = self._current
        if (
            current is not None
            and on_disk == self._rules_digest(current)
            and (self._enforced is None or self._enforced.digest != current.digest)
        ):
            self._store.keep("enforced", current)
            self._enforced, self._wanted = current, None
        differs = self._enforced is not None and (on_disk != self._rules_digest(self._enforced))
        if differs and not self._file_differs:
            self._book.detect(FILE, "alert", f"{self._file} is not what the policy in force says")
        self._file_differs = differs

    def _on_disk(self) -> str | None:
        try:
            raw = read_bounded(self._file, MAX_FILE)
            if raw != self._read[0]:  # nearly always it is what it was
                self._read = raw, digest(json.loads(raw.decode("utf-8")))
        except (SekishoError, ValueError, TypeError, RecursionError):
            return None
        return self._read[1]

    def _rules_digest(self, policy: Policy) -> str:
        """Return the digest of a policy's rules; those of the two in use are kept."""
        if policy.digest not in self._digests:
            held = {one.digest for one in (self._current, self._enforced) if one is not None}
            self._digests = {one: sha for one, sha in self._digests.items() if one in held}
            self._digests[policy.digest] = policy.value.nftables.digest
        return self._digests[policy.digest]

    def look(self) -> None:
        """Compare, report, repair."""
        if self._pending.exists():
            return  # a change waits for its confirmation; the guard's timer is running
        self._agree()
        if self._enforced is None:
            self._book.up("nft", works=False)
            return
        rules = self._rules(self._enforced.value.nftables.value())
        if self._wanted is None:
            self._wanted = normalise({"nftables": self._table.expected(rules)})
        foreign = self._table.foreign()
        loaded = self._table.read()
        off = (*(f"table {' '.join(one)} is not ours" for one in foreign), *self._off(loaded))
        metrics = self._book.metrics
        metrics.set("sekisho_nft_last_check_timestamp_seconds", int(self._book.wall()))
        metrics.set("sekisho_nft_in_order", int(not off))
        if not off:
            self._book.up("nft", works=True)
            return
        metrics.add("sekisho_nft_drift_total")
        what = "the table is gone" if loaded is None else "the loaded rules are not the policy's"
        self._book.detect(DRIFT, "alert", what, {"differences": list(off[:MOST]), **self._keep()})
        self._repair(rules)
        for family, name in foreign:  # after our own: one that its owner holds cannot be removed
            metrics.set("sekisho_nft_in_order", 0)
            self._table.remove(family, name)
            metrics.set("sekisho_nft_in_order", 1)

    def _keep(self) -> dict[str, str]:
        """Keep the rules that are loaded, newest few, so that the prover can judge them later."""
        data = canonical({"nftables": self._table.ruleset()}) + b"\n"
        sha = hashlib.sha256(data).hexdigest()
        folder = self._drifted
        path = folder / f"{sha[:16]}.json"
        if len(data) > MAX_FILE:
            return {"loaded_sha256": sha}
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            write_atomic(path, data, 0o600)
            held = sorted(folder.glob("*.json"), key=lambda one: one.stat().st_mtime)
            for old in held[:-KEPT]:
                old.unlink()
        except OSError as error:  # a full disk must not keep the rules from being repaired
            return {"loaded_sha256": sha, "loaded_not_kept": printable(str(error), 100)}
        return {"loaded_sha256": sha, "loaded": str(path)}

    def _rules(self, rules: Any) -> Any:
        """Return the rules with the quarantine's switch as it has to be; tell when it changed."""
        on = kept(self._switch)
        if on and is_on(rules["nftables"]) is None:
            raise SekishoError(f"{self._switch} is there, and the policy's rules have no switch")
        if on is not self._quarantined:
            if on or self._quarantined:  # not at an ordinary start
                self._book.tell("rules.quarantine", {"on": on})
            self._quarantined, self._wanted = on, None
        self._book.metrics.set("sekisho_quarantine", int(on))
        return switched(rules, on=on)

    def _off(self, loaded: Objects | None) -> tuple[str, ...]:
        if loaded is None:
            return ("the table is gone",)
        have = normalise({"nftables": loaded})
        if self._wanted is None or have == self._wanted:
            return ()
        return differences(self._wanted, have) or ("they differ",)

    def _repair(self, rules: Any) -> None:
        if self._pending.exists():
            return
        self._table.load(rules)
        loaded = self._table.read()
        off = self._off(loaded)
        if off:
            self._wanted = None
            raise SekishoError(f"the rules were loaded again and still differ: {off[0]}")
        self._book.metrics.add("sekisho_nft_repairs_total")
        self._book.metrics.set("sekisho_nft_in_order", 1)
        self._book.up("nft", works=True)
        serial = self._enforced.serial if self._enforced is not None else 0
        self._book.tell("rules.repaired", {"serial": serial, "objects": len(loaded or ())})
