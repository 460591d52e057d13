"""Keys, serials, signatures and certificates: what goes out to hosts, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
import stat
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sekisho.cli.main import main
from sekisho.control.cli import flows_input
from sekisho.control.inventory.files import render
from sekisho.control.inventory.read import read_inventory
from sekisho.control.pki.authority import Pki
from sekisho.control.pki.certificates import fits, make_host_certificate, read_request
from sekisho.core.errors import SekishoError
from sekisho.host.policy_store import Floor, prove
from sekisho.site.parse import parse_site
from siteworld import ROOT, approval_pem, public_key

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    place = tmp_path / "lab"
    shutil.copytree(ROOT / "inventory" / "lab", place, ignore=shutil.ignore_patterns("keys", "pki"))
    (place / "keys").mkdir()
    for index, name in enumerate(("aoki", "baba", "chiba", "auditor")):
        (place / "keys" / f"{name}.pub").write_text(public_key(index) + "\n", encoding="utf-8")
        (place / "keys" / f"{name}-approval.pub").write_text(approval_pem(index), encoding="utf-8")
    return place


@pytest.fixture
def keyed(inventory: Path) -> Path:
    Pki(inventory).make("lab", now=NOW)
    return inventory


def write(inventory: Path, out: Path, *hosts: str, now: datetime = NOW) -> dict[str, int]:
    site = parse_site(read_inventory(inventory))
    signed = render(site, inventory, hosts, out, now=now)
    return {str(entry.value.host): entry.serial for entry in signed}


def test_keys_are_made_once_and_are_the_owners_alone(inventory: Path) -> None:
    pki = Pki(inventory)
    assert pki.make("lab", now=NOW) == [
        "policy.key.pem",
        "policy.pub.pem",
        "ca.key.pem",
        "ca.crt.pem",
    ]
    before = {path.name: path.read_bytes() for path in pki.folder.iterdir()}
    assert pki.make("lab", now=NOW) == []
    assert {path.name: path.read_bytes() for path in pki.folder.iterdir()} == before
    for name in ("policy.key.pem", "ca.key.pem"):
        assert stat.S_IMODE((pki.folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(pki.folder.stat().st_mode) == 0o700


def test_a_key_open_to_others_is_refused(keyed: Path) -> None:
    (keyed / "pki" / "policy.key.pem").chmod(0o640)
    with pytest.raises(SekishoError, match="open to others"):
        Pki(keyed).policy_key()


def test_a_rendered_policy_is_accepted_by_the_agents_own_reader(
    keyed: Path, tmp_path: Path
) -> None:
    write(keyed, tmp_path / "out")
    for host in ("core-1", "gate-in", "monitor-1"):
        folder = tmp_path / "out" / host
        policy = prove(
            (folder / "policy.json").read_bytes(),
            (folder / "policy.sig").read_bytes(),
            (folder / "policy-signer.pub.pem").read_bytes(),
            host=host,
            floor=Floor(),
        )
        assert policy.serial == 1
        assert json.loads((folder / "nftables.json").read_text()) == policy.value.nftables.value()


def test_a_serial_grows_when_the_content_changes_and_only_then(keyed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = write(keyed, out)
    assert set(first.values()) == {1}
    bytes_before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    later = NOW + timedelta(days=3)
    assert write(keyed, out, now=later) == first
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == bytes_before
    core = keyed / "host_vars" / "core-1.yml"
    core.write_text(core.read_text().replace("SEKISHO-KBD-1", "SEKISHO-KBD-2"))
    second = write(keyed, out, now=later)
    assert second["core-1"] == 2
    assert second["inbound-1"] == 1
    assert json.loads((out / "core-1" / "policy.json").read_text())["issued"] == (
        "2026-11-25T03:00:00Z"
    )


def test_going_back_to_old_content_gets_a_new_serial(keyed: Path, tmp_path: Path) -> None:
    core = keyed / "host_vars" / "core-1.yml"
    text = core.read_text()
    write(keyed, tmp_path / "out", "core-1")
    core.write_text(text.replace("SEKISHO-KBD-1", "SEKISHO-KBD-2"))
    write(keyed, tmp_path / "out", "core-1")
    core.write_text(text)
    assert write(keyed, tmp_path / "out", "core-1") == {"core-1": 3}


def test_a_new_policy_key_signs_anew(keyed: Path, tmp_path: Path) -> None:
    write(keyed, tmp_path / "out", "core-1")
    for name in ("policy.key.pem", "policy.pub.pem"):
        (keyed / "pki" / name).unlink()
    Pki(keyed).make("lab", now=NOW)
    assert write(keyed, tmp_path / "out", "core-1") == {"core-1": 2}
    folder = tmp_path / "out" / "core-1"
    public = load_pem_public_key((folder / "policy-signer.pub.pem").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    data, signature = (folder / "policy.json").read_bytes(), (folder / "policy.sig").read_bytes()
    assert fits(public, data, signature)
    assert not fits(public, data + b" ", signature)


@pytest.mark.parametrize("damage", ["", "[]", '{"core-1": 1}', '{"core-1": {"serial": 0}}'])
def test_a_damaged_record_of_serials_stops_everything(
    keyed: Path, tmp_path: Path, damage: str
) -> None:
    (keyed / "pki" / "serials.json").write_text(damage)
    with pytest.raises(SekishoError, match="serials is damaged"):
        write(keyed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_keys_and_for_unknown_hosts_nothing_is_written(
    inventory: Path, tmp_path: Path
) -> None:
    with pytest.raises(SekishoError, match="no keys yet"):
        write(inventory, tmp_path / "out")
    with pytest.raises(SekishoError, match="cannot render"):
        write(inventory, tmp_path / "out", "core-9")
    assert not (tmp_path / "out").exists()


# -- certificates ----------------------------------------------------------------------------


def request(name: str, curve: ec.EllipticCurve | None = None, *, wishes: bool = False) -> bytes:
    key = ec.generate_private_key(curve or ec.SECP384R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    if wishes:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName("monitor-1")]), critical=False
        )
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
    return builder.sign(key, SHA384()).public_bytes(Encoding.PEM)


def test_a_certificate_says_what_the_site_says_not_what_was_wished(keyed: Path) -> None:
    authority, key = Pki(keyed).authority()
    certificate = make_host_certificate(
        authority,
        key,
        read_request(request("core-1", wishes=True), host="core-1"),
        host="core-1",
        address=ip_address("10.77.0.13"),
        now=NOW,
        number=7,
    )
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["core-1"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("10.77.0.13")]
    limits = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not limits.ca
    uses = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert uses == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


@pytest.mark.parametrize(
    ("pem", "got"),
    [
        (request("gate-in"), "gate-in"),
        (request("core-1", ec.SECP256R1()), "another kind of key"),
        (b"", "PEM"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", ""),
        (b"x" * 20_000, "more than"),
    ],
)
def test_another_hosts_a_weak_or_a_garbled_request_is_refused(pem: bytes, got: str) -> None:
    with pytest.raises(SekishoError, match="was refused") as failure:
        read_request(pem, host="core-1")
    assert got in failure.value.problems[0].got


def test_a_request_signed_by_somebody_else_is_refused() -> None:
    good = x509.load_pem_x509_csr(request("core-1")).public_bytes(Encoding.DER)
    bad = bytearray(good)
    bad[-1] ^= 1
    try:
        pem = x509.load_der_x509_csr(bytes(bad)).public_bytes(Encoding.PEM)
    except ValueError:
        return  # the flip broke the signature's form: refused even earlier
    with pytest.raises(SekishoError):
        read_request(pem, host="core-1")


# -- the command -----------------------------------------------------------------------------


def test_the_command_checks_makes_keys_renders_and_enrolls(
    inventory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert main(["site", "check", str(inventory), "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["machines"] == 7
    assert {one["outcome"] for one in checked["proof"]} == {"proven"}
    assert "6-iv-d-2.no-payload-leaves" in {one["law"] for one in checked["proof"]}
    assert main(["site", "keys", str(inventory), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["made"]) == 4
    out = tmp_path / "out"
    assert main(["site", "render", str(inventory), "core-1", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"core-1": {"serial": 1, "changed": True}}
    assert main(["site", "show", str(inventory), "--svg", str(tmp_path / "a.svg")]) == 0
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    capsys.readouterr()
    answer = json.dumps({"csr": request("core-1").decode()}).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(answer)))
    assert main(["site", "accept", str(inventory), "core-1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert x509.load_pem_x509_certificate(told["certificate"].encode())
    assert len(told["paths"]) == 3


def test_a_site_whose_rules_break_a_law_or_cannot_be_read_is_not_green(
    inventory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rules, code, told in (({"nftables": []}, 1, "REFUTED"), ({}, 2, "ERROR")):
        monkeypatch.setattr(
            flows_input, "compiled", lambda _site, _hosts, rules=rules: {"gate-in": rules}
        )
        assert main(["site", "check", str(inventory)]) == code
        assert told in capsys.readouterr().out


def test_without_a_solver_the_check_says_so_and_is_not_green_unless_the_proof_is_left_out(
    inventory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows_input, "solver", lambda: None)
    assert main(["site", "check", str(inventory)]) == 3
    assert "--no-prove" in capsys.readouterr().err
    assert main(["site", "check", str(inventory), "--no-prove"]) == 0
    assert "not proven" in capsys.readouterr().out
    assert main(["site", "check", str(inventory), "--no-prove", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["proof"] is None


def test_the_command_says_what_is_wrong_and_leaves_with_3(
    inventory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = inventory / "host_vars" / "core-1.yml"
    core.write_text(core.read_text().replace("LAB-0013", "LAB-0012"))
    assert main(["site", "check", str(inventory)]) == 3
    said = capsys.readouterr().err
    assert "identity.serial" in said
    assert "[6-iii-a]" in said
    assert main(["site", "check", str(inventory), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["problems"][0]["item"] == "6-iii-a"
