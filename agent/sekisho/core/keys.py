"""Signing a bundle's manifest: ECDSA on P-384 with SHA-384 (on the CRYPTREC list). Pure."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )


class BadKeyError(Exception):
    """A key is not an ECDSA P-384 key; the message says what it is."""


def make_key() -> tuple[bytes, bytes]:
    """Return a new private key (PKCS 8 PEM, not encrypted) and its public key (PEM)."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - loads OpenSSL
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP384R1())
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        public_pem(key),
    )


def load_private(pem: bytes) -> EllipticCurvePrivateKey:
    """Return the private key in ``pem``; raise `BadKeyError` for anything but P-384."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as bad:
        raise BadKeyError(f"no private key in PEM without a passphrase ({bad})") from None
    except Exception as bad:  # noqa: BLE001 - UnsupportedAlgorithm is an Exception of its own
        raise BadKeyError(f"{type(bad).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise BadKeyError("not an ECDSA P-384 key")
    return key


def public_pem(key: EllipticCurvePrivateKey) -> bytes:
    """Return the public key of ``key`` as PEM."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def sign(data: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """Return the DER signature of ``data``."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    return key.sign(data, ec.ECDSA(hashes.SHA384()))


def signature_is_good(data: bytes, signature: bytes, pem: bytes) -> bool:
    """Return whether ``signature`` is that of ``data`` by the public key in ``pem``."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    try:
        _load_public(pem).verify(signature, data, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def fingerprint_of(pem: bytes) -> str:
    """Return the SHA-256 fingerprint of a public key, whatever its PEM looks like."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    der = _load_public(pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")


def _load_public(pem: bytes) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    try:
        key = serialization.load_pem_public_key(pem)
    except Exception as bad:  # noqa: BLE001 - bytes of a stranger
        raise BadKeyError(f"no public key in PEM ({type(bad).__name__})") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise BadKeyError("not an ECDSA P-384 key")
    return key
