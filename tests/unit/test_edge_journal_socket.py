"""The intake: who may write what, and that a flood is refused and counted."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sekisho.edge.journal_socket import BURST, MAX_CLIENTS, JournalSocket, Peer, Rights
from sekisho.errors import SekishoError
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


def test_clients_beyond_the_limit_are_let_go_and_counted(desk: Desk) -> None:
    held = []
    for _ in range(MAX_CLIENTS):
        held.append(desk.connect())
        desk.intake.accept()
    assert len(desk.intake.clients) == MAX_CLIENTS
    assert desk.refused["clients"] == 1
    for client in held:
        client.close()


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
