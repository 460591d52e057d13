"""Seals and heads: the host's P-384 signature over how far the journal has come.

A seal is a record of the journal itself. A head is the same statement as a small file of its own:
kept elsewhere, it shows later whether the journal lost its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.strict_json import strict_json
from sekisho.journal.records import HEX64, HOST, INT_HIGH

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

MAX_HEAD = 4096  # bytes
#: What the writer promises, and a verifier takes on trust: no more than this without a seal.
MAX_UNSEALED = 1000  # records
MAX_UNSEALED_MS = 60_000
ALGORITHM = "ecdsa-p384-sha384"
_SEAL, _HEAD = "sekisho-journal-seal", "sekisho-journal-head"


@dataclass(frozen=True, slots=True)
class Head:
    """How far a journal had come: ``n`` records, the last with ``hash``, at ``t`` (Unix ms)."""

    host: str
    n: int
    t: int
    hash: str


def _statement(what: str, head: Head) -> bytes:
    return canonical({"what": what, "host": head.host, "n": head.n, "t": head.t, "hash": head.hash})


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of the key's SubjectPublicKeyInfo, hex."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - heavy
        Encoding,
        PublicFormat,
    )

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _sign(key: EllipticCurvePrivateKey, statement: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415 - heavy
    from cryptography.hazmat.primitives.hashes import SHA384  # noqa: PLC0415 - heavy

    return key.sign(statement, ECDSA(SHA384())).hex()


def _verifies(key: EllipticCurvePublicKey, signature: object, statement: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - heavy
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415 - heavy
    from cryptography.hazmat.primitives.hashes import SHA384  # noqa: PLC0415 - heavy

    try:
        raw = bytes.fromhex(signature) if isinstance(signature, str) else b""
        key.verify(raw, statement, ECDSA(SHA384()))
    except (InvalidSignature, ValueError):
        return False
    return True


def seal_data(key: EllipticCurvePrivateKey, name: str, place: Head) -> dict[str, Any]:
    """Return the data of the seal that becomes record ``place.n`` on top of ``place.hash``.

    ``name`` is the key's fingerprint, computed once by the caller.
    """
    return {"alg": ALGORITHM, "key": name, "sig": _sign(key, _statement(_SEAL, place))}


def seal_holds(key: EllipticCurvePublicKey, place: Head, data: dict[str, Any]) -> bool:
    """Return whether the seal at ``place`` (its number, time and prev) was signed with ``key``."""
    return data.get("alg") == ALGORITHM and _verifies(
        key, data.get("sig"), _statement(_SEAL, place)
    )


def head_bytes(key: EllipticCurvePrivateKey, name: str, head: Head) -> bytes:
    """Return the signed head as canonical JSON with a newline."""
    return (
        canonical(
            {
                "v": 1,
                "host": head.host,
                "n": head.n,
                "t": head.t,
                "hash": head.hash,
                "key": name,
                "alg": ALGORITHM,
                "sig": _sign(key, _statement(_HEAD, head)),
            }
        )
        + b"\n"
    )


def parse_head(raw: bytes, key: EllipticCurvePublicKey) -> Head:
    """Return the head after its signature held.

    Raises:
        SekishoError: not a head, or not signed with ``key``.

    """

    def refuse(name: str, got: object, expected: str) -> SekishoError:
        return SekishoError(
            "the head is no signed head of a journal",
            (Problem("head", name, printable(got), expected),),
        )

    if len(raw) > MAX_HEAD:
        raise refuse("", f"{len(raw)} bytes", f"at most {MAX_HEAD} bytes")
    try:
        value = strict_json(raw, size=MAX_HEAD)
    except (ValueError, RecursionError) as error:
        raise refuse("", str(error), "JSON") from error
    keys = {"v", "host", "n", "t", "hash", "key", "alg", "sig"}
    if not isinstance(value, dict) or value.keys() != keys:
        raise refuse("", value, f"the keys {', '.join(sorted(keys))}")
    forms: dict[str, Callable[[Any], bool]] = {
        "v": lambda got: got == 1,
        "alg": lambda got: got == ALGORITHM,
        "host": lambda got: isinstance(got, str) and HOST.fullmatch(got) is not None,
        "hash": lambda got: isinstance(got, str) and HEX64.fullmatch(got) is not None,
        "n": lambda got: type(got) is int and 1 <= got <= INT_HIGH,
        "t": lambda got: type(got) is int and 0 <= got <= INT_HIGH,
    }
    for name, holds in forms.items():
        if not holds(value[name]):
            raise refuse(name, value[name], "a head's value")
    head = Head(value["host"], value["n"], value["t"], value["hash"])
    if not _verifies(key, value["sig"], _statement(_HEAD, head)):
        raise refuse("sig", "a signature that does not verify", "one by the key given")
    return head
