"""Pinned host keys: one host, one key of a kind, and nothing that means "any"."""

from __future__ import annotations

import base64
import contextlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.control.ssh.pinned_keys import fingerprint, parse_pinned, read_pinned
from sekisho.core.errors import SekishoError


def key(number: int, kind: str = "ssh-ed25519") -> bytes:
    return len(kind).to_bytes(4, "big") + kind.encode() + bytes([number]) * 36


def line(names: str, number: int, kind: str = "ssh-ed25519") -> str:
    return f"{names} {kind} {base64.b64encode(key(number, kind)).decode()} comment\n"


def test_a_host_is_found_by_name_address_and_port() -> None:
    text = line("core-1,10.77.0.13", 1) + line("[10.77.0.13]:2222", 2)
    pinned = parse_pinned(text.encode(), "x")
    assert pinned.keys_of("core-1", "192.0.2.1", 22) == {"ssh-ed25519": key(1)}
    assert pinned.keys_of("other", "10.77.0.13", 22) == {"ssh-ed25519": key(1)}
    assert pinned.keys_of("other", "10.77.0.13", 2222) == {"ssh-ed25519": key(2)}
    assert pinned.keys_of("other", "10.77.0.14", 22) == {}


def test_a_hashed_name_is_found() -> None:
    salt = b"s" * 20
    told = hmac.digest(salt, b"10.77.0.13", "sha1")
    name = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(told).decode()}"
    pinned = parse_pinned(line(name, 7).encode(), "x")
    assert pinned.keys_of("core-1", "10.77.0.13", 22) == {"ssh-ed25519": key(7)}
    assert pinned.keys_of("core-1", "10.77.0.14", 22) == {}


@pytest.mark.parametrize(
    "text",
    [
        line("*", 1),
        line("10.77.0.*", 1),
        line("!core-1", 1),
        line("core-1", 1) + line("core-1", 2),
        "@cert-authority " + line("core-1", 1),
        "@revoked " + line("core-1", 1),
        "core-1 ssh-ed25519\n",
        "core-1 ssh-ed25519 ????\n",
        "core-1 ssh-rsa " + line("x", 1).split()[2] + "\n",
        line("|1|a|?", 1),
    ],
)
def test_a_line_that_pins_no_one_key_is_refused_with_its_number(text: str) -> None:
    with pytest.raises(SekishoError) as wrong:
        parse_pinned(b"# pins\n" + text.encode(), "known_hosts")
    assert wrong.value.problems[0].where.startswith("known_hosts:")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_pins_or_an_error(data: bytes) -> None:
    with contextlib.suppress(SekishoError):
        assert parse_pinned(data, "x").where == "x"


def test_a_missing_file_says_where_pins_come_from(tmp_path: Path) -> None:
    with pytest.raises(SekishoError) as wrong:
        read_pinned(tmp_path / "known_hosts")
    assert "consoles" in wrong.value.diagnostics()


def test_a_fingerprint_is_written_as_ssh_keygen_writes_it() -> None:
    assert fingerprint(key(1)).startswith("SHA256:")
    assert "=" not in fingerprint(key(1))
