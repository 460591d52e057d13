"""systemd hears of the service, and nobody is disturbed when there is no systemd."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sekisho.host.sdnotify import Notifier


@pytest.mark.process
def test_fields_arrive_at_systemds_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "60000000"})
        assert notifier.send(READY="1", STATUS="policy 5")
        assert systemd.recv(100) == b"READY=1\nSTATUS=policy 5"
        assert notifier.interval_s == 30.0


def test_without_systemd_nothing_is_sent_and_no_watchdog_is_fed(tmp_path: Path) -> None:
    assert not Notifier({}).send(READY="1")
    assert Notifier({}).interval_s is None
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).interval_s is None
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send(READY="1")
