"""The intake: who may write what, and that a flood is refused and counted."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sekisho.core.errors import SekishoError
from sekisho.host.journal import socket as journal_socket
from sekisho.host.journal.client import submit
from sekisho.host.journal.socket import (
    BURST,
    BYTES_BURST,
    CLIENTS_PER_USER,
    IDLE_S,
    JournalSocket,
    Peer,
    Rights,
)
from sekisho.journal.intake import Submission

UID = os.getuid()


class Desk:
    """An intake in a folder, with one client."""

    def __init__(self, folder: Path, rights: Rights) -> None:
        self.kept: list[tuple[Submission, Peer]] = []
        self.refused: Counter[str] = Counter()
        self.full = False
        self.intake = JournalSocket(
            folder / "j.sock",
            gid=os.getgid(),
            rights=rights,
            append=self._append,
            count_refused=lambda why: self.refused.update([why]),
        )
        self.client = self.connect()
        self.server = self.intake.accept()

    def _append(self, asked: Submission, peer: Peer) -> int:
        if self.full:
            raise SekishoError("the disk is full")
        self.kept.append((asked, peer))
        return len(self.kept)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(str(self.intake.path))
        client.settimeout(5)
        return client

    def ask(self, raw: bytes, now: float = 0.0) -> dict[str, object]:
        assert self.server is not None
        self.client.send(raw)
        assert self.intake.serve(self.server, now)
        return dict(json.loads(self.client.recv(65536)))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path, Rights({UID: ("transfer.",)} if UID else {}))
    yield found
    found.client.close()
    found.intake.close()


EVENT = b'{"data":{"file":"a"},"kind":"transfer.received"}'


def test_an_event_is_kept_under_the_name_the_kernel_gives_the_sender(desk: Desk) -> None:
    assert desk.ask(EVENT) == {"n": 1}
    asked, peer = desk.kept[0]
    assert (asked.kind, asked.data) == ("transfer.received", {"file": "a"})
    assert (peer.pid, peer.uid) == (os.getpid(), UID)


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b'{"kind":"x"}', b'{"data":{},"kind":"seal"}', b"\xff", b"x" * 70_000],
)
def test_a_garbled_event_is_refused_with_a_reason_and_counted(desk: Desk, raw: bytes) -> None:
    assert desk.ask(raw)["error"]
    assert desk.refused["event"] == 1
    assert not desk.kept


def test_a_full_disk_is_told_to_the_sender(desk: Desk) -> None:
    desk.full = True
    assert "full" in str(desk.ask(EVENT)["error"])


def test_a_flood_is_refused_until_time_has_passed(desk: Desk) -> None:
    for _ in range(int(BURST)):
        assert "n" in desk.ask(EVENT, now=10.0)
    assert "too many" in str(desk.ask(EVENT, now=10.0)["error"])
    assert desk.refused["rate"] == 1
    assert "n" in desk.ask(EVENT, now=11.0)


def test_who_has_all_its_places_loses_the_one_that_was_silent_longest(desk: Desk) -> None:
    held = []
    for second in range(1, CLIENTS_PER_USER + 1):
        held.append(desk.connect())
        desk.intake.accept(float(second))
    assert len(desk.intake.clients) == CLIENTS_PER_USER
    assert desk.refused["clients"] == 1
    assert desk.client.recv(1) == b""  # the first one
    held[0].send(EVENT)
    assert desk.intake.serve(next(iter(desk.intake.clients)), 50.0)
    for client in (*held, desk.client):
        client.close()


def test_a_silent_client_is_let_go_and_the_loop_forgets_it(desk: Desk) -> None:
    forgotten: list[socket.socket] = []
    desk.intake._forget = forgotten.append
    desk.intake.drop_idle(IDLE_S)
    assert desk.ask(EVENT, now=IDLE_S) == {"n": 1}
    desk.intake.drop_idle(2 * IDLE_S)
    assert forgotten == []
    desk.intake.drop_idle(2 * IDLE_S + 1)
    assert forgotten == [desk.server]
    assert desk.client.recv(1) == b""
    assert desk.intake.clients == {}


def test_a_flood_of_large_events_is_refused_by_its_bytes(desk: Desk) -> None:
    large = b'{"data":{"file":"%s"},"kind":"transfer.received"}' % (b"a" * 60_000)
    kept = 0
    while "n" in desk.ask(large, now=10.0):
        kept += 1
    assert kept == int(BYTES_BURST) // len(large)
    assert desk.refused["rate"] == 1
    assert "n" in desk.ask(large, now=11.0)


class Users:
    """An intake, and clients of users that are said to be at the other end."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: Counter[str] = Counter()
        self.kept: Counter[int] = Counter()
        self.next = 0
        monkeypatch.setattr(
            journal_socket, "peer_of", lambda _: Peer(1, self.next, self.next), raising=True
        )
        self.intake = JournalSocket(
            folder / "j.sock",
            gid=os.getgid(),
            rights=Rights({101: ("transfer.",), 102: ("transfer.",)}),
            append=self._append,
            count_refused=lambda why: self.refused.update([why]),
        )

    def _append(self, _: Submission, peer: Peer) -> int:
        self.kept[peer.uid] += 1
        return self.kept[peer.uid]

    def connect(self, uid: int, now: float) -> tuple[socket.socket, socket.socket | None]:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(str(self.intake.path))
        client.settimeout(5)
        self.next = uid
        return client, self.intake.accept(now)

    def submit(self, uid: int, now: float) -> bool:
        """Tell whether an event of ``uid`` is kept now, as `submit` would see it."""
        client, server = self.connect(uid, now)
        if server is None:
            return False
        client.send(EVENT)
        self.intake.serve(server, now)
        answer = json.loads(client.recv(65536))
        client.close()
        assert not self.intake.serve(server, now)
        self.intake.drop(server)
        return "n" in answer


