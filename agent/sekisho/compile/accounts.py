"""Flat lists out of a host's policy, as the checks on accounts and SSH compare them. Pure.

``derived.accounts`` is always computed from the rest of the policy, never read from a
site file: one truth, two shapes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import timedelta

from sekisho.policy.parts import Account, AccountLists, Management, Session

#: Training is renewed every year; the day after, access ends with it.
TRAINING_DAYS = 366
SSH = 22
ADMINISTRATORS = "sekisho-admin"


def fingerprint(key: str) -> str:
    """Return the fingerprint of ``type base64``, as ``ssh-keygen -l`` prints it."""
    blob = base64.b64decode(key.split()[1], validate=True)
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def expiry(account: Account) -> str:
    """Return the first day on which an account must no longer work.

    The authority's last day and the training's last day are both days of work; whichever ends
    first ends the access.
    """
    training = account.trained + timedelta(days=TRAINING_DAYS)
    return (min(account.authority_until, training) + timedelta(days=1)).isoformat()


def derived(
    accounts: Mapping[str, Account],
    sessions: tuple[Session, ...],
    management: Management,
    *,
    today: str,
) -> AccountLists:
    """Return the flat lists of a host's accounts and the sources of SSH sessions.

    Keys: ``uids`` ("name uid"), ``keys`` ("name fingerprint"), ``expiry`` ("name YYYY-MM-DD"),
    ``trained`` (names trained when the policy was issued), ``administrators``, ``privileged``
    ("group name"), ``auditors``, ``listen`` (as ``sshd -T`` prints it), ``allow_users``
    (``AllowUsers`` patterns), ``apt_uris`` (the site's own mirror, if it names one).
    ``today`` is the day of issue.
    """
    inward = [entry for entry in sessions if entry.direction == "in"]
    by_role: dict[str, list[str]] = {}
    for name, account in accounts.items():
        by_role.setdefault(account.role, []).append(name)
    administrators = sorted(by_role.get("administrator", []))
    allowed = []
    for role, names in by_role.items():
        sources = [*(management.auditors if role == "auditor" else management.controllers)]
        if role in ("administrator", "operator"):
            sources += [entry.peer_address for entry in inward]
        allowed += [f"{name}@{source}" for name in names for source in sources]
    return AccountLists(
        uids=_sorted(f"{name} {account.uid}" for name, account in accounts.items()),
        keys=_sorted(
            f"{name} {fingerprint(key)}" for name, a in accounts.items() for key in a.keys
        ),
        expiry=_sorted(f"{name} {expiry(account)}" for name, account in accounts.items()),
        trained=_sorted(n for n, a in accounts.items() if a.trained.isoformat() <= today),
        administrators=tuple(administrators),
        privileged=tuple(f"{ADMINISTRATORS} {name}" for name in administrators),
        auditors=_sorted(by_role.get("auditor", [])),
        listen=_sorted(
            f"{address}:{SSH}"
            for address in {management.address, *(entry.local_address for entry in inward)}
        ),
        allow_users=_sorted(allowed),
        apt_uris=(),
    )


def _sorted(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(texts))
