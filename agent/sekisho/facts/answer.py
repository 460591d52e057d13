"""What ties a host's facts to one audit: a nonce, and the host's signature. Pure.

Each audit draws a random nonce; each host is asked with a nonce derived from it and the host's
name, so that no answer can stand for another host or another audit. A host with a key (the one
that seals its journal) signs the nonce, its clock, its collector and the digest of its facts; see
docs/adr/0009.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sekisho.core.canonical import canonical
from sekisho.core.keys import BadKeyError, public_pem, sign, signature_is_good

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

NONCE = re.compile(r"[0-9a-f]{64}", re.ASCII)  # of an audit
_ASKED = re.compile(r"[0-9a-f]{32,128}", re.ASCII)  # of one request
_SIGNATURE = re.compile(r"(?:[0-9a-f]{2}){8,128}", re.ASCII)
ANSWER_KEYS = ("nonce", "at", "key", "signature")
_MAX_PEM = 1024  # characters; a P-384 public key takes 215
_MAX_AT = 2**53


@dataclass(frozen=True, slots=True)
class Answer:
    """How a host's facts came.

    Attributes:
        nonce: what the host was asked with.
        at: the host's clock when it had read the facts, Unix milliseconds; None when not signed.
        key: public key (PEM) the answer says it was signed with; None when not signed.
        signature: over nonce, clock, collector and digest, DER in hex; None when not signed.

    """

    nonce: str
    at: int | None = None
    key: str | None = None
    signature: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the answer as plain JSON values."""
        return {"nonce": self.nonce, "at": self.at, "key": self.key, "signature": self.signature}


def host_nonce(run: str, host: str) -> str:
    """Return the nonce one host is asked with in the audit that has the nonce ``run``, hex."""
    statement = canonical({"what": "sekisho-audit", "run": run, "host": host})
    return hashlib.sha256(statement).hexdigest()


def _statement(answer: Answer, collector: str, digest: str) -> bytes:
    return canonical(
        {
            "what": "sekisho-facts",  # no other statement of this key begins so: seals, heads
            "nonce": answer.nonce,
            "at": answer.at,
            "collector": collector,
            "digest": digest,
        }
    )


def sign_answer(
    key: EllipticCurvePrivateKey, nonce: str, at: int, collector: str, digest: str
) -> Answer:
    """Return the signed answer to ``nonce`` for facts with ``digest``."""
    pem = public_pem(key).decode()
    unsigned = Answer(nonce, at, pem)
    return Answer(nonce, at, pem, sign(_statement(unsigned, collector, digest), key).hex())


def signed_well(answer: Answer, collector: str, digest: str) -> bool:
    """Return whether the answer's signature is by the key it names, over these facts."""
    if answer.key is None or answer.signature is None:
        return False
    signature = bytes.fromhex(answer.signature)
    try:
        return signature_is_good(
            _statement(answer, collector, digest), signature, answer.key.encode()
        )
    except BadKeyError:
        return False


def answer_from_json(value: Any) -> Answer:
    """Return the answer in ``value``; ValueError says what is wrong with it."""
    if not isinstance(value, dict) or value.keys() != set(ANSWER_KEYS):
        raise ValueError("an answer has exactly nonce, at, key and signature")
    nonce, at, key, signature = (value[name] for name in ANSWER_KEYS)
    if not isinstance(nonce, str) or not _ASKED.fullmatch(nonce):
        raise ValueError("the nonce is not 32 to 128 hex digits")
    if at is None and key is None and signature is None:
        return Answer(nonce)
    if type(at) is not int or not 0 <= at <= _MAX_AT:
        raise ValueError("at is no time in milliseconds")
    if not isinstance(key, str) or not key.isascii() or len(key) > _MAX_PEM:
        raise ValueError("the key is no public key in PEM")
    if not isinstance(signature, str) or not _SIGNATURE.fullmatch(signature):
        raise ValueError("the signature is not in hex")
    return Answer(nonce, at, key, signature)
