"""Values of an order: what is asked, and who put their names under it. Pure.

The file is one line of canonical JSON::

    {"order": {schema, kind, id, site, host, requester, reason, made, start, end, content},
     "signatures": [{"act": "request"|"approve", "by": person, "signature": hex of DER}, …]}

Every signature is over the same canonical bytes of ``order``, behind a line that says what for and
by whom (`sekisho.orders.sealing.message`): an approval is no request, and nobody's is another's.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sekisho.core.names import PersonRole

SCHEMA = 1
MAX_BYTES = 32 * 1024
#: Approvers an order needs, none of them the requester.
APPROVERS = 2
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class Act(enum.StrEnum):
    """What somebody signs for."""

    REQUEST = "request"
    APPROVE = "approve"


class Phase(enum.StrEnum):
    """Where a moment stands to an order's window."""

    BEFORE = "before"
    WITHIN = "within"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Signature:
    """One person's signature: DER, over the order's bytes."""

    act: Act
    by: str
    der: bytes = field(repr=False)

    def as_json(self) -> dict[str, str]:
        """Return the entry of the file."""
        return {"act": self.act.value, "by": self.by, "signature": self.der.hex()}


@dataclass(frozen=True, slots=True)
class Signer:
    """Somebody whose signature counts, as the site knows them.

    Attributes:
        id: the person.
        role: what they may do.
        authority_until: the last day of their authority.
        key: SubjectPublicKeyInfo (DER) of their ECDSA key on P-384.

    """

    id: str
    role: PersonRole
    authority_until: date
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Order:
    """One order, its form proven; whether it holds is `sekisho.orders.judge`'s business.

    Times are UTC; the window is start <= now < end. ``body`` is what was parsed and ``data`` its
    canonical bytes, which are signed.
    """

    kind: str
    id: str
    site: str
    host: str
    requester: str
    reason: str
    made: datetime
    start: datetime
    end: datetime
    content: Mapping[str, Any]
    body: Mapping[str, Any] = field(repr=False)
    data: bytes = field(repr=False)
    signatures: tuple[Signature, ...] = ()

    @property
    def approvers(self) -> tuple[str, ...]:
        """Return who signed as approver, in the order of the file."""
        return tuple(one.by for one in self.signatures if one.act is Act.APPROVE)

    def phase(self, now: datetime) -> Phase:
        """Return where ``now`` (aware) stands to the window."""
        if now < self.start:
            return Phase.BEFORE
        return Phase.WITHIN if now < self.end else Phase.OVER


def write_time(moment: datetime) -> str:
    """Return a UTC moment as an order writes it, whole seconds."""
    return moment.strftime(_TIME)
