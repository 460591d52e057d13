"""The modules part: whether the kernel takes modules although the site shut it, and maintenance.

It shuts nothing: ``/usr/lib/sekisho/modules-wall`` does, without the agent.
"""

from __future__ import annotations

import json
from typing import Any, Self

from sekisho.core.errors import SekishoError, printable
from sekisho.core.files import read_bounded
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.reporter import Book, Paths

MAX_STATE = 1024 * 1024
OPEN = "6-iii-c.modules-open"


class ModulesPart(Part):
    """Compares the kernel's word with the policy's, and tells of every change once."""

    NAME = "modules"
    CHECKS = (OPEN,)
    EVERY_S = 30.0

    def __init__(self, book: Book, paths: Paths) -> None:
        self._book = book
        self._switch = paths.proc / "sys/kernel/modules_disabled"
        self._state = paths.root / "run/sekisho-modules.json"
        self._told: tuple[Any, ...] = ()

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, common.paths)

    def look(self) -> None:
        """Show how the wall stands now; SekishoError when it cannot be told."""
        policy = self._book.policy
        enforce = policy is not None and policy.modules.lock == "enforce"
        word = self._switch.read_text().strip()
        if word not in ("0", "1"):
            raise SekishoError(f"{self._switch}: {printable(word, 40)}; expected 0 or 1")
        closed, state = word == "1", self._boot()
        missing = [str(name) for name in state.get("missing", [])]
        order = str(state.get("maintenance", "")) if not closed else ""
        metrics = self._book.metrics
        metrics.set("sekisho_modules_shut", int(closed))
        metrics.set("sekisho_modules_open", int(enforce and not closed))
        metrics.set("sekisho_modules_missing", len(missing))
        metrics.set("sekisho_modules_unlisted", len(state.get("unlisted", [])))
        metrics.set("sekisho_maintenance", int(bool(order)))
        now = (closed, enforce, order, tuple(missing))
        if now != self._told:
            self._book.tell(
                "modules.wall",
                {
                    "shut": closed,
                    "wanted": enforce,
                    "why": printable(str(state.get("why", "")), 200),
                    "maintenance": order,
                    "missing": missing[:100],
                    "unlisted": [str(name) for name in state.get("unlisted", [])][:100],
                },
            )
            if enforce and not closed:
                why = f"maintenance order {order}" if order else str(state.get("why", "not told"))
                self._book.detect(OPEN, "alert", f"kernel modules can be loaded: {why}")
        self._told = now
        self._book.up("modules", works=True)

    def _boot(self) -> dict[str, Any]:
        """Return what the wall's unit told at this boot; empty when it has not run."""
        if not self._state.exists():
            return {}
        try:
            value = json.loads(read_bounded(self._state, MAX_STATE))
        except (ValueError, RecursionError) as bad:
            raise SekishoError(f"{self._state} is garbled: {printable(str(bad))}") from None
        if not isinstance(value, dict) or not all(
            isinstance(value.get(key, []), list) for key in ("missing", "unlisted")
        ):
            raise SekishoError(f"{self._state} is garbled")
        return value
