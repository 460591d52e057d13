"""The key of this end of encrypted lines: made here, never moved; what of it may be shown.

For IPsec a request for its certificate, for WireGuard its public half.
"""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError
from sekisho.core.files import read_bounded, write_atomic
from sekisho.host.enrol import load_key


def request(key_file: Path, *, name: str, check: bool = False) -> dict[str, object]:
    """Make the key where there is none, and return ``made`` and ``csr`` (PEM), signed by it.

    An existing key is used and never replaced. With ``check`` nothing is written.
    Raises `SekishoError` when the folder cannot be written, or the key is no key or is open to
    others.
    """
    from cryptography import x509  # noqa: PLC0415 - slow to import
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    made = not os.path.lexists(key_file)
    if made and check:
        return {"name": name, "made": True}
    if made:
        pem = ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _keep(key_file, pem)
    _closed(key_file, "others could have read it: revoke its certificate, remove it, and ask anew")
    key = load_key(key_file)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signed = (
        x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA384())
    )
    csr = signed.public_bytes(serialization.Encoding.PEM).decode()
    return {"name": name, "made": made, "csr": csr}


def tunnel_key(key_file: Path, *, name: str, check: bool = False) -> dict[str, object]:
    """Make a WireGuard key where there is none; return ``made`` and ``public``, its other half.

    An existing key is used and never replaced. With ``check`` nothing is written.
    Raises `SekishoError` when the folder cannot be written, or the key is no key or is open to
    others.
    """
    from cryptography.hazmat.primitives.asymmetric import x25519  # noqa: PLC0415 - slow to import

    made = not os.path.lexists(key_file)
    if made and check:
        return {"name": name, "made": True}
    if made:
        fresh = x25519.X25519PrivateKey.generate().private_bytes_raw()
        _keep(key_file, base64.b64encode(fresh) + b"\n")
    _closed(key_file, "others could have read it: remove it, run the play, tell the peers")
    try:
        text = read_bounded(key_file, 64).strip()
        key = x25519.X25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))
    except ValueError:
        problem = Problem(str(key_file), "", "no such key", "32 bytes in base64", "6-iv-d-4")
        raise SekishoError("the tunnels' key is garbled", (problem,)) from None
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    return {"name": name, "made": made, "public": public}


def _keep(key_file: Path, data: bytes) -> None:
    try:
        key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(key_file, data, 0o600)
    except OSError as error:
        raise SekishoError(f"{key_file} cannot be written: {error.strerror}") from None


def _closed(key_file: Path, hint: str) -> None:
    mode = stat.S_IMODE(key_file.stat().st_mode)
    if mode & 0o077:
        problem = Problem(str(key_file), "mode", f"{mode:04o}", "0600", "6-iv-d-4", hint)
        raise SekishoError("the line's key is open to others", (problem,))
