"""Waiting sockets are read from the kernel's tables, and nothing is skipped in silence."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.core.errors import SekishoError
from sekisho.host.listeners import Listener, listening, owners, parse

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
TAIL = " 00000000:00000000 00:00000000 00000000  2001        0 4711 1 0000000000000000 100 0"


def test_a_listening_socket_is_told_with_user_and_inode() -> None:
    text = HEAD + "   0: 0D004D0A:0016 00000000:0000 0A" + TAIL + "\n"
    assert parse("tcp", text) == [Listener("tcp", "10.77.0.13", 22, 2001, 4711)]


def test_a_connection_is_no_listener() -> None:
    assert parse("tcp", HEAD + "   0: 0D004D0A:0016 01004D0A:D431 01" + TAIL + "\n") == []


def test_a_bound_udp_socket_and_a_raw_socket_are_listeners() -> None:
    line = "   0: 00000000:0043 00000000:0000 07" + TAIL + "\n"
    assert parse("udp", HEAD + line)[0].name == "udp 0.0.0.0:67"
    assert parse("raw", HEAD + line)[0].proto == "raw"


def test_ipv6_and_ipv4_in_ipv6_are_written_as_people_write_them() -> None:
    any6 = "   0: 00000000000000000000000000000000:0016 " + "0" * 32 + ":0000 0A" + TAIL + "\n"
    mapped = "   1: 0000000000000000FFFF00000100007F:0050 " + "0" * 32 + ":0000 0A" + TAIL + "\n"
    assert [one.address for one in parse("tcp6", HEAD + any6 + mapped)] == ["::", "127.0.0.1"]


@given(st.text(max_size=200))
def test_a_garbled_table_is_an_error_or_empty_never_a_crash(text: str) -> None:
    with contextlib.suppress(SekishoError):
        assert parse("tcp", text) == []


def test_a_kernel_without_a_protocol_has_no_listeners_of_it(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(HEAD + "   0: 00000000:0016 00000000:0000 0A" + TAIL + "\n")
    assert [one.port for one in listening(tmp_path)] == [22]
    (tmp_path / "net/udp").write_text(HEAD + "garbled\n")
    with pytest.raises(SekishoError):
        listening(tmp_path)


@pytest.mark.process  # it makes links to names that are none
def test_the_holder_of_a_socket_is_found_and_others_are_left_out(tmp_path: Path) -> None:
    for pid, inode in ((12, 4711), (13, 4712)):
        (tmp_path / f"{pid}/fd").mkdir(parents=True)
        (tmp_path / f"{pid}/comm").write_text(f"program{pid}\n")
        os.symlink(f"socket:[{inode}]", tmp_path / f"{pid}/fd/3")
    (tmp_path / "self").mkdir()
    assert owners([4711, 9999, 0], tmp_path) == {4711: (12, "program12")}
