"""The lines' certificates in ``<inventory>/pki``: who got which, until when, and what is revoked.

``issued.json`` is the whole record, certificates included, and is written before anything is handed
out: after a power cut either the certificate is in it, or it does not exist. ``crl.pem`` is made of
it, and made again when it is older than the record. Private keys are not here: they are made where
they are used, and only requests come.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sekisho.control.pki.authority import Pki, certificate_number
from sekisho.control.pki.certificates import (
    CRL_DAYS,
    LINE_DAYS,
    REASONS,
    make_crl,
    make_line_certificate,
    read_request,
)
from sekisho.core.canonical import canonical, speaks
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.site.lines import members
from sekisho.site.model import Site

RECORD, CRL = "issued.json", "crl.pem"
SCHEMA = 1
_LIMIT = 64 * 1024 * 1024
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SERIAL = re.compile(r"[0-9a-f]{1,40}")
_FIELDS = {"serial", "name", "role", "identities", "from", "until", "pem", "revoked"}


@dataclass(frozen=True, slots=True)
class Party:
    """One end of encrypted lines, as the site describes it."""

    name: str
    role: str
    links: tuple[str, ...]
    identities: tuple[str, ...]


def parties(site: Site) -> dict[str, Party]:
    """Return everybody who needs a certificate for a line, by name."""
    found: dict[str, Party] = {}
    for (link, name), end in members(site).items():
        known = found.get(name, Party(name, end["role"], (), ()))
        found[name] = Party(
            name, end["role"], (*known.links, link), (*known.identities, end["identity"])
        )
    return found


def _when(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def _text(when: datetime) -> str:
    return when.astimezone(UTC).strftime(_TIME)


class LinePki:
    """The record of one site; every change happens under the folder's lock."""

    def __init__(self, pki: Pki, site: Site) -> None:
        self.pki, self.site = pki, site
        self.folder = pki.folder

    # -- what is there ------------------------------------------------------------------------

    def party(self, name: str) -> Party:
        """Return who ``name`` is; SekishoError when the site has no encrypted line of that name."""
        everybody = parties(self.site)
        if name in everybody:
            return everybody[name]
        raise SekishoError(
            "no certificate for this name",
            (
                Problem(
                    self.site.at, "links", f"no encrypted line of {printable(name, 60)}",
                    ", ".join(sorted(everybody)) or "a link with `encryption: ipsec`", "6-iv-d-1",
                    "name the machine or the peer as the site model does",
                ),
            ),
        )  # fmt: skip

    def _record(self) -> dict[str, Any]:
        path = self.folder / RECORD
        if not path.exists():
            return {"schema": SCHEMA, "crl_number": 0, "certificates": []}
        try:
            found = json.loads(read_bounded(path, _LIMIT))
            if not speaks(found["schema"], SCHEMA) or not isinstance(found["crl_number"], int):
                raise ValueError(path)  # noqa: TRY301 - one answer for every kind of damage
            for entry in found["certificates"]:
                _check(entry)
            serials = [entry["serial"] for entry in found["certificates"]]
            if len(set(serials)) != len(serials):
                raise ValueError(path)  # noqa: TRY301
        except (ValueError, KeyError, TypeError, AttributeError):
            problem = Problem(
                str(path), "", "a damaged record", "what this site's authority has issued",
                "6-iv-d-4", "restore it from a copy: it says what must stay revoked",
            )  # fmt: skip
            raise SekishoError("the record of certificates is damaged", (problem,)) from None
        return dict(found)

    def _write(self, record: Mapping[str, Any]) -> None:
        write_atomic(self.folder / RECORD, canonical(record) + b"\n", 0o600)

    def _current(
        self, record: Mapping[str, Any], name: str, now: datetime
    ) -> dict[str, Any] | None:
        """Return the newest certificate of ``name`` that is neither revoked nor over."""
        usable = [
            entry
            for entry in record["certificates"]
            if entry["name"] == name and entry["revoked"] is None and _when(entry["until"]) > now
        ]
        return max(usable, key=lambda entry: (entry["from"], entry["until"]), default=None)

    def listed(self, *, now: datetime, within: int) -> list[dict[str, Any]]:
        """Return one entry for every party and every certificate; ``within`` is days to warn."""
        record = self._record()
        found = []
        everybody = parties(self.site)
        for name in sorted({*everybody, *(one["name"] for one in record["certificates"])}):
            current = self._current(record, name, now)
            mine = [entry for entry in record["certificates"] if entry["name"] == name]
            party = everybody.get(name)
            found += [
                {key: entry[key] for key in ("serial", "name", "role", "from", "until", "revoked")}
                | {
                    "links": list(party.links) if party else [],
                    "days": (_when(entry["until"]) - now).days,
                    "state": _state(entry, current, party, now=now, within=within),
                }
                for entry in mine
            ]
            if party and current is None:
                found.append(
                    {
                        "serial": "", "name": name, "role": party.role, "from": "", "until": "",
                        "revoked": None, "links": list(party.links), "days": None,
                        "state": "missing",
                    }
                )  # fmt: skip
        return found

    # -- what changes it ----------------------------------------------------------------------

    def issue(
        self, name: str, request: bytes, *, now: datetime, days: int = LINE_DAYS, replace: bool
    ) -> str:
        """Return the certificate (PEM) for a request of ``name``.

        The same key with the same names gets the certificate it has, until a month before its end.
        Another key is refused while one is in use, unless ``replace``: then the old one is revoked.
        """
        party = self.party(name)
        public = read_request(request, host=name)
        with self.pki.locked():
            record = self._record()
            current = self._current(record, name, now)
            if current is not None:
                held = x509.load_pem_x509_certificate(current["pem"].encode())
                same = held.public_key() == public
                if not same and not replace:
                    raise SekishoError(
                        "another key of this name is in use",
                        (
                            Problem(
                                name, "key", "a new key", f"the key of {current['serial']}",
                                "6-iv-d-4",
                                "--replace revokes the old one; do so only when the asker is known",
                            ),
                        ),
                    )  # fmt: skip
                soon = _when(current["until"]) - now < timedelta(days=CRL_DAYS)
                if same and not soon and current["identities"] == list(party.identities):
                    return str(current["pem"])
                if not same:
                    self._revoke(record, [current], "superseded", now)
            pem = self._sign(record, party, public, now=now, days=days)
            self._write(record)
            self._crl(record, now=now, force=current is not None)
        return pem

    def renew(self, name: str, *, now: datetime, days: int = LINE_DAYS) -> str:
        """Return a new certificate (PEM) for the key ``name`` holds; its key stays where it is."""
        party = self.party(name)
        with self.pki.locked():
            record = self._record()
            current = self._current(record, name, now)
            if current is None:
                problem = Problem(
                    name, "", "no certificate in force", "one that is neither over nor revoked",
                    "6-iv-d-4", "sekisho pki issue, with a request of the key's holder",
                )  # fmt: skip
                raise SekishoError("nothing to renew", (problem,))
            public = x509.load_pem_x509_certificate(current["pem"].encode()).public_key()
            assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101 - we issued it
            pem = self._sign(record, party, public, now=now, days=days)
            self._write(record)
        return pem

    def revoke(self, name: str, *, serial: str, reason: str, now: datetime) -> list[str]:
        """Revoke ``name``'s certificates (or one, by serial) and return the serials; new CRL."""
        if reason not in REASONS:
            problem = Problem("--reason", "", printable(reason, 40), ", ".join(REASONS))
            raise SekishoError("no such reason", (problem,))
        if serial and not _SERIAL.fullmatch(serial):
            problem = Problem("--serial", "", printable(serial, 60), "as `sekisho pki list` shows")
            raise SekishoError("no such serial number", (problem,))
        with self.pki.locked():
            record = self._record()
            chosen = [
                entry
                for entry in record["certificates"]
                if entry["name"] == name
                and entry["revoked"] is None
                and (not serial or entry["serial"] == serial)
            ]
            if not chosen:
                problem = Problem(
                    printable(name, 60), serial, "no certificate that is not revoked",
                    "a name (and serial) of `sekisho pki list`",
                )  # fmt: skip
                raise SekishoError("nothing to revoke", (problem,))
            self._revoke(record, chosen, reason, now)
            self._write(record)
            self._crl(record, now=now, force=True)
        return [str(entry["serial"]) for entry in chosen]

    def crl(self, *, now: datetime) -> bytes:
        """Return the list of revocations (PEM), made anew when it is old, missing or behind."""
        with self.pki.locked():
            self._crl(self._record(), now=now, force=False)
        return read_bounded(self.folder / CRL, _LIMIT)

    def _revoke(
        self, record: dict[str, Any], chosen: list[dict[str, Any]], reason: str, now: datetime
    ) -> None:
        for entry in chosen:
            entry["revoked"] = {"at": _text(now), "reason": reason}
        # Ahead of the list that stands in the folder: a power cut before it is written is seen.
        record["crl_number"] += 1

    def _sign(
        self,
        record: dict[str, Any],
        party: Party,
        public: ec.EllipticCurvePublicKey,
        *,
        now: datetime,
        days: int,
    ) -> str:
        authority, key = self.pki.authority()
        taken = {entry["serial"] for entry in record["certificates"]}
        number = certificate_number()
        while f"{number:x}" in taken:
            number = certificate_number()
        certificate = make_line_certificate(
            authority,
            key,
            public,
            site=self.site.name,
            name=party.name,
            role=party.role,
            identities=party.identities,
            now=now,
            number=number,
            days=days,
        )
        pem = certificate.public_bytes(Encoding.PEM).decode("ascii")
        record["certificates"].append(
            {
                "serial": f"{number:x}",
                "name": party.name,
                "role": party.role,
                "identities": list(party.identities),
                "from": _text(certificate.not_valid_before_utc),
                "until": _text(certificate.not_valid_after_utc),
                "pem": pem,
                "revoked": None,
            }
        )
        return pem

    def _crl(self, record: dict[str, Any], *, now: datetime, force: bool) -> None:
        """Write the list when asked to, when it is a third through its life, or behind."""
        if not force and self._crl_stands(record, now):
            return
        authority, key = self.pki.authority()
        record["crl_number"] += 1
        self._write(record)
        revoked = [
            (int(entry["serial"], 16), _when(entry["revoked"]["at"]), entry["revoked"]["reason"])
            for entry in record["certificates"]
            if entry["revoked"] is not None
        ]
        made = make_crl(authority, key, revoked, number=record["crl_number"], now=now)
        write_atomic(self.folder / CRL, made.public_bytes(Encoding.PEM), 0o644)

    def _crl_stands(self, record: Mapping[str, Any], now: datetime) -> bool:
        path = self.folder / CRL
        if not path.exists():
            return False
        try:
            held = x509.load_pem_x509_crl(read_bounded(path, _LIMIT))
            number = held.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            ends = held.next_update_utc
        except (ValueError, x509.ExtensionNotFound):
            return False
        if ends is None or number != record["crl_number"]:
            return False
        authority, _ = self.pki.authority()
        key = authority.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - the site's own
        return held.is_signature_valid(key) and ends - now > timedelta(days=CRL_DAYS * 2 // 3)


def _check(entry: Any) -> None:
    """Raise ValueError, KeyError or TypeError when an entry of the record is not one."""
    if set(entry) != _FIELDS or not _SERIAL.fullmatch(entry["serial"]):
        raise ValueError(entry)
    if not all(isinstance(entry[key], str) for key in ("name", "role", "pem")):
        raise TypeError(entry)
    _when(entry["from"])
    _when(entry["until"])
    if (
        f"{x509.load_pem_x509_certificate(entry['pem'].encode()).serial_number:x}"
        != entry["serial"]
    ):
        raise ValueError(entry)
    if entry["revoked"] is not None:
        _when(entry["revoked"]["at"])
        if entry["revoked"]["reason"] not in REASONS:
            raise ValueError(entry)


def _state(
    entry: Mapping[str, Any],
    current: Mapping[str, Any] | None,
    party: Party | None,
    *,
    now: datetime,
    within: int,
) -> str:
    if entry["revoked"] is not None:
        return "revoked"
    if _when(entry["until"]) <= now:
        return "over"
    if party is None:
        return "unused"  # the site has no encrypted line of that name any more
    if current is None or entry["serial"] != current["serial"]:
        return "renewed"
    if entry["identities"] != list(party.identities):
        return "names changed"
    return "ends soon" if _when(entry["until"]) - now < timedelta(days=within) else "in force"
