"""What the prover says: a law, where it was asked, and proven, refuted or error. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from sekisho.prover.witness import Step


class Outcome(enum.StrEnum):
    """How a law stands; ``error``: nothing can be said, never a pass.

    ``undeliverable``: no wall is broken, but something declared cannot get through.
    """

    PROVEN = "proven"
    UNDELIVERABLE = "undeliverable"
    REFUTED = "refuted"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Law:
    """One law: ``<item>.<slug>``, the item, and what it says in both languages."""

    id: str
    en: str
    ja: str

    @property
    def item(self) -> str:
        """Return the item of Article 6 the law belongs to."""
        return self.id.partition(".")[0]


LAWS = {
    law.id: law
    for law in (
        Law("6-iv-a.only-declared-in", "nothing reaches a machine but on a declared line",
            "宣言された回線以外からは何も届かない"),
        Law("6-iv-d-1.only-declared-out", "nothing leaves a machine but on a declared line",
            "宣言された回線以外へは何も出ない"),
        Law("6-iv-e.only-declared-through", "nothing passes through a machine but declared flows",
            "宣言されたフロー以外は中継されない"),
        Law("6-iv-a.no-ipv6",
            "no IPv6 packet comes, goes or passes",
            "IPv6は入・出・中継とも通らない"),
        Law("6-iv-a.connections-begin-with-syn",
            "on data interfaces a TCP connection begins with its SYN",
            "データ側のTCP接続はSYNで始まる"),
        Law("6-iv-a.management-serves-administration",
            "on the management interface pass administration, metrics, time and echo, nothing else",
            "管理系では管理・監視・時刻・疎通確認だけが通る"),
        Law("6-iv-a.quarantine-leaves-the-monitor",
            "in quarantine pass metrics to the monitor and time from it, nothing else",
            "隔離中は監視への計測値と監視からの時刻だけが通る"),
        Law("6-iv-d-2.no-payload-leaves",
            "no payload byte leaves towards the providers, with any one host's rules gone",
            "どの一台の規則が失われても、提供者側へ一バイトも出ない"),
        Law("6-iv-d-3.no-payload-enters",
            "no payload byte enters from the recipients, with any one host's rules gone",
            "どの一台の規則が失われても、提供先側から一バイトも入らない"),
        Law("6-iv-e.outside-reaches-no-core",
            "no packet from outside reaches the managing server, with any other host's rules gone",
            "外部のパケットは管理サーバに届かない"),
        Law("6-iv-e.only-core-joins",
            "no packet passes between the receiving and the sending side",
            "受信側と送信側の間をパケットは通らない"),
        Law("6-iv-d-1.declared-flows-pass", "every regular packet of a declared flow passes",
            "宣言されたフローの正規のパケットは通る"),
        Law("6-iv-b.declared-services-pass",
            "every regular packet of administration, metrics, time and desk passes",
            "管理・監視・時刻・端末の正規のパケットは通る"),
        Law("6-iv-e.nothing-forwarded", "a machine that no flow passes through forwards nothing",
            "フローの経由しない機械は中継しない"),
        Law("6-iv-d-1.declared-flows-arrive",
            "a packet of every declared flow gets through, over routes, IPsec and rules",
            "宣言されたフローのパケットは経路・IPsec・規則を越えて届く"),
        Law("6-iv-b.declared-services-arrive",
            "a packet of administration, metrics, time and desk gets through, and its answer",
            "管理・監視・時刻・端末のパケットとその応答は届く"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One question put to the solver and its answer.

    Attributes:
        law: the law's id.
        scope: the host, or the path and whose rules were taken away.
        outcome: proven, undeliverable, refuted or error.
        steps: a refutation's packet, host by host.
        before: the connection's first packet where the packet needs one.
        chances: what had to fall this way (limits, quotas).
        reason: why it is an error, or which part of the law is broken.

    """

    law: str
    scope: str
    outcome: Outcome
    steps: tuple[Step, ...] = ()
    before: tuple[Step, ...] = ()
    chances: tuple[str, ...] = ()
    reason: str = ""
    milliseconds: int = 0
    hosts: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON."""
        return {
            "law": self.law,
            "item": LAWS[self.law].item,
            "scope": self.scope,
            "hosts": list(self.hosts),
            "outcome": self.outcome.value,
            "reason": self.reason,
            "steps": [step.as_json() for step in self.steps],
            "before": [step.as_json() for step in self.before],
            "chances": list(self.chances),
        }


def exit_code(findings: list[Finding]) -> int:
    """Return 0 when all is proven, 1 when something is not so, 2 when it could not be told."""
    if any(one.outcome in (Outcome.REFUTED, Outcome.UNDELIVERABLE) for one in findings):
        return 1
    unsure = not findings or any(one.outcome is Outcome.ERROR for one in findings)
    return 2 if unsure else 0