@pytest.mark.parametrize("other", [0, 102])
@pytest.mark.parametrize("hostile", [101, 999])
def test_whatever_one_user_does_another_ones_event_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: int, other: int
) -> None:
    users = Users(tmp_path, monkeypatch)
    held: list[socket.socket] = []
    large = b'{"data":{"file":"%s"},"kind":"transfer.received"}' % (b"a" * 60_000)
    for now in range(60):
        for raw in (b"", EVENT, b"{", large):
            client, server = users.connect(hostile, float(now))
            held.append(client)
            if server is None:
                assert hostile == 999
                continue
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(40 if raw else 0):
                    client.send(raw)
            users.intake.serve(server, float(now))
        assert users.submit(other, float(now)), now
    assert users.kept[other] == 60
    assert len(users.intake.clients) <= CLIENTS_PER_USER
    assert (users.kept[hostile] > 0) == (hostile == 101)
    users.intake.close()
    for client in held:
        client.close()


@pytest.mark.parametrize("other", [0, 102])
def test_a_user_who_comes_again_and_again_takes_no_other_users_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    users = Users(tmp_path, monkeypatch)
    quiet, server = users.connect(other, 0.0)
    held = [users.connect(101, 1.0 + number / 10)[0] for number in range(200)]
    assert server in users.intake.clients
    quiet.send(EVENT)
    users.intake.serve(server, 25.0)
    assert json.loads(quiet.recv(65536)) == {"n": 1}
    users.intake.close()
    for client in (*held, quiet):
        client.close()


def test_an_event_waits_while_the_kernels_queue_of_connections_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_socket, "BACKLOG", 1)
    users = Users(tmp_path, monkeypatch)
    held = []
    with contextlib.suppress(BlockingIOError):
        for _ in range(10):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            client.setblocking(False)
            held.append(client)
            client.connect(str(users.intake.path))
    assert len(held) < 10

    def serve() -> None:
        for _ in range(len(held)):
            server = users.intake.accept(0.0)
            if server is not None and select.select([server], [], [], 0.3)[0]:
                users.intake.serve(server, 0.0)

    later = threading.Timer(0.3, serve)
    later.start()
    assert submit("transfer.received", {}, timeout=10.0, path=users.intake.path) == 1
    later.join()
    users.intake.close()
    for client in held:
        client.close()


@pytest.mark.process
@pytest.mark.skipif(UID != 0, reason="another user's process is started")
def test_a_user_who_takes_every_place_and_connects_without_end_does_not_stop_root() -> None:
    """The kernel's own queue of connections is full all the time, too."""
    folder = Path(tempfile.mkdtemp())
    stop = threading.Event()
    intake = JournalSocket(
        folder / "j.sock",
        gid=0,
        rights=Rights({65534: ("transfer.",)}),
        append=lambda *_: 7,
        count_refused=lambda _: None,
    )
    folder.chmod(0o755)
    intake.path.chmod(0o666)
    storm = (
        "import socket,sys\nheld=[]\n"
        "while True:\n"
        " s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n"
        " s.setblocking(False)\n"
        " try: s.connect(sys.argv[1])\n"
        " except OSError: continue\n"
        " held.append(s)\n"
        " if len(held)>500: held.pop(0).close()\n"
    )

    def serve() -> None:
        while not stop.is_set():
            ready, _, _ = select.select([intake, *intake.clients], [], [], 0.1)
            now = time.monotonic()
            for one in ready:
                if one is intake:
                    intake.accept(now)
                elif one in intake.clients and not intake.serve(one, now):
                    intake.drop(one)

    loop = threading.Thread(target=serve, daemon=True)
    loop.start()
    hostile = [
        subprocess.Popen([sys.executable, "-c", storm, str(intake.path)], user=65534)
        for _ in range(2)
    ]
    try:
        time.sleep(1.0)
        for _ in range(20):
            assert submit("transfer.received", {"file": "a"}, timeout=20.0, path=intake.path) == 7
    finally:
        for process in hostile:
            process.kill()
            process.wait()
        stop.set()
        loop.join(10)
        intake.close()
        shutil.rmtree(folder)


def test_a_client_that_left_is_noticed(desk: Desk) -> None:
    desk.client.close()
    assert desk.server is not None
    assert not desk.intake.serve(desk.server, 0.0)


def test_rights_are_by_user_and_root_alone_may_write_anything() -> None:
    rights = Rights({101: ("transfer.", "receive.")})
    assert rights.refusal(Peer(1, 101, 101), "transfer.received") is None
    for peer, kind in ((Peer(1, 101, 101), "probe.asked"), (Peer(1, 2001, 2001), "transfer.x")):
        assert str(peer.uid) in str(rights.refusal(peer, kind))
    assert rights.refusal(Peer(1, 0, 0), "anything") is None


def test_the_socket_is_for_root_and_its_group_only(desk: Desk) -> None:
    assert desk.intake.path.stat().st_mode & 0o777 == 0o660
