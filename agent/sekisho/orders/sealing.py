"""Signing an order and proving a signature: ECDSA P-384 with SHA-384. Pure.

The library is imported only when a signature is made or proven: it costs 10 MB and 50 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sekisho.orders.model import Act, Order, Signature, Signer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


def message(act: Act, by: str, order: Order) -> bytes:
    """Return the bytes that ``by`` signs: what for, who, then the order's canonical bytes.

    The first lines hold no character that JSON could begin with and end in a newline each, so no
    two different (act, by, order) give the same bytes, and nothing else signed by these keys
    (policies, journals, manifests) begins like this.
    """
    return b"sekisho-order/1\n%s\n%s\n%s" % (act.value.encode(), by.encode(), order.data)


def seal(key: EllipticCurvePrivateKey, act: Act, by: str, order: Order) -> Signature:
    """Return the signature of ``by`` under ``order``."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA384  # noqa: PLC0415

    return Signature(act, by, key.sign(message(act, by, order), ec.ECDSA(SHA384())))


def holds(signer: Signer, signature: Signature, order: Order) -> bool:
    """Tell whether the signature is the signer's under exactly this order; never raises."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA384  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_der_public_key  # noqa: PLC0415

    try:
        key = load_der_public_key(signer.key)
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            return False
        key.verify(signature.der, message(signature.act, signature.by, order), ec.ECDSA(SHA384()))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return signature.by == signer.id


def approval_key(pem: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo (DER) of a PEM public key; ValueError unless P-384."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("no public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise ValueError("another kind of key")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
