"""A policy is taken only when everything about it is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentworld import STRANGER, policy, signed, signer_pem
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.host.policy_store import MAX_POLICY, Floor, PolicyStore, prove


def proven(data: bytes, signature: bytes | None = None, floor: Floor | None = None) -> Any:
    return prove(
        data,
        signed(data) if signature is None else signature,
        signer_pem(),
        host="core-1",
        floor=floor or Floor(),
    )


def test_a_signed_policy_of_this_host_is_taken() -> None:
    found = proven(canonical(policy()))
    assert (found.serial, found.value.role) == (5, "core")


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (policy(host="inbound-1"), "core-1, this host"),
        (policy(schema=2), "update the agent"),
        (policy(serial=0), "or newer"),
        (policy(serial=True), "serial: got true; expected a whole number"),
        (policy(nftables=[]), "nftables: got a list of 0; expected a mapping"),
        (
            {key: inner for key, inner in policy().items() if key != "accounts"},
            "accounts: got nothing",
        ),
    ],
)
def test_what_is_signed_but_wrong_is_refused_by_name(value: Any, word: str) -> None:
    with pytest.raises(SekishoError) as refused:
        proven(canonical(value))
    assert word in refused.value.diagnostics()


def test_unsigned_wrongly_signed_and_signed_by_a_stranger_are_refused() -> None:
    data = canonical(policy())
    for signature in (b"", b"x" * 100, signed(data + b" "), signed(data, STRANGER), b"x" * 300):
        with pytest.raises(SekishoError, match="refused"):
            proven(data, signature)


def test_a_signer_that_is_no_p384_key_is_refused() -> None:
    data = canonical(policy())
    for pem in (b"", b"-----BEGIN PUBLIC KEY-----\n", signer_pem()[:-40]):
        with pytest.raises(SekishoError):
            prove(data, signed(data), pem, host="core-1", floor=Floor())


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (json.dumps(policy()).encode(), "canonical"),
        (canonical(policy()) + b"\n", "canonical"),
        (canonical(policy())[:-30], "one JSON object"),
        (b'{"a":1,"a":1}', "twice"),
        (b'{"a":1.5}', "1.5, which has no canonical form"),
        (b"[]", "one JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 100_000, "one JSON object"),
        (b'"' + b"x" * MAX_POLICY + b'"', "at most"),
    ],
)
def test_bytes_that_are_not_the_canonical_form_are_refused_although_signed(
    data: bytes, word: str
) -> None:
    with pytest.raises(SekishoError) as refused:
        proven(data)
    assert word in refused.value.diagnostics()


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_a_clear_refusal(data: bytes) -> None:
    with pytest.raises(SekishoError):
        proven(data)


def test_an_older_policy_and_another_one_of_equal_serial_are_refused() -> None:
    data = canonical(policy(serial=7))
    digest = proven(data).digest
    assert proven(data, floor=Floor(7, digest)).serial == 7
    assert proven(data, floor=Floor(6, "0" * 64)).serial == 7
    for floor in (Floor(8, digest), Floor(7, "0" * 64)):
        with pytest.raises(SekishoError):
            proven(data, floor=floor)


def store(folder: Path, value: dict[str, Any]) -> PolicyStore:
    data = canonical(value)
    (folder / "policy.json").write_bytes(data)
    (folder / "policy.sig").write_bytes(signed(data))
    (folder / "policy-signer.pub.pem").write_bytes(signer_pem())
    return PolicyStore(folder / "policy.json", folder, host="core-1")


def test_what_was_accepted_is_the_floor_for_ever(tmp_path: Path) -> None:
    newer = store(tmp_path, policy(serial=9))
    newer.accept(newer.load())
    assert newer.floor().serial == 9
    with pytest.raises(SekishoError, match="refused"):
        store(tmp_path, policy(serial=8)).load()
    assert newer.load_copy("good").serial == 9


def test_a_garbled_record_of_the_newest_policy_is_an_error_not_a_fresh_start(
    tmp_path: Path,
) -> None:
    here = store(tmp_path, policy())
    for text in ("", "9", "9 abc\n", "-1 " + "0" * 64 + "\n", "9 " + "0" * 64):
        here.serial.write_text(text)
        with pytest.raises(SekishoError, match="accepted last"):
            here.load()


def test_a_kept_copy_that_was_changed_is_refused(tmp_path: Path) -> None:
    here = store(tmp_path, policy())
    here.accept(here.load())
    copy = tmp_path / "policy.good.json"
    copy.write_bytes(copy.read_bytes().replace(b'"core"', b'"gate"'))
    with pytest.raises(SekishoError, match="refused"):
        here.load_copy("good")


def test_a_file_that_is_missing_or_no_file_is_told(tmp_path: Path) -> None:
    here = store(tmp_path, policy())
    here.signature.unlink()
    with pytest.raises(SekishoError, match="cannot be read"):
        here.load()
    here.signature.mkdir()
    with pytest.raises(SekishoError, match="cannot be read"):
        here.load()
