"""The site's keys and serials in ``<inventory>/pki``: made once, read, and never shown.

``ca.key.pem ca.crt.pem`` sign hosts' TLS certificates and the lines' (`sekisho.control.pki.lines`);
``policy.key.pem policy.pub.pem`` sign their policies; ``serials.json`` remembers each host's newest
policy, so that a serial only grows and only when the content changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from sekisho.control.pki.certificates import fits, make_authority, sign
from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError
from sekisho.core.files import read_bounded, write_atomic
from sekisho.policy.host_policy import HostPolicy

_LIMIT = 64 * 1024
_SERIALS_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Signed:
    """A host's policy as it goes out: canonical bytes, their signature, their serial."""

    data: bytes
    signature: bytes
    serial: int
    value: HostPolicy
    changed: bool


def certificate_number() -> int:
    """Return a fresh serial number for a certificate (159 random bits)."""
    return int.from_bytes(secrets.token_bytes(20), "big") >> 1


class Pki:
    """The directory ``pki`` beside an inventory."""

    def __init__(self, inventory: Path) -> None:
        self.folder = inventory / "pki"

    def _missing(self) -> SekishoError:
        return SekishoError(
            "the site has no keys yet",
            (
                Problem(
                    str(self.folder), "", "nothing", "the site's keys", "6-iv-a",
                    f"sekisho site keys {self.folder.parent}",
                ),
            ),
        )  # fmt: skip

    def make(self, site: str, *, now: datetime) -> list[str]:
        """Make what is missing and return its names; never replaces a key.

        Raises:
            SekishoError: a key is there without its public half, or the folder is open to others.

        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        made: list[str] = []
        with self.locked():
            if not (self.folder / "policy.key.pem").exists():
                key = ec.generate_private_key(ec.SECP384R1())
                self._write_key("policy.key.pem", key)
                made.append("policy.key.pem")
            public = self.policy_key().public_key()
            pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            if not (self.folder / "policy.pub.pem").exists():
                write_atomic(self.folder / "policy.pub.pem", pem, 0o644)
                made.append("policy.pub.pem")
            if not (self.folder / "ca.key.pem").exists():
                self._write_key("ca.key.pem", ec.generate_private_key(ec.SECP384R1()))
                made.append("ca.key.pem")
            if not (self.folder / "ca.crt.pem").exists():
                certificate = make_authority(
                    self._key("ca.key.pem"), site, now=now, number=certificate_number()
                )
                pem = certificate.public_bytes(Encoding.PEM)
                write_atomic(self.folder / "ca.crt.pem", pem, 0o644)
                made.append("ca.crt.pem")
        return made

    def _write_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomic(self.folder / name, pem, 0o600)

    def _key(self, name: str) -> ec.EllipticCurvePrivateKey:
        path = self.folder / name
        try:
            info = path.lstat()
        except FileNotFoundError:
            raise self._missing() from None
        if not stat.S_ISREG(info.st_mode) or stat.S_IMODE(info.st_mode) & 0o077:
            shown = f"mode {stat.S_IMODE(info.st_mode):04o}"
            raise SekishoError(
                "a private key is open to others",
                (Problem(str(path), "", shown, "a file of mode 0600", "6-iv-a", "chmod 600"),),
            )
        try:
            key = load_pem_private_key(read_bounded(path, _LIMIT), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SekishoError(
                "a key is garbled", (Problem(str(path), "", "no such key", "P-384 in PEM"),)
            )
        return key

    def policy_key(self) -> ec.EllipticCurvePrivateKey:
        """Return the key that signs policies; SekishoError when there is none."""
        return self._key("policy.key.pem")

    def policy_public(self) -> bytes:
        """Return the policy key's public half, PEM, proven to belong to the private one."""
        path = self.folder / "policy.pub.pem"
        if not path.exists():
            raise self._missing()
        pem = read_bounded(path, _LIMIT)
        try:
            public = load_pem_public_key(pem)
        except ValueError:
            public = None
        if public != self.policy_key().public_key():
            raise SekishoError(
                "the policy keys do not belong together",
                (Problem(str(path), "", "another key", "the public half of policy.key.pem"),),
            )
        return pem

    def authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Return the site's certificate authority and its key; SekishoError when there is none."""
        path = self.folder / "ca.crt.pem"
        if not path.exists():
            raise self._missing()
        try:
            return x509.load_pem_x509_certificate(read_bounded(path, _LIMIT)), self._key(
                "ca.key.pem"
            )
        except ValueError:
            raise SekishoError(
                "a certificate is garbled", (Problem(str(path), "", "no such", "PEM"),)
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: two renders must not hand out one serial twice."""
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    # -- policies -----------------------------------------------------------------------------

    def sign_policies(self, drafts: Iterable[HostPolicy], *, now: datetime) -> list[Signed]:
        """Return each draft policy numbered, dated and signed.

        A draft's own ``serial`` and ``issued`` do not count: unchanged content keeps its serial,
        date and signature byte for byte; changed content gets the next serial.

        Raises:
            SekishoError: no key; or a draft that no host would read (`HostPolicy.parse`).

        """
        key = self.policy_key()
        self.policy_public()
        with self.locked():
            known = self._serials()
            signed = [self._sign(key, draft, known, now) for draft in drafts]
            if any(entry.changed for entry in signed):
                write_atomic(self.folder / "serials.json", canonical(known) + b"\n", 0o600)
        return signed

    @staticmethod
    def _sign(
        key: ec.EllipticCurvePrivateKey,
        draft: HostPolicy,
        known: dict[str, dict[str, Any]],
        now: datetime,
    ) -> Signed:
        document = HostPolicy.parse(draft.as_bytes(), f"the policy of {draft.host}").as_json()
        content = {name: document[name] for name in document if name not in ("serial", "issued")}
        content_digest = hashlib.sha256(canonical(content)).hexdigest()
        host = draft.host
        last = known.get(host)
        if last is not None and last["content"] == content_digest:
            value = replace(draft, serial=last["serial"], issued=last["issued"])
            data, signature = value.as_bytes(), bytes.fromhex(last["signature"])
            if fits(key.public_key(), data, signature):
                return Signed(data, signature, last["serial"], value, changed=False)
        serial = 1 if last is None else int(last["serial"]) + 1
        issued = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        value = replace(draft, serial=serial, issued=issued)
        data = value.as_bytes()
        signature = sign(key, data)
        known[host] = {
            "serial": serial,
            "issued": issued,
            "content": content_digest,
            "signature": signature.hex(),
        }
        return Signed(data, signature, serial, value, changed=True)

    def _serials(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "serials.json"
        if not path.exists():
            return {}
        try:
            found = json.loads(read_bounded(path, _SERIALS_LIMIT))
            for entry in found.values():
                if not (
                    isinstance(entry["serial"], int)
                    and entry["serial"] > 0
                    and all(isinstance(entry[key], str) for key in ("issued", "content"))
                    and bytes.fromhex(entry["signature"])
                ):
                    raise ValueError(path)  # noqa: TRY301 - one answer for every kind of damage
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SekishoError(
                "the record of serials is damaged",
                (
                    Problem(
                        str(path), "", "no record", "the newest serial of each host", "6-iv-a",
                        "restore it from a copy: hosts refuse serials they have seen",
                    ),
                ),
            ) from None  # fmt: skip
        return dict(found)
