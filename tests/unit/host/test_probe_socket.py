"""The auditors' socket: missing is reported, an answering one is not woken by the question."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agentworld import Host, parsed
from sekisho.core.errors import SekishoError
from sekisho.host.agent.parts.listeners import ListenersPart
from sekisho.host.agent.parts.probe_socket import GRACE_S, MISSING, ProbeSocket, listened


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def place(host: Host, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = host.root / "run/sekisho-probe"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)  # the path of a unix socket has 107 bytes
    return folder / "socket"


def serving() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("socket")
    listener.listen(1)
    listener.setblocking(False)
    return listener


def test_a_socket_that_is_served_is_told_without_a_connection(place: Path) -> None:
    with serving() as listener:
        assert all(listened(place) for _ in range(100))
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("left", ["nothing", "a stale file", "a file", "a datagram socket", "link"])
def test_what_is_no_served_socket_is_missing(place: Path, left: str) -> None:
    if left == "a stale file":
        serving().close()
    elif left == "a file":
        place.touch()
    elif left == "a datagram socket":
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind("socket")
    elif left == "link":
        place.symlink_to("elsewhere")
    assert not listened(place)


def test_without_its_folder_it_is_missing_and_a_folder_that_is_none_cannot_be_told(
    host: Host,
) -> None:
    folder = host.root / "run/sekisho-probe"
    assert not listened(folder / "socket")
    folder.symlink_to(host.root)
    with pytest.raises(SekishoError, match="cannot be opened"):
        listened(folder / "socket")


def test_a_missing_socket_is_shown_at_once_journalled_after_a_minute_and_once(
    host: Host, place: Path
) -> None:
    part = ProbeSocket(host.book, host.paths)
    listener = serving()
    part.look()
    assert host.metrics.get("sekisho_probe_socket_missing") == 0
    listener.close()
    place.unlink()
    part.look()
    assert host.metrics.get("sekisho_probe_socket_missing") == 1
    assert host.journal.events == []
    for _ in range(3):
        host.now += GRACE_S
        part.look()
    assert host.journal.detections() == [MISSING]
    with serving():
        part.look()
    assert host.metrics.get("sekisho_probe_socket_missing") == 0
    assert host.journal.kinds() == ["agent.detection", "agent.probe-socket"]


def test_a_restart_of_the_socket_is_no_event(host: Host, place: Path) -> None:
    part = ProbeSocket(host.book, host.paths)
    for _ in range(5):
        host.now += GRACE_S
        with serving():
            part.look()
        place.unlink()
        part.look()
    assert host.journal.events == []


def test_it_is_looked_at_whatever_the_other_listeners_say(host: Host) -> None:
    part = ListenersPart(host.book, host.paths)
    part.look()  # without a policy
    assert host.metrics.get("sekisho_probe_socket_missing") == 1
    host.metrics.set("sekisho_probe_socket_missing", 0)
    part.policy(parsed())
    (host.paths.proc / "net").mkdir(parents=True)
    (host.paths.proc / "net/tcp").write_text("garbled\n")
    with pytest.raises(SekishoError):
        part.look()
    assert host.metrics.get("sekisho_probe_socket_missing") == 1
