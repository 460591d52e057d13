"""On the controller: take a host's own key into the site, on the host's proof and a person's word.

All of an answer comes from a machine that may be in other hands: it is bounded and parsed, the key
is the one that signed the request, the fingerprint is computed here, and names of files come from
the site model. Nothing the host sends becomes a path.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sekisho.control.pki.authority import Pki, certificate_number
from sekisho.control.pki.certificates import make_host_certificate, read_request
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.journal.seals import fingerprint
from sekisho.site.model import MANAGEMENT, Site

MAX_ANSWER = 64 * 1024
RENEW_DAYS = 60
#: Folder below ``<inventory>/pki`` by what the key is for.
PLACES = {"agent": "hosts", "monitor": "monitors", "tunnel": "wireguard"}
_WIREGUARD = re.compile(r"[A-Za-z0-9+/]{43}=")
_LIMIT = 64 * 1024


@dataclass(slots=True)
class Accepted:
    """What came of an answer: the certificate (PEM; "" for a tunnel) and the files that changed."""

    certificate: str = ""
    paths: list[str] = field(default_factory=list)


def _refuse(host: str, key: str, got: str, expected: str, hint: str = "") -> SekishoError:
    return SekishoError(
        f"the answer of {host} was refused", (Problem(host, key, got, expected, "6-iv-a", hint),)
    )


def read_answer(data: bytes, host: str, key: str) -> str:
    """Return one field of what a host printed; SekishoError when it is not such an object."""
    if len(data) > MAX_ANSWER:
        raise _refuse(
            host, "", f"more than {MAX_ANSWER} bytes", "what `sekisho agent enroll` prints"
        )
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    value = found.get(key) if isinstance(found, dict) else None
    if not isinstance(value, str):
        raise _refuse(host, key, "no such text", "what the host's own sekisho command prints")
    return value


class Enrolment:
    """Takes the answers of a site's hosts; every change happens under the folder's lock."""

    def __init__(self, inventory: Path, site: Site) -> None:
        self._pki, self._site = Pki(inventory), site

    def _base(self, host: str, purpose: str) -> Path:
        if host not in self._site.machines:
            raise _refuse(
                printable(host, 60), "", "no such machine", "a machine of the site's hosts.yml"
            )
        return self._pki.folder / PLACES[purpose] / host

    def accept(  # noqa: PLR0913 - an acceptance has these inputs
        self,
        host: str,
        answer: bytes,
        *,
        purpose: str,
        now: datetime,
        replace: bool = False,
        check: bool = False,
        renew_days: int = RENEW_DAYS,
    ) -> Accepted:
        """Certify the key that signed the answer's request and keep its public half.

        The kept certificate is used while it fits the key, the authority and the time. Another key
        than the one kept is refused unless ``replace``, a person's word that the machine was set up
        anew; every key that was ever accepted stays as ``HOST.FINGERPRINT.pub.pem``, so that
        journals it sealed can still be verified. With ``check`` nothing is written.

        Raises:
            SekishoError: the answer is no proof, the key is another one, or the site has no keys.

        """
        base = self._base(host, purpose)
        public = read_request(read_answer(answer, host, "csr").encode(), host=host)
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        named = fingerprint(public)
        done = Accepted()
        kept, dated = (
            base.with_name(f"{host}.pub.pem"),
            base.with_name(f"{host}.{named[:16]}.pub.pem"),
        )
        certificate = base.with_name(f"{host}.crt.pem")
        with self._pki.locked():
            held = _read(kept)
            if held not in {b"", pem} and not replace:
                raise self._another(host, kept, named)
            done.certificate = _read(certificate).decode("ascii", "replace")
            if not self._fits(done.certificate, public, now=now, days=renew_days):
                done.paths.append(str(certificate))
            if held != pem:
                done.paths += [str(dated), str(kept)]
            if check or not done.paths:
                return done
            base.parent.mkdir(mode=0o755, exist_ok=True)
            if str(certificate) in done.paths:
                done.certificate = self._certify(host, public, now=now)
                write_atomic(certificate, done.certificate.encode(), 0o644)
            if held != pem:
                write_atomic(dated, pem, 0o644)
                write_atomic(kept, pem, 0o644)
        return done

    def accept_tunnel(
        self, host: str, answer: bytes, *, replace: bool = False, check: bool = False
    ) -> Accepted:
        """Keep the public half of a host's WireGuard key, to be given to its peers.

        Raises:
            SekishoError: it is no such key, or another one than the one kept (see `accept`).

        """
        kept = self._base(host, "tunnel").with_name(f"{host}.pub")
        public = read_answer(answer, host, "public")
        try:
            whole = _WIREGUARD.fullmatch(public) and base64.b64decode(public, validate=True)
        except binascii.Error:
            whole = b""
        if not whole:
            raise _refuse(host, "public", printable(public, 60), "32 bytes in base64 (wg(8))")
        with self._pki.locked():
            held, data = _read(kept), f"{public}\n".encode("ascii")
            if held == data:
                return Accepted()
            if held and not replace:
                raise self._another(host, kept, public)
            if not check:
                kept.parent.mkdir(mode=0o755, exist_ok=True)
                write_atomic(kept, data, 0o644)
        return Accepted(paths=[str(kept)])

    def _another(self, host: str, kept: Path, named: str) -> SekishoError:
        return _refuse(
            host, "key", f"another key ({named[:16]}…)", f"the one in {kept}",
            "if this machine was set up anew, say so: "
            f"""-e '{{"enrol_replace": ["{host}"]}}'; if not, it may be in other hands""",
        )  # fmt: skip

    def _certify(self, host: str, public: ec.EllipticCurvePublicKey, *, now: datetime) -> str:
        ours = self._site.machines[host].on(MANAGEMENT)
        if ours is None:
            raise _refuse(
                host, "interfaces", "none on the management link", "one, to be reached by"
            )
        authority, key = self._pki.authority()
        certificate = make_host_certificate(
            authority, key, public, host=host, address=ours.address, now=now,
            number=certificate_number(),
        )  # fmt: skip
        return certificate.public_bytes(Encoding.PEM).decode("ascii")

    def _fits(
        self, certificate: str, public: ec.EllipticCurvePublicKey, *, now: datetime, days: int
    ) -> bool:
        """Return whether a kept certificate is for this key, by this authority, and lasts."""
        authority, _ = self._pki.authority()
        try:
            held = x509.load_pem_x509_certificate(certificate.encode())
            held.verify_directly_issued_by(authority)
        except Exception:  # noqa: BLE001 - whatever is wrong with the kept one, a new one is right
            return False
        lasts = held.not_valid_after_utc - now > timedelta(days=days)
        return lasts and held.public_key() == public


def _read(path: Path) -> bytes:
    return read_bounded(path, _LIMIT) if path.exists() else b""
