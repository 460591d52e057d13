"""Write and read evidence bundles on disk. Reading is bounded and trusts no name."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.keys import (
    BadKeyError,
    fingerprint_of,
    load_private,
    make_key,
    public_pem,
    sign,
)
from sekisho.evidence.bundle import FILE_NAME, FIXED, MANIFEST, SIGNATURE, SIGNER, Bundle
from sekisho.evidence.verification import Stored
from sekisho.facts.wire import MAX_RAW_BYTES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

MAX_FILES = 25_000
MAX_FILE_BYTES = MAX_RAW_BYTES + 1024 * 1024
MAX_TOTAL_BYTES = 4 * 1024 * 1024 * 1024
_FOLDERS = ("facts", "policies")
_HOST_KEY = ".pub.pem"


def write_bundle(bundle: Bundle, out: Path, key: EllipticCurvePrivateKey | None) -> Path:
    """Write a bundle as a new folder below ``out`` and return it; never into one that exists.

    It is built under another name, synced and renamed: half a bundle never bears the name.
    """
    final = out / bundle.name
    building = out / f".{bundle.name}.{secrets.token_hex(4)}"
    try:
        building.mkdir(parents=True, mode=0o750)
        for folder in _FOLDERS:
            (building / folder).mkdir()
        files = dict(bundle.files) | {MANIFEST: bundle.manifest}
        if key is not None:
            files[SIGNATURE] = sign(bundle.manifest, key)
        for name, data in files.items():
            _write(building / name, data)
        for name in (*_FOLDERS, "."):
            _sync(building / name)
        if final.exists():
            raise FileExistsError(17, "there is one already", str(final))
        building.rename(final)
        _sync(out)
    except OSError as bad:
        raise SekishoError(
            "the evidence bundle cannot be written",
            (Problem(str(final), "", bad.strerror or str(bad), "a folder that can be written"),),
        ) from None
    return final


def read_bundle(path: Path) -> Stored:
    """Return what lies in a bundle's folder.

    Only plain files under names a bundle may have are read; links, devices, odd names and
    anything over the limits are named in ``refused`` instead.

    Raises:
        SekishoError: ``path`` is no folder, or holds more than any bundle may.

    """
    if not path.is_dir():
        raise SekishoError(
            "no evidence bundle",
            (Problem(str(path), "", "no folder", "the folder `sekisho audit --out` wrote"),),
        )
    files: dict[str, bytes] = {}
    refused: list[str] = []
    total = 0
    for name in _names(path, refused):
        data, reason = _read(path / name)
        if data is None:
            refused.append(f"{name}: {reason}")
            continue
        total += len(data)
        if total > MAX_TOTAL_BYTES:
            raise _too_much(path, f"more than {MAX_TOTAL_BYTES} bytes")
        files[name] = data
    return Stored(files=files, refused=tuple(refused))


def read_signing_key(path: Path) -> EllipticCurvePrivateKey:
    """Return the auditor's signing key; a `SekishoError` says what is wrong with it."""
    try:
        return load_private(_read_small(path))
    except BadKeyError as bad:
        raise SekishoError(
            "the signing key cannot be used",
            (
                Problem(
                    str(path), "", str(bad), "an ECDSA P-384 key", hint="sekisho audit keygen PATH"
                ),
            ),
        ) from None


def read_public_key(path: Path) -> bytes:
    """Return a public key file's bytes."""
    return _read_small(path)


def read_signer(path: Path) -> bytes:
    """Return the signer's public key (PEM); a `SekishoError` says what is wrong with it."""
    pem = _read_small(path)
    try:
        fingerprint_of(pem)
    except BadKeyError as bad:
        raise SekishoError(
            "the signer's key cannot be used",
            (Problem(str(path), "", str(bad), "the signer's public key in PEM, on P-384"),),
        ) from None
    return pem


def read_host_keys(folder: Path) -> dict[str, bytes]:
    """Return the public keys of a folder's ``HOST.pub.pem`` by host.

    Raises:
        SekishoError: no folder, or none of these files in it.

    """
    found = {
        path.name.removesuffix(_HOST_KEY): _read_small(path)
        for path in sorted(folder.glob(f"*{_HOST_KEY}"))
    }
    if not found:
        raise SekishoError(
            "no host keys",
            (Problem(str(folder), "", f"no *{_HOST_KEY}", "a folder such as INVENTORY/pki/hosts"),),
        )
    return found


def public_key_of(key: EllipticCurvePrivateKey) -> bytes:
    """Return the public PEM of a private key."""
    return public_pem(key)


def write_keypair(path: Path) -> Path:
    """Write a new signing key to ``path`` (0600, never over another) and ``path``.pub.pem."""
    private, public = make_key()
    public_path = path.with_name(path.name + ".pub.pem")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(private)
            stream.flush()
            os.fsync(stream.fileno())
        _write(public_path, public)
    except OSError as bad:
        raise SekishoError(
            "the key cannot be written",
            (Problem(str(path), "", bad.strerror or str(bad), "a new file"),),
        ) from None
    return public_path


def _names(path: Path, refused: list[str]) -> list[str]:
    found: list[str] = []
    seen = 0
    for folder in ("", *_FOLDERS):
        here = path / folder
        if folder and (here.is_symlink() or not here.is_dir()):
            if here.is_symlink() or here.exists():
                refused.append(f"{folder}: no folder")
            continue
        for entry in os.scandir(here):
            seen += 1
            if seen > MAX_FILES:
                raise _too_much(path, f"more than {MAX_FILES} files")
            name = f"{folder}/{entry.name}" if folder else entry.name
            if name in _FOLDERS:
                continue
            if name in (*FIXED, MANIFEST, SIGNATURE, SIGNER) or FILE_NAME.fullmatch(name):
                found.append(name)
            else:
                refused.append(f"{printable(name, 200)}: a bundle holds no such file")
    return sorted(found)


def _read(path: Path) -> tuple[bytes | None, str]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as bad:
        return None, "a link" if path.is_symlink() else bad.strerror or "unreadable"
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None, "no plain file"
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        return None, f"more than {MAX_FILE_BYTES} bytes"
    return data, ""


def _read_small(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(65536)
    except OSError as bad:
        raise SekishoError(
            "the key cannot be read",
            (Problem(str(path), "", bad.strerror or "unreadable", "a key in PEM"),),
        ) from None


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _too_much(path: Path, got: str) -> SekishoError:
    return SekishoError(
        "this is no evidence bundle of ours", (Problem(str(path), "", got, "less"),)
    )
