"""Orders for tests: the lab's people with real P-384 keys, a good order, and variations of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sekisho.core.names import PersonRole
from sekisho.journal.records import Origin, encode_data, genesis, make_line
from sekisho.orders.model import Act, Order, Signer, write_time
from sekisho.orders.parse import parse_body, signed_by
from sekisho.orders.sealing import seal

NOW = datetime(2026, 11, 25, 6, 0, tzinfo=UTC)
ROLES = {
    "aoki": PersonRole.ADMINISTRATOR,
    "baba": PersonRole.OPERATOR,
    "chiba": PersonRole.OFFICER,
    "doi": PersonRole.OFFICER,
    "auditor": PersonRole.AUDITOR,
}
KEYS = {name: ec.generate_private_key(ec.SECP384R1()) for name in ROLES}
STICK = {
    "name": "stick",
    "vendor": "46f4",
    "product": "0001",
    "serial": "STICK-1",
    "port": "2",
    "interfaces": ["08:06:50"],
}
CONTENT: dict[str, Any] = {"device": STICK, "direction": "in"}


def signer(name: str, until: date = date(2035, 3, 31)) -> Signer:
    public = KEYS[name].public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Signer(name, ROLES[name], until, der)


SIGNERS = {name: signer(name) for name in ROLES}


def body(**change: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "device-exception",
        "id": "20261125-0123456789abcdef",
        "site": "lab",
        "host": "core-1",
        "requester": "baba",
        "reason": "calibration data of the scanner, ticket 12",
        "made": write_time(NOW - timedelta(hours=2)),
        "start": write_time(NOW - timedelta(hours=1)),
        "end": write_time(NOW + timedelta(hours=1)),
        "content": CONTENT,
        **change,
    }


def sign(order: Order, *names: tuple[Act, str, str]) -> Order:
    """Add signatures (act, name written, whose key)."""
    for act, by, holder in names:
        order = signed_by(order, seal(KEYS[holder], act, by, order))
    return order


def good(**change: Any) -> Order:
    order = parse_body(body(**change), "order")
    return sign(
        order,
        (Act.REQUEST, order.requester, order.requester),
        (Act.APPROVE, "chiba", "chiba"),
        (Act.APPROVE, "aoki", "aoki"),
    )


def write_journal(
    folder: Path, records: Sequence[tuple[datetime, str, dict[str, Any]]], first: int = 1
) -> Path:
    """Write a segment of records (time, kind, data) as the writer does; returns it."""
    origin, prev = Origin("core-1", "b" * 32), genesis("core-1")
    path = folder / f"{first:020d}.jsonl"
    with path.open("wb") as stream:
        for number, (when, kind, data) in enumerate(records, first):
            t = int(when.timestamp() * 1000)
            line, prev = make_line(origin, number, t, kind, encode_data(data), prev)
            stream.write(line)
    return path
