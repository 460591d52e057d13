"""The host's own key, made on the host and never leaving it; a request for its certificate."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from sekisho.core.errors import Problem, SekishoError
from sekisho.core.files import read_bounded, write_atomic
from sekisho.journal.seals import fingerprint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

KEY = "host.key.pem"


def load_key(path: Path) -> EllipticCurvePrivateKey:
    """Return the host's private key; SekishoError when there is none or it is another kind."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - slow to import
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    hint = "run `sekisho agent enroll`"
    try:
        key = load_pem_private_key(read_bounded(path, 64 * 1024), password=None)
    except (ValueError, TypeError):
        problem = Problem(str(path), "", "no private key in PEM", "a key on P-384", hint=hint)
        raise SekishoError("the host has no usable key", (problem,)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        problem = Problem(str(path), "", "another kind of key", "a key on P-384", hint=hint)
        raise SekishoError("the host has no usable key", (problem,))
    return key


def enroll(etc: Path, *, host: str, check: bool = False) -> dict[str, object]:
    """Make the host's key where there is none; return a request for its certificate.

    Idempotent: an existing key is used and never replaced; one that is not a key is an error.

    Returns:
        ``made`` (whether the key is new), ``mended`` (whether others could read it), ``csr`` and
        ``journal_public_key`` (PEM), and ``fingerprint`` (SHA-256 of the public key, hex: what the
        journal's seals name). With ``check`` nothing is written; of a key that would be made only
        ``made`` can be told.

    Raises:
        SekishoError: the folder cannot be written, or what stands there is no key.

    """
    from cryptography import x509  # noqa: PLC0415 - slow to import
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    path = etc / KEY
    made = not os.path.lexists(path)
    if made and check:
        return {"host": host, "made": True, "mended": False}
    if made:
        fresh = ec.generate_private_key(ec.SECP384R1())
        pem = fresh.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            etc.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomic(path, pem, 0o600)
        except OSError as error:
            raise SekishoError(f"{path} cannot be written: {error.strerror}") from None
    key = load_key(path)
    mended = stat.S_IMODE(path.stat().st_mode) != 0o600
    if mended and not check:
        path.chmod(0o600)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA384())
    )
    public = key.public_key()
    return {
        "host": host,
        "made": made,
        "mended": mended,
        "csr": request.public_bytes(serialization.Encoding.PEM).decode(),
        "journal_public_key": public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode(),
        "fingerprint": fingerprint(public),
    }
