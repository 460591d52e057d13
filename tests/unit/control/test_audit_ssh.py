"""An audit over SSH against real servers on the loopback, honest and hostile."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import paramiko
import pytest
from hostile_host import honest, raw_host, real_answer, ssh_host

from sekisho.catalogue.facts import facts_from_raw
from sekisho.control.ssh.audit import Access, Reply, Target, ask, audit_hosts, load_key
from sekisho.control.ssh.pinned_keys import PinnedKeys, fingerprint, parse_pinned
from sekisho.core.canonical import canonical, digest
from sekisho.core.errors import SekishoError
from sekisho.facts.wire import MAX_RAW_BYTES, MAX_RESPONSE_BYTES

pytestmark = pytest.mark.process
PROBES = ("sysctl",)
PATIENT = 60.0  # where the deadline is not what is tried: a busy machine is slow


@pytest.fixture(scope="module")
def host_key() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


@pytest.fixture(scope="module")
def auditor_key() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


def pinned_to(key: paramiko.PKey, port: int) -> PinnedKeys:
    return parse_pinned(
        f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n".encode(), "known_hosts"
    )


def access(
    key: paramiko.PKey, host_key: paramiko.PKey, port: int, timeout: float = PATIENT
) -> Access:
    return Access(user="auditor", key=key, pinned=pinned_to(host_key, port), timeout=timeout)


def ask_raw(talk, auditor_key, host_key, timeout: float = PATIENT) -> Reply:
    with raw_host(talk) as port:
        return ask(
            Target("h", "127.0.0.1", port), PROBES, access(auditor_key, host_key, port, timeout)
        )


def ask_ssh(answer, auditor_key, host_key, timeout: float = PATIENT) -> Reply:
    with ssh_host(host_key, auditor_key, answer) as port:
        return ask(
            Target("h", "127.0.0.1", port), PROBES, access(auditor_key, host_key, port, timeout)
        )


def refused(reply: Reply) -> str:
    assert reply.response is None
    assert reply.reason
    return reply.reason


def frame(plain: bytes) -> bytes:
    packed = zlib.compress(plain)
    return b"SKP1" + struct.pack(">I", len(packed)) + packed


def test_an_honest_host_gives_facts_that_can_be_read(host_key, auditor_key) -> None:
    reply = ask_ssh(honest, auditor_key, host_key)
    assert reply.reason is None
    assert reply.fingerprint == fingerprint(host_key.asbytes())
    assert reply.response is not None
    fact = facts_from_raw(reply.response.raw, PROBES)["sysctl"]
    assert fact.error is None
    assert fact.value["runtime"]["kernel.ostype"] == "Linux"


def test_a_host_with_another_key_is_stopped_before_the_login(host_key, auditor_key) -> None:
    logins: list[bytes] = []

    def answer(_channel: paramiko.Channel, request: bytes) -> None:
        logins.append(request)

    other = paramiko.ECDSAKey.generate()
    with ssh_host(host_key, auditor_key, answer) as port:
        reply = ask(Target("h", "127.0.0.1", port), PROBES, access(auditor_key, other, port))
    assert "not the pinned one" in refused(reply)
    assert fingerprint(other.asbytes()) in refused(reply)
    assert not logins


def test_a_host_without_a_pinned_key_is_not_even_connected_to(auditor_key) -> None:
    connections: list[socket.socket] = []
    with raw_host(connections.append) as port:
        none = PinnedKeys(where="known_hosts", plain={}, hashed=())
        reply = ask(Target("h", "127.0.0.1", port), PROBES, Access("auditor", auditor_key, none, 5))
        time.sleep(0.2)
    assert "no host key is pinned for h" in refused(reply)
    assert not connections


def test_a_host_that_shows_only_a_key_type_that_is_not_pinned_is_stopped(
    host_key, auditor_key
) -> None:
    other = paramiko.RSAKey.generate(2048)
    with ssh_host(host_key, auditor_key, honest) as port:
        reply = ask(Target("h", "127.0.0.1", port), PROBES, access(auditor_key, other, port))
    assert "no pinned key type" in refused(reply)


def test_a_refused_login_is_said_so(host_key, auditor_key) -> None:
    with ssh_host(host_key, paramiko.ECDSAKey.generate(), honest) as port:
        reply = ask(Target("h", "127.0.0.1", port), PROBES, access(auditor_key, host_key, port))
    assert refused(reply) == "the host does not accept the auditor's key"


def test_nobody_listening_is_said_so(host_key, auditor_key) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reply = ask(Target("h", "127.0.0.1", port), PROBES, access(auditor_key, host_key, port))
    assert "cannot connect" in refused(reply)


def test_a_silent_host_is_given_up_at_its_deadline(host_key, auditor_key) -> None:
    started = time.monotonic()
    reply = ask_raw(lambda _connection: time.sleep(30), auditor_key, host_key, timeout=1.5)
    assert "within 1.5 s" in refused(reply)
    assert time.monotonic() - started < 20


def test_a_host_that_hangs_up_is_said_so(host_key, auditor_key) -> None:
    assert refused(ask_raw(lambda _connection: None, auditor_key, host_key))


@pytest.mark.parametrize(
    "junk", [b"\x00" * 4096, b"no\n" * 1000, os.urandom(4096)], ids=["zeros", "lines", "noise"]
)
def test_a_host_that_floods_before_its_banner_is_cut_off(host_key, auditor_key, junk) -> None:
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        while sent < 1 << 28:
            sent += connection.send(junk)

    started = time.monotonic()
    assert refused(ask_raw(flood, auditor_key, host_key))
    assert time.monotonic() - started < PATIENT - 15
    assert sent < 64 << 20  # what the kernel's buffers took, not what we read


def _replaced(**changes: object):
    def answer(channel: paramiko.Channel, request: bytes) -> None:
        body = zlib.decompress(real_answer(request)[8:])
        value = json.loads(body)
        channel.sendall(frame(canonical(value | changes)))

    return answer


def _bytes(data: bytes):
    return lambda channel, _request: channel.sendall(data)


def _cut(keep: float):
    def answer(channel: paramiko.Channel, request: bytes) -> None:
        whole = real_answer(request)
        channel.sendall(whole[: int(len(whole) * keep)])

    return answer


def _flipped(channel: paramiko.Channel, request: bytes) -> None:
    whole = bytearray(real_answer(request))
    whole[len(whole) // 2] ^= 0x20
    channel.sendall(bytes(whole))


def _longer(channel: paramiko.Channel, request: bytes) -> None:
    channel.sendall(real_answer(request) + b"\x00")


def _bomb(channel: paramiko.Channel, _request: bytes) -> None:
    channel.sendall(frame(b" " * (MAX_RAW_BYTES + 2)))


HOSTILE = {
    "nothing at all": (_bytes(b""), "cut after 0 bytes"),
    "half a header": (_bytes(b"SKP1\x00"), "cut after 5 bytes"),
    "a shell's greeting": (_bytes(b"Welcome to Debian!\n"), "not ours"),
    "an announced flood": (_bytes(b"SKP1\xff\xff\xff\xff"), "announces 4294967295 bytes"),
    "half an answer": (_cut(0.5), "was cut"),
    "an answer less one byte": (_cut(0.9999), "was cut"),
    "a flipped bit": (_flipped, ""),
    "a longer answer": (_longer, "something follows"),
    "a bomb": (_bomb, "unpacks to more than"),
    "no zlib": (_bytes(b"SKP1\x00\x00\x00\x04abcd"), "garbled"),
    "no JSON": (_bytes(frame(b"{")), "no JSON"),
    "deep JSON": (_bytes(frame(b"[" * 100_000)), "no JSON"),
    "NaN": (_bytes(frame(b'{"schema":NaN}')), "no JSON"),
    "a key twice": (_bytes(frame(b'{"schema":1,"schema":1}')), "twice"),
    "a list": (_bytes(frame(b"[]")), "not an object"),
    "another schema": (_replaced(schema=2), "schema 2"),
    "a replayed nonce": (_replaced(nonce="0" * 48), "another request"),
    "facts that do not fit their digest": (_replaced(raw={"schema": 1, "probes": {}}), "digest"),
    "facts nobody asked for": (
        _replaced(
            raw={"schema": 1, "probes": {"shadow": {}}},
            digest=digest({"schema": 1, "probes": {"shadow": {}}}),
        ),
        "not those that were asked for",
    ),
    "facts that are text": (_replaced(raw="fine"), "no facts"),
    "a refusal": (_bytes(frame(b'{"schema":1,"error":"\\u001b[2Jno"}')), "refused: \\x1b[2Jno"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_is_an_error_with_its_reason(name, host_key, auditor_key) -> None:
    answer, said = HOSTILE[name]
    assert said in refused(ask_ssh(answer, auditor_key, host_key))


def test_a_dripping_host_is_given_up_at_its_deadline(host_key, auditor_key) -> None:
    def drip(channel: paramiko.Channel, request: bytes) -> None:
        for byte in real_answer(request):
            channel.sendall(bytes([byte]))
            time.sleep(0.1)

    started = time.monotonic()
    assert "within 3 s" in refused(ask_ssh(drip, auditor_key, host_key, timeout=3))
    assert time.monotonic() - started < 20


def test_an_endless_answer_is_not_read_to_its_end(host_key, auditor_key) -> None:
    def endless(channel: paramiko.Channel, _request: bytes) -> None:
        channel.sendall(b"SKP1" + struct.pack(">I", MAX_RESPONSE_BYTES))
        while True:
            channel.sendall(b"\x00" * 65536)

    assert refused(ask_ssh(endless, auditor_key, host_key))


def test_bad_hosts_do_not_stop_the_good_ones_and_keep_their_order(host_key, auditor_key) -> None:
    done: list[str] = []
    with (
        raw_host(lambda _connection: time.sleep(30)) as silent,
        ssh_host(host_key, auditor_key, honest) as good,
        ssh_host(host_key, auditor_key, _flipped) as bad,
    ):
        ports = {"silent": silent, "good": good, "bad": bad}
        text = "".join(
            f"[127.0.0.1]:{port} {host_key.get_name()} {host_key.get_base64()}\n"
            for port in ports.values()
        )
        replies = audit_hosts(
            [Target(name, "127.0.0.1", port) for name, port in ports.items()],
            PROBES,
            Access("auditor", auditor_key, parse_pinned(text.encode(), "known_hosts"), 6),
            done=lambda reply: done.append(reply.target.name),
        )
    assert [reply.target.name for reply in replies] == ["silent", "good", "bad"]
    assert [reply.response is not None for reply in replies] == [False, True, False]
    assert sorted(done) == ["bad", "good", "silent"]


def test_no_thread_of_a_finished_audit_stays(host_key, auditor_key) -> None:
    before = {thread for thread in threading.enumerate() if thread.daemon}
    ask_ssh(honest, auditor_key, host_key)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        left = [
            thread
            for thread in threading.enumerate()
            if thread not in before and isinstance(thread, paramiko.Transport | threading.Timer)
        ]
        if not left:
            return
        time.sleep(0.05)
    pytest.fail(f"still running: {left}")


def test_an_auditors_key_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for content in (b"", b"not a key", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"):
        path = tmp_path / "key"
        path.write_bytes(content)
        with pytest.raises(SekishoError, match="auditor's key"):
            load_key(path)
    with pytest.raises(SekishoError, match="auditor's key"):
        load_key(tmp_path / "missing")
