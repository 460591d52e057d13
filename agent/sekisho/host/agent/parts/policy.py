"""The policy part: load, prove, put in force; a refused one changes nothing.

The last good policy stays in force, over restarts too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from sekisho.core.errors import SekishoError, printable
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.reporter import Book, say
from sekisho.host.policy_store import Policy, PolicyStore

CHECK = "6-iv-a.policy-refused"


class PolicyPart(Part):
    """Holds the policy in force; ``changed`` hears of every new one."""

    NAME = "policy"
    CHECKS = (CHECK,)
    EVERY_S = 10.0

    def __init__(self, book: Book, store: PolicyStore, changed: Callable[[Policy], None]) -> None:
        self._book, self._store, self._changed = book, store, changed
        self.current: Policy | None = None
        self._seen: tuple[int, ...] | None = None
        self._moving: tuple[int, ...] | None = None

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, common.store, common.give)

    def start(self) -> None:
        """Put the policy in /etc in force; when it is refused, the last good one."""
        self.reload()
        if self.current is None:
            try:
                self._enforce(self._store.load_copy("good"), "the last good one")
            except SekishoError as error:
                self._book.up("policy", works=False)
                say(f"no policy at all: {error.diagnostics()}")

    def look(self) -> None:
        """Reload when one of the files changed since they were read last, and stands still now.

        Policy and signature are two files: between the two writes they do not fit each other.
        """
        now = self._stamp()
        if now not in (self._seen, self._moving):
            self._moving = now
        elif now != self._seen:
            self.reload()

    def settled(self) -> bool:
        """Return whether the files are those that were read last: nobody is bringing a policy."""
        return self._stamp() == self._seen

    def _stamp(self) -> tuple[int, ...]:
        stamp: list[int] = []
        for path in (self._store.policy, self._store.signature, self._store.signer):
            try:
                info = path.stat()
                stamp += [info.st_ino, info.st_mtime_ns, info.st_size]
            except OSError:
                stamp.append(-1)
        return tuple(stamp)

    def reload(self) -> None:
        """Read the policy in /etc again."""
        self._seen = self._stamp()
        try:
            policy = self._store.load()
            if self.current is None or policy.digest != self.current.digest:
                self._store.accept(policy)
                self._enforce(policy, "accepted")
        except SekishoError as error:
            self._refused(error)
            return
        self._book.metrics.set("sekisho_policy_fallback", 0)
        self._book.up("policy", works=True)

    def _enforce(self, policy: Policy, why: str) -> None:
        self.current = policy
        self._book.policy = policy.value
        self._book.metrics.set("sekisho_policy_serial", policy.serial)
        self._book.tell(
            "policy.in-force",
            {"serial": policy.serial, "sha256": policy.digest, "why": why},
        )
        self._changed(policy)

    def _refused(self, error: SekishoError) -> None:
        self._book.metrics.add("sekisho_policy_refused_total")
        self._book.metrics.set("sekisho_policy_fallback", 1)
        serial = self.current.serial if self.current is not None else 0
        why = printable(error.diagnostics(), 600)
        self._book.detect(
            CHECK, "alert", "the policy was refused", {"why": why, "in_force": serial}
        )
        say(f"policy refused, serial {serial} stays in force: {error.diagnostics()}")
