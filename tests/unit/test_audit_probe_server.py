"""The probe service and the auditor's shell: names of probes and a nonce, and nothing else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.edge import probe_server
from sekisho.evidence.wire import (
    HEADER_BYTES,
    Request,
    WireError,
    body_length,
    decode_request,
    decode_response,
    encode_request,
)

ASK = Request(nonce="ab" * 24, probes=("sysctl",))


def talk(data: bytes, *, end: bool = True) -> tuple[int, bytes]:
    near, far = socket.socketpair()
    code: list[int] = []
    with near, far:
        near.settimeout(30)
        thread = threading.Thread(target=lambda: code.append(probe_server.serve(far)))
        thread.start()
        near.sendall(data)
        if end:
            near.shutdown(socket.SHUT_WR)
        found = b""
        while chunk := near.recv(65536):
            found += chunk
        thread.join()
    return code[0], found


@pytest.mark.process
def test_a_request_is_answered_with_facts_and_its_nonce() -> None:
    code, found = talk(encode_request(ASK))
    assert code == 0
    assert len(found) == HEADER_BYTES + body_length(found[:HEADER_BYTES])
    response = decode_response(found[HEADER_BYTES:], ASK)
    assert set(response.raw["probes"]) == {"sysctl"}


REFUSED = {
    "nothing": b"",
    "no JSON": b"probe sysctl\n",
    "a list": b"[]",
    "no nonce": b'{"schema":1,"probes":["sysctl"]}',
    "a short nonce": b'{"schema":1,"probes":["sysctl"],"nonce":"ab"}',
    "a nonce with more": b'{"schema":1,"probes":["sysctl"],"nonce":"' + b"ab" * 24 + b'\\n"}',
    "an unknown probe": b'{"schema":1,"probes":["shadow"],"nonce":"' + b"ab" * 24 + b'"}',
    "a path": b'{"schema":1,"probes":["../sysctl"],"nonce":"' + b"ab" * 24 + b'"}',
    "an argument": b'{"schema":1,"probes":[["sysctl","-w"]],"nonce":"' + b"ab" * 24 + b'"}',
    "no probe": b'{"schema":1,"probes":[],"nonce":"' + b"ab" * 24 + b'"}',
    "a probe twice": b'{"schema":1,"probes":["sysctl","sysctl"],"nonce":"' + b"ab" * 24 + b'"}',
    "an extra key": b'{"schema":1,"probes":["sysctl"],"argv":["id"],"nonce":"' + b"ab" * 24 + b'"}',
    "a float": b'{"schema":1.0,"probes":["sysctl"],"nonce":"' + b"ab" * 24 + b'"}',
    "too much": b" " * (65 * 1024),
    "bytes": b"\xff\x00\xfe",
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_and_said_so(name: str) -> None:
    code, found = talk(REFUSED[name])
    assert code == 1
    with pytest.raises(WireError, match="the host refused"):
        decode_response(found[HEADER_BYTES:], ASK)


def test_a_client_that_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_server, "REQUEST_SECONDS", 0.3)
    started = time.monotonic()
    code, _ = talk(b'{"schema":1', end=False)
    assert code == 1
    assert time.monotonic() - started < 8, "the server's own time is 10 s, this test's 0.3"


def test_a_client_that_goes_away_hurts_nobody() -> None:
    near, far = socket.socketpair()
    near.sendall(b"x")
    near.close()
    with far:
        assert probe_server.serve(far) == 1


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_request(data, frozenset({"sysctl"}))


@given(st.text(), st.lists(st.text(), max_size=4))
def test_any_names_are_known_ones_or_refused(nonce: str, names: list[str]) -> None:
    data = json.dumps({"schema": 1, "nonce": nonce, "probes": names}).encode()
    try:
        request = decode_request(data, frozenset({"sysctl"}))
    except WireError:
        return
    assert request.probes == ("sysctl",)


@pytest.fixture
def shell(repository: Path, tmp_path: Path) -> Path:
    """Return the auditor's shell with its socket moved into the test's folder."""
    text = (repository / "agent/helpers/auditor-shell").read_text(encoding="utf-8")
    moved = text.replace('"/run/sekisho-probe/socket"', repr(str(tmp_path / "probe.sock")))
    assert moved != text
    path = tmp_path / "auditor-shell"
    path.write_text(moved, encoding="utf-8")
    path.chmod(0o755)
    return path


def call(
    shell: Path, *words: str, wish: str | None = "sekisho-probe 1", data: bytes = b"x", **more: str
) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], **more}
    if wish is not None:
        environment["SSH_ORIGINAL_COMMAND"] = wish
    return subprocess.run(
        [str(shell), *words], input=data, env=environment, capture_output=True, timeout=30,
        check=False,
    )  # fmt: skip


@pytest.mark.process
@pytest.mark.parametrize("words", [(), ("-c", "/usr/lib/sekisho/auditor-shell")])
def test_the_shell_carries_a_request_to_the_service(
    shell: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "probe.sock"))
        listener.listen(1)

        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                probe_server.serve(connection)

        thread = threading.Thread(target=once)
        thread.start()
        done = call(shell, *words, data=encode_request(ASK))
        thread.join()
    assert done.returncode == 0, done.stderr
    assert set(decode_response(done.stdout[HEADER_BYTES:], ASK).raw["probes"]) == {"sysctl"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "wish", "more"),
    [
        ((), None, {}),
        ((), "", {}),
        ((), "id", {}),
        ((), "sekisho-probe 1; id", {}),
        ((), "scp -t /tmp", {}),
        ((), "/usr/lib/openssh/sftp-server", {}),
        (("-c", "id"), "sekisho-probe 1", {}),
        (("-l",), "sekisho-probe 1", {}),
        (("-c", "/usr/lib/sekisho/auditor-shell", "x"), "sekisho-probe 1", {}),
        ((), "sekisho-probe 1", {"SSH_TTY": "/dev/pts/1"}),
    ],
)
def test_the_shell_refuses_every_other_wish(
    shell: Path, words: tuple[str, ...], wish: str | None, more: dict[str, str]
) -> None:
    done = call(shell, *words, wish=wish, **more)
    assert done.returncode == 3
    assert done.stdout == b""
    assert b"only answers" in done.stderr


@pytest.mark.process
def test_the_shell_refuses_a_flood_and_says_when_nobody_answers(shell: Path) -> None:
    assert call(shell, data=b"x" * (65 * 1024)).returncode == 3
    done = call(shell)
    assert done.returncode == 1
    assert b"does not answer" in done.stderr


def test_the_shell_holds_no_privilege_and_reads_no_module_path(repository: Path) -> None:
    path = repository / "agent/helpers/auditor-shell"
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/python3 -I\n")
    assert path.stat().st_mode & 0o7777 == 0o755
