"""The lines' certificates: who gets one, what it says, when it is over, and what is refused."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from sekisho.cli.main import main
from sekisho.control.pki import lines as pki_lines
from sekisho.control.pki.authority import Pki
from sekisho.control.pki.certificates import CRL_DAYS, IPSEC_IKE, LINE_DAYS
from sekisho.control.pki.lines import LinePki
from sekisho.core.errors import SekishoError
from sekisho.host.line_request import request
from siteworld import SITE, copy_lab, lab_site

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)
EDIT = {SITE: ("network: 10.77.1.0/29", "encryption: ipsec\n      network: 10.77.1.0/29")}


@pytest.fixture
def lines(tmp_path: Path) -> LinePki:
    (tmp_path / "site").mkdir()
    pki = Pki(tmp_path / "site")
    pki.make("lab", now=NOW)
    return LinePki(pki, lab_site(EDIT))


def csr(place: Path, name: str = "hospital-a") -> bytes:
    return str(request(place / f"{name}.key.pem", name=name)["csr"]).encode()


def held(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def crl(lines: LinePki) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((lines.folder / "crl.pem").read_bytes())


def test_a_certificate_says_what_the_site_says_whatever_was_wished_for(lines: LinePki) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    wish = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hospital-a")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("gate-in.wan-in.lab.sekisho.internal")]),
            critical=False,
        )
        .sign(key, SHA384())
    )
    found = held(lines.issue("hospital-a", wish.public_bytes(Encoding.PEM), now=NOW, replace=False))
    found.verify_directly_issued_by(lines.pki.authority()[0])
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hospital-a.wan-in.lab.sekisho.internal"]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        IPSEC_IKE
    ]
    assert found.not_valid_after_utc == NOW + timedelta(days=LINE_DAYS)
    assert found.signature_hash_algorithm is not None
    assert found.signature_hash_algorithm.name == "sha384"
    assert found.subject.rfc4514_string() == "CN=hospital-a,OU=provider,O=lab"


@pytest.mark.parametrize("name", ["hospital-b", "inbound-1", "core-1", "", "gate-in\n", "../x"])
def test_who_stands_on_no_encrypted_line_gets_none(
    lines: LinePki, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SekishoError, match="no certificate for this name"):
        lines.issue(name, csr(tmp_path), now=NOW, replace=False)


def test_a_request_of_another_name_and_garbage_are_refused(lines: LinePki, tmp_path: Path) -> None:
    good = csr(tmp_path, "gate-in")
    for bad in (good, b"", b"-----BEGIN", good[:-40], b"\x00" * 20000):
        with pytest.raises(SekishoError, match="request was refused"):
            lines.issue("hospital-a", bad, now=NOW, replace=False)
    assert not (lines.folder / "issued.json").exists()


def test_the_same_key_keeps_its_certificate_until_a_month_before_its_end(
    lines: LinePki, tmp_path: Path
) -> None:
    asked = csr(tmp_path)
    first = lines.issue("hospital-a", asked, now=NOW, replace=False)
    assert lines.issue("hospital-a", asked, now=NOW + 300 * DAY, replace=False) == first
    later = NOW + timedelta(days=LINE_DAYS - CRL_DAYS + 1)
    assert lines.issue("hospital-a", asked, now=later, replace=False) != first


def test_another_key_is_refused_unless_it_replaces_and_then_the_old_one_is_revoked(
    lines: LinePki, tmp_path: Path
) -> None:
    first = lines.issue("hospital-a", csr(tmp_path), now=NOW, replace=False)
    (tmp_path / "hospital-a.key.pem").unlink()
    asked = csr(tmp_path)
    with pytest.raises(SekishoError, match="another key of this name is in use"):
        lines.issue("hospital-a", asked, now=NOW + DAY, replace=False)
    second = lines.issue("hospital-a", asked, now=NOW + DAY, replace=True)
    assert crl(lines).get_revoked_certificate_by_serial_number(held(first).serial_number)
    assert not crl(lines).get_revoked_certificate_by_serial_number(held(second).serial_number)


def test_renewing_certifies_the_same_key_again(lines: LinePki, tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match="nothing to renew"):
        lines.renew("hospital-a", now=NOW)
    first = held(lines.issue("hospital-a", csr(tmp_path), now=NOW, replace=False))
    second = held(lines.renew("hospital-a", now=NOW + 300 * DAY))
    assert second.public_key() == first.public_key()
    assert second.serial_number != first.serial_number
    states = {one["serial"]: one["state"] for one in lines.listed(now=NOW + 300 * DAY, within=30)
              if one["name"] == "hospital-a"}  # fmt: skip
    assert states == {
        f"{first.serial_number:x}": "renewed",
        f"{second.serial_number:x}": "in force",
    }


def test_a_revocation_is_in_a_new_list_signed_by_the_authority(
    lines: LinePki, tmp_path: Path
) -> None:
    pem = lines.issue("hospital-a", csr(tmp_path), now=NOW, replace=False)
    lines.crl(now=NOW)
    before = crl(lines).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    serial = f"{held(pem).serial_number:x}"
    assert lines.revoke("hospital-a", serial="", reason="key-compromise", now=NOW + DAY) == [serial]
    listed = crl(lines)
    key = lines.pki.authority()[0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert listed.is_signature_valid(key)
    assert listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number > before
    entry = listed.get_revoked_certificate_by_serial_number(int(serial, 16))
    assert entry is not None
    assert entry.revocation_date_utc == NOW + DAY
    with pytest.raises(SekishoError, match="nothing to renew"):
        lines.renew("hospital-a", now=NOW + DAY)
    with pytest.raises(SekishoError, match="nothing to revoke"):
        lines.revoke("hospital-a", serial="", reason="key-compromise", now=NOW + DAY)


@pytest.mark.parametrize(
    ("name", "serial", "reason"),
    [
        ("hospital-a", "", "because"),
        ("hospital-a", "zz", "superseded"),
        ("hospital-a", "ff", "superseded"),
        ("nobody", "", "superseded"),
    ],
)
def test_a_revocation_of_nothing_is_an_error(
    lines: LinePki, tmp_path: Path, name: str, serial: str, reason: str
) -> None:
    lines.issue("hospital-a", csr(tmp_path), now=NOW, replace=False)
    with pytest.raises(SekishoError):
        lines.revoke(name, serial=serial, reason=reason, now=NOW)


def test_a_power_cut_between_record_and_list_is_made_good(
    lines: LinePki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = lines.issue("hospital-a", csr(tmp_path), now=NOW, replace=False)
    lines.crl(now=NOW)

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pki_lines, "make_crl", cut)
        with pytest.raises(KeyboardInterrupt):
            lines.revoke("hospital-a", serial="", reason="superseded", now=NOW)
    assert not crl(lines).get_revoked_certificate_by_serial_number(held(pem).serial_number)
    lines.crl(now=NOW)
    assert crl(lines).get_revoked_certificate_by_serial_number(held(pem).serial_number)


def test_a_list_is_made_anew_when_a_third_of_its_life_is_over(lines: LinePki) -> None:
    first = lines.crl(now=NOW)
    assert lines.crl(now=NOW + 9 * DAY) == first
    assert lines.crl(now=NOW + 11 * DAY) != first


def test_no_serial_is_given_twice(
    lines: LinePki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter([7, 7, 7, 8])
    monkeypatch.setattr(pki_lines, "certificate_number", lambda: next(numbers))
    lines.issue("hospital-a", csr(tmp_path), now=NOW, replace=False)
    assert held(lines.renew("hospital-a", now=NOW)).serial_number == 8


def test_who_lacks_a_certificate_and_whose_ends_soon_is_listed(
    lines: LinePki, tmp_path: Path
) -> None:
    lines.issue("hospital-a", csr(tmp_path), now=NOW, days=20, replace=False)

    def states(now: datetime) -> dict[str, str]:
        return {one["name"]: one["state"] for one in lines.listed(now=now, within=30)}

    assert states(NOW) == {"hospital-a": "ends soon", "gate-in": "missing"}
    assert lines.listed(now=NOW + 21 * DAY, within=30)[1]["state"] == "over"


@given(st.binary(max_size=200))
def test_a_damaged_record_is_told_and_never_taken(data: bytes) -> None:
    import tempfile  # noqa: PLC0415 - hypothesis and function fixtures do not mix

    with tempfile.TemporaryDirectory() as name:
        pki = Pki(Path(name))
        pki.make("lab", now=NOW)
        (pki.folder / "issued.json").write_bytes(data)
        with pytest.raises(SekishoError, match="record of certificates is damaged"):
            LinePki(pki, lab_site(EDIT)).listed(now=NOW, within=1)


def test_a_record_with_a_serial_twice_or_a_changed_one_is_damaged(
    lines: LinePki, tmp_path: Path
) -> None:
    lines.issue("hospital-a", csr(tmp_path), now=NOW, replace=False)
    path = lines.folder / "issued.json"
    good = json.loads(path.read_text())
    for change in (
        lambda record: record["certificates"].append(record["certificates"][0]),
        lambda record: record["certificates"][0].update(serial="ff"),
        lambda record: record["certificates"][0].update(revoked={"at": "then", "reason": "x"}),
        lambda record: record["certificates"][0].pop("until"),
        lambda record: record.update(schema=True),
    ):
        record = json.loads(json.dumps(good))
        change(record)
        path.write_text(json.dumps(record))
        with pytest.raises(SekishoError, match="damaged"):
            lines.listed(now=NOW, within=1)


def test_a_key_is_made_once_where_it_is_used_and_one_open_to_others_is_refused(
    tmp_path: Path,
) -> None:
    place = tmp_path / "private/line.key.pem"
    assert request(place, name="gate-in", check=True) == {"name": "gate-in", "made": True}
    assert not place.exists()
    assert request(place, name="gate-in")["made"]
    key = place.read_bytes()
    assert place.stat().st_mode & 0o777 == 0o600
    assert not request(place, name="gate-in")["made"]
    assert place.read_bytes() == key
    place.chmod(0o640)
    with pytest.raises(SekishoError, match="open to others"):
        request(place, name="gate-in")


def test_the_command_goes_the_whole_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "lab"
    copy_lab(place)
    text = (place / SITE).read_text()
    if "encryption: ipsec" not in text:
        (place / SITE).write_text(text.replace(*EDIT[SITE], 1))

    def run(*words: str, stdin: bytes = b"") -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(["pki", *words])
        return code, capsys.readouterr().out

    assert run("init", str(place))[0] == 0
    code, asked = run("request", "hospital-a", "--key", str(tmp_path / "line.key.pem"))
    assert code == 0
    code, pem = run("issue", str(place), "hospital-a", stdin=asked.encode())
    assert (code, held(pem).subject.rfc4514_string()) == (0, "CN=hospital-a,OU=provider,O=lab")
    assert run("list", str(place))[0] == 1  # the gateway has none yet
    code, listed = run("list", str(place), "--json")
    assert {one["state"] for one in json.loads(listed) if one["name"] == "hospital-a"} == {
        "in force"
    }
    code, written = run("peer", str(place), "hospital-a", "--out", str(tmp_path / "for"), "--json")
    assert code == 0
    names = {Path(path).name for path in json.loads(written)["written"]}
    assert {"sekisho.conf", "site.crt.pem", "site.crl.pem", "line.nft.json"} <= names
    assert run("revoke", str(place), "hospital-a", "--reason", "key-compromise")[0] == 0
    assert run("peer", str(place), "gate-in", "--out", str(tmp_path / "no"))[0] == 3
    assert run("issue", str(place), "core-1", stdin=asked.encode())[0] == 3
    assert run("request", "../x")[0] == 3
