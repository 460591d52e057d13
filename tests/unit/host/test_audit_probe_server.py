"""The probe service and the auditor's shell: names of probes and a nonce, and nothing else."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.core.build import tool_name
from sekisho.core.canonical import canonical, digest
from sekisho.core.keys import make_key
from sekisho.facts.answer import Answer, signed_well
from sekisho.facts.wire import (
    HEADER_BYTES,
    Request,
    WireError,
    body_length,
    decode_request,
    decode_response,
    encode_request,
)
from sekisho.host.probe import server as probe_server
from sekisho.local.facts_key import answer_for

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


@pytest.fixture
def host_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Give this machine a host key, as an enrolled host has; return its public half."""
    private, public = make_key()
    (tmp_path / "host.key.pem").write_bytes(private)
    signs = functools.partial(answer_for, key=tmp_path / "host.key.pem")
    monkeypatch.setattr(probe_server, "answer_for", signs)
    return public


@pytest.mark.process
def test_an_enrolled_host_signs_nonce_time_collector_and_facts(host_key: bytes) -> None:
    _, found = talk(encode_request(ASK))
    response = decode_response(found[HEADER_BYTES:], ASK)
    answer = response.answer
    assert answer is not None
    assert answer.at is not None
    assert answer.key == host_key.decode()
    assert abs(answer.at - time.time() * 1000) < 60_000
    assert signed_well(answer, response.collector, response.digest)
    assert response.collector == tool_name()
    for changed, collector, facts in (
        (replace(answer, nonce="cd" * 24), response.collector, response.digest),
        (replace(answer, at=answer.at + 1), response.collector, response.digest),
        (replace(answer, key=make_key()[1].decode()), response.collector, response.digest),
        (answer, "sekisho 9", response.digest),
        (answer, response.collector, "0" * 64),
    ):
        assert not signed_well(changed, collector, facts)


@pytest.mark.process
def test_a_host_without_a_key_answers_as_older_hosts_do() -> None:
    _, found = talk(encode_request(ASK))
    answer = decode_response(found[HEADER_BYTES:], ASK).answer
    assert answer == Answer(ASK.nonce)
    assert b"signature" not in zlib.decompress(found[HEADER_BYTES:])


@pytest.mark.parametrize("content", [b"", b"no key", make_key()[1]])
def test_what_is_no_key_signs_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "host.key.pem"
    path.write_bytes(content)
    assert answer_for("ab" * 32, "x", "y", key=path) == Answer("ab" * 32)
    assert answer_for("ab" * 32, "x", "y", key=tmp_path / "none") == Answer("ab" * 32)


@pytest.mark.parametrize(
    "odd",
    [
        {"signature": "zz"},
        {"signature": 5},
        {"signature": "ab" * 500},
        {"at": "now"},
        {"at": True},
        {"at": -1},
        {"at": 2**63},
        {"key": None},
        {"key": "x" * 5000},
        {"key": "\u00e9"},
    ],
)
def test_a_malformed_signature_is_refused(odd: dict[str, object]) -> None:
    fields: dict[str, object] = {"at": 1, "key": "k", "signature": "ab" * 50}
    raw: dict[str, object] = {"probes": {}}
    value = {"schema": 1, "nonce": ASK.nonce, "collector": "c", "digest": digest(raw), "raw": raw}
    assert decode_response(zlib.compress(canonical(value | fields)), ASK).answer is not None
    with pytest.raises(WireError, match="signature is malformed"):
        decode_response(zlib.compress(canonical(value | fields | odd)), ASK)


def test_the_tools_name_tells_builds_of_one_version_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.py").write_bytes(b"1\n")
    names = {tool_name(tmp_path)}
    tool_name.cache_clear()
    (tmp_path / "a/one.py").write_bytes(b"2\n")
    names.add(tool_name(tmp_path))
    tool_name.cache_clear()
    (tmp_path / "a/one.py").rename(tmp_path / "a/two.py")
    names.add(tool_name(tmp_path))
    assert len(names) == 3
    assert all(name.startswith("sekisho ") and len(name) < 80 for name in names)


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
