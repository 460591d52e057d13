"""A host's key is made once, on the host, and never replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sekisho.core.errors import SekishoError
from sekisho.host.enrol import enroll, load_key


def test_the_first_time_makes_a_key_that_only_root_reads(tmp_path: Path) -> None:
    found = enroll(tmp_path / "etc", host="core-1")
    key = tmp_path / "etc/host.key.pem"
    assert found["made"] is True
    assert key.stat().st_mode & 0o777 == 0o600
    request = x509.load_pem_x509_csr(str(found["csr"]).encode())
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == "CN=core-1"
    public = load_pem_public_key(str(found["journal_public_key"]).encode())
    assert public == request.public_key() == load_key(key).public_key()


def test_the_second_time_keeps_it(tmp_path: Path) -> None:
    first, again = enroll(tmp_path, host="core-1"), enroll(tmp_path, host="core-1")
    assert (first["fingerprint"], again["made"]) == (again["fingerprint"], False)
    assert "PRIVATE" not in str(again)


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key_is_an_error_and_is_not_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / "host.key.pem").write_text(text)
    with pytest.raises(SekishoError, match="no usable key"):
        enroll(tmp_path, host="core-1")
    assert (tmp_path / "host.key.pem").read_text() == text


@pytest.mark.process  # it makes a link
def test_a_dangling_link_in_the_keys_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "host.key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SekishoError):
        enroll(tmp_path, host="core-1")
    assert not (tmp_path / "elsewhere").exists()


def test_a_check_writes_nothing_and_tells_what_would_be_made_or_mended(tmp_path: Path) -> None:
    assert enroll(tmp_path / "etc", host="core-1", check=True)["made"] is True
    assert not (tmp_path / "etc").exists()
    enroll(tmp_path, host="core-1")
    (tmp_path / "host.key.pem").chmod(0o644)
    assert enroll(tmp_path, host="core-1", check=True)["mended"] is True
    assert (tmp_path / "host.key.pem").stat().st_mode & 0o777 == 0o644
    assert enroll(tmp_path, host="core-1")["mended"] is True
    assert enroll(tmp_path, host="core-1")["mended"] is False
