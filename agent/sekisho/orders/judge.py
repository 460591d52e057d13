"""Whether an order holds: three people, three roles that fit, three keys, one window. Pure.

What the caller must still do: refuse an order that was used before (`Order.id`, kept on the host
before anything is opened), act, and close at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.orders.kinds import KINDS, Kind
from sekisho.orders.model import APPROVERS, Act, Order, Phase, Signature, Signer, write_time
from sekisho.orders.parse import parse_order
from sekisho.orders.sealing import holds
from sekisho.policy.host_policy import HostPolicy
from sekisho.policy.parts import Approver

Wrong = Callable[[str, object, str], None]


def signers_of(policy: HostPolicy) -> dict[str, Signer]:
    """Return who may sign, from a host's policy (``orders.people``).

    Raises:
        SekishoError: the policy is of a compiler that did not write that yet.

    """
    if not policy.says("orders"):
        raise SekishoError(
            "who may sign orders cannot be told",
            (Problem("policy", "orders.people", "nothing", "the site's approval keys", "6-iii-c",
                     "give people an approval_key in the site model and apply the policy"),),
        )  # fmt: skip
    return signers(policy.orders.people)


def signers(people: Mapping[str, Approver]) -> dict[str, Signer]:
    """Return who may sign, of these people."""
    return {
        name: Signer(id=name, role=one.role, authority_until=one.authority_until, key=one.key)
        for name, one in people.items()
    }


def prove(  # noqa: PLR0913 - what an order is held against
    raw: bytes, signers: Mapping[str, Signer], *, site: str, host: str, now: datetime, where: str
) -> Order:
    """Return the order of ``raw`` when it holds on ``host`` at ``now``, else `SekishoError`.

    See `problems_of` for what is asked of it, beyond its form (`parse_order`).
    """
    order = parse_order(raw, where)
    found = problems_of(order, signers, site=site, host=host, now=now, where=where)
    if found:
        raise SekishoError("the order does not hold", tuple(found))
    return order


def problems_of(  # noqa: PLR0913 - what an order is held against
    order: Order,
    signers: Mapping[str, Signer],
    *,
    site: str,
    host: str,
    now: datetime | None,
    where: str,
) -> list[Problem]:
    """Return everything that keeps an order from holding; empty when it holds.

    1. It is for this site and this host.
    2. It bears the requester's signature and two approvals, by three people with three keys.
    3. Their roles fit the kind; one approver has the role the kind asks for.
    4. Their authority lasts until the window ends.
    5. Every signature is that person's, over exactly this order, for that act.
    6. ``now`` is within the window; None leaves this out (an order that was used is looked at).

    Never raises.
    """
    kind = KINDS[order.kind]
    found: list[Problem] = []

    def wrong(key: str, got: object, expected: str) -> None:
        found.append(Problem(where, key, printable(got, 80), expected, "6-iii-c"))

    for key, got, ours in (("site", order.site, site), ("host", order.host, host)):
        if got != ours:
            wrong(key, got, ours)
    if not any(one.act is Act.REQUEST for one in order.signatures):
        wrong("signatures", "no request", f"the signature of {order.requester}")
    if len(order.approvers) != APPROVERS:
        got = ", ".join(order.approvers) or "nobody"
        wrong("signatures", f"approved by {got}", f"{APPROVERS} approvers")
    for one in order.signatures:
        _signature(order, one, signers.get(one.by), wrong)
    _together(order, signers, kind, wrong)
    if now is not None:
        phase = order.phase(now)
        if phase is not Phase.WITHIN:
            window = f"from {write_time(order.start)} until before {write_time(order.end)}"
            wrong("window", f"{phase.value} it: now {write_time(now)}", window)
    return found


def signature_problems(
    order: Order, signers: Mapping[str, Signer], by: str, where: str
) -> list[Problem]:
    """Return why ``by``'s signature would not count, alone or beside those that are there."""
    found: list[Problem] = []

    def wrong(key: str, got: object, expected: str) -> None:
        found.append(Problem(where, key, printable(got, 80), expected, "6-iii-c"))

    for one in order.signatures:
        if one.by == by:
            _signature(order, one, signers.get(by), wrong)
    names = [one.by for one in order.signatures]
    if names.count(by) != 1:
        wrong("signatures", f"{by}, {names.count(by)} times", "every signature by another person")
    if len(order.approvers) > APPROVERS:
        wrong("signatures", f"{len(order.approvers)} approvals", f"{APPROVERS}, and no more")
    return found


def _signature(order: Order, one: Signature, signer: Signer | None, wrong: Wrong) -> None:
    """Judge one signature by itself."""
    kind = KINDS[order.kind]
    key = f"signatures.{one.by}"
    if signer is None:
        wrong(key, "nobody the site knows with an approval key", "a person of the site")
        return
    asked = one.act is Act.REQUEST
    if asked and one.by != order.requester:
        wrong(key, "a request", f"the request of {order.requester}")
    if not asked and one.by == order.requester:
        wrong(key, "the requester's own approval", "an approver who is not the requester")
    roles = kind.ask if asked else kind.approve
    if signer.role not in roles:
        names = " or ".join(sorted(role.value for role in roles))
        wrong(key, f"{one.act.value} by {signer.role.value}", f"by {names}")
    if signer.authority_until < order.end.date():
        wrong(
            key, f"authority until {signer.authority_until}", f"until {order.end.date()} or later"
        )
    if not holds(signer, one, order):
        wrong(key, "a signature that does not fit", "this person's, over exactly this order")


def _together(order: Order, signers: Mapping[str, Signer], kind: Kind, wrong: Wrong) -> None:
    """Judge the signatures together: three people, three keys, the role that must be among them."""
    names = [one.by for one in order.signatures]
    if len(set(names)) != len(names):
        wrong("signatures", ", ".join(names), "every signature by another person")
    keys = [signers[name].key for name in dict.fromkeys(names) if name in signers]
    if len(set(keys)) != len(keys):
        wrong("signatures", "one key of two people", "every person with a key of their own")
    roles = {signers[name].role for name in order.approvers if name in signers}
    if kind.among not in roles:
        wrong("signatures", f"no {kind.among.value} among the approvers", "one of them at least")
