"""What a part of the agent is: one object, one protocol, one line in the table of parts.

The agent makes each part of the same things, and calls it by nothing but this protocol: a part has
no line of its own anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

from sekisho.core.errors import SekishoError
from sekisho.host.agent.loop import Loop
from sekisho.host.agent.reporter import Book, Paths
from sekisho.host.policy_store import Policy, PolicyStore
from sekisho.policy.host_policy import HostPolicy

if TYPE_CHECKING:
    from sekisho.host.journal.store import JournalWriter
    from sekisho.host.sdnotify import Notifier

#: Seconds between two calls, and what is called.
Look = tuple[float, Callable[[], None]]


class Part:
    """One part of the agent. What it does not need it leaves as it stands here.

    Attributes:
        NAME: its label in the metrics, and its name in the journal.
        CHECKS: ids of everything it can detect.
        EVERY_S: seconds between two looks.

    """

    NAME: ClassVar[str]
    CHECKS: ClassVar[tuple[str, ...]] = ()
    EVERY_S: ClassVar[float]

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host; what it needs of other parts it asks for when it needs it."""
        raise NotImplementedError

    def start(self) -> None:
        """Take up what was kept before this start; called again when it failed."""

    def watch(self, loop: Loop) -> None:
        """Have ``loop`` wait on what announces itself."""

    def apply(self, policy: Policy) -> None:
        """Take a policy that was proven."""
        self.policy(policy.value)

    def policy(self, policy: HostPolicy) -> None:
        """Take what a new policy says."""

    def reload(self) -> None:
        """Read again what an administrator may have changed (SIGHUP)."""

    def looks(self) -> tuple[Look, ...]:
        """Return what is called, first before the agent is ready, and then in its period."""
        return ((self.EVERY_S, self.look),)

    def look(self) -> None:
        """Look, tell, and say whether it works; an exception is counted, told, tried again."""

    def close(self) -> None:
        """Let go of everything."""


P = TypeVar("P", bound=Part)


@dataclass(slots=True)
class Common:
    """What the parts are made of.

    Attributes:
        give: gives a policy that was proven to every part.
        parts: those that have started.

    """

    book: Book
    paths: Paths
    host: str
    journal: JournalWriter
    store: PolicyStore
    loop: Loop
    notifier: Notifier
    give: Callable[[Policy], None]
    parts: dict[type[Part], Part] = field(default_factory=dict)

    def part(self, kind: type[P]) -> P:
        """Return another part; SekishoError while it has not started."""
        found = self.parts.get(kind)
        if not isinstance(found, kind):
            raise SekishoError(f"the part {kind.NAME} has not started")
        return found

    def after(self, kind: type[Part]) -> Callable[[float, Callable[[], None]], None]:
        """Return what calls something once, so many seconds later, as a part's own."""
        return lambda seconds, call: self.loop.after(kind.NAME, seconds, call)
