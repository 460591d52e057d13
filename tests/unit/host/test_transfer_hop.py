"""Sender and receiver over real TCP: what each end of a connection means, and interruptions."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sekisho.cli.main import main
from sekisho.core.errors import SekishoError
from sekisho.host.transfer.main import Receiver, plan_of_policy, plan_of_words
from sekisho.host.transfer.receive import Pace
from sekisho.host.transfer.send import Outcome, Target, send_bytes, send_span
from sekisho.host.transfer.store import Store
from sekisho.transfer.header import Header
from siteworld import host_policy

pytestmark = pytest.mark.process
AGENT = Path(__file__).resolve().parents[3] / "agent"
HEADER = Header("manifest", "0" * 32, 0, 4, "0" * 64)


@contextmanager
def receiving(store: Store, peers: list[str], pace: Pace | None = None) -> Iterator[int]:
    receiver = Receiver(plan_of_words("127.0.0.1", 0, peers, None), store, lambda *_: 1, pace=pace)
    receiver.open()
    thread = threading.Thread(target=receiver.run, daemon=True)
    thread.start()
    try:
        yield receiver.ports[0]
    finally:
        receiver.stop()
        thread.join(10)


def source(tmp_path: Path, size: int = 3_000_000) -> Path:
    root = tmp_path / "src"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"hello")
    (root / "sub/big").write_bytes(os.urandom(size))
    (root / "empty").touch()
    return root


def same(one: Path, other: Path) -> bool:
    left = {path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()}
    right = {
        path.relative_to(other): path.read_bytes() for path in other.rglob("*") if path.is_file()
    }
    return left == right


def send(root: Path, port: int, state: Path, *more: str) -> int:
    words = ["send", str(root), "--to", "right", "--address", "127.0.0.1", "--from", "left"]
    return main([*words, "--port", str(port), "--state", str(state), "--tries", "1", *more])


def test_a_directory_goes_through_and_the_sender_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = source(tmp_path, 20_000_000)
    with receiving(Store(tmp_path / "store", lambda *_: 1), ["127.0.0.1"]) as port:
        assert send(root, port, tmp_path / "state", "--json", "--part-mib", "6") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["files"], told["parts_sent"]) == ("stored", 3, 5)
    assert same(root, tmp_path / "store/complete" / told["delivery"])


def test_a_receiver_rests_after_a_delivery(tmp_path: Path) -> None:
    receiver = Receiver(
        plan_of_words("127.0.0.1", 0, ["127.0.0.1"], None), Store(tmp_path / "s", lambda *_: 1),
        lambda *_: 1,
    )  # fmt: skip
    receiver.open()
    told: list[float] = []
    thread = threading.Thread(
        target=receiver.run, kwargs={"alive": lambda: told.append(time.monotonic())}, daemon=True
    )
    thread.start()
    try:
        assert send(source(tmp_path), receiver.ports[0], tmp_path / "state") == 0
        assert receiver.completed.wait(10)
        clock = time.pthread_getcpuclockid(thread.ident or 0)
        time.sleep(0.2)
        before = time.clock_gettime(clock)
        time.sleep(1)
        assert time.clock_gettime(clock) - before < 0.2  # it spun once: its own wake-up unread
        assert len(told) <= 2
    finally:
        receiver.stop()
        thread.join(10)


def test_a_refusal_is_a_reset_and_exit_code_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = source(tmp_path)
    with receiving(Store(tmp_path / "store", lambda *_: 1, name="else"), ["127.0.0.1"]) as port:
        assert send(root, port, tmp_path / "state") == 1
    assert "refused 拒否" in capsys.readouterr().out
    assert list((tmp_path / "store/complete").iterdir()) == []


def test_an_undeclared_address_is_reset(tmp_path: Path) -> None:
    root = source(tmp_path)
    with receiving(Store(tmp_path / "store", lambda *_: 1), ["127.0.0.77"]) as port:
        assert send(root, port, tmp_path / "state") == 1


def test_a_receiver_that_is_not_there_is_not_known(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert send(source(tmp_path), unused.getsockname()[1], tmp_path / "state") == 2


@contextmanager
def answering(how: str) -> Iterator[Target]:
    """Stand for a receiver that reads everything and then ends the connection in its own way."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        done = threading.Event()

        def run() -> None:
            link, _ = listener.accept()
            with link:
                while link.recv(65536):
                    pass
                if how == "reset":
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                elif how == "talk":
                    link.sendall(b"no")
                elif how == "silence":
                    done.wait(5)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield Target("127.0.0.1", listener.getsockname()[1], stall_seconds=1.0)
        finally:
            done.set()
            thread.join(10)


@pytest.mark.parametrize(
    ("how", "outcome"),
    [("close", Outcome.STORED), ("reset", Outcome.REFUSED), ("talk", Outcome.REFUSED)],
)
def test_how_the_connection_ends_is_the_answer(how: str, outcome: Outcome) -> None:
    with answering(how) as target:
        result = send_bytes(target, HEADER, b"data")
    assert result.outcome is outcome
    assert ("sent bytes back" in result.why) == (how == "talk")


def test_silence_is_not_taken_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "answer_seconds", lambda *_: 0.3)
    with answering("silence") as target:
        assert send_bytes(target, HEADER, b"data").outcome is Outcome.UNKNOWN


def test_a_receiver_that_stops_reading_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(64 * 1024 * 1024))
    header = Header("part", "0" * 32, 0, big.stat().st_size, "0" * 64)
    with socket.socket() as listener, big.open("rb") as stream:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        target = Target("127.0.0.1", listener.getsockname()[1], stall_seconds=1.0)
        begin = time.monotonic()
        result = send_span(target, header, stream.fileno(), 0, lambda _: None)
    assert result.outcome is Outcome.UNKNOWN
    assert time.monotonic() - begin < 30


def test_a_sender_that_forgot_sends_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part the receiver holds is answered before its bytes are through."""
    root = source(tmp_path, 60_000_000)
    with receiving(Store(tmp_path / "store", lambda *_: 1), ["127.0.0.1"]) as port:
        with socket.socket() as unused:  # begin the delivery, reach nobody
            unused.bind(("127.0.0.1", 0))
            assert send(root, unused.getsockname()[1], tmp_path / "state") == 2
        folder = next(path for path in (tmp_path / "state").iterdir() if path.is_dir())
        kept = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert send(root, port, tmp_path / "state") == 0
        folder.mkdir()
        for name, raw in kept.items():
            (folder / name).write_bytes(raw)
        capsys.readouterr()
        assert send(root, port, tmp_path / "state", "--json") == 0
        told = json.loads(capsys.readouterr().out)
    assert told["resumed"] is True
    assert told["bytes_sent"] < 60_000_000


def receive_words(port: int, store: Path) -> list[str]:
    words = [sys.executable, "-m", "sekisho.cli.main", "receive", "--listen", "127.0.0.1"]
    words += ["--port", str(port), "--store", str(store), "--peer", "left=127.0.0.1"]
    return [*words, "--name", "right", "--no-journal"]


def start_receiver(port: int, store: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            receive_words(port, store),
            stderr=stream,
            env={**os.environ, "PYTHONPATH": str(AGENT)},
        )
    for _ in range(400):
        if b"listening" in log.read_bytes():
            return process
        time.sleep(0.02)
    process.kill()
    process.wait()
    pytest.fail(f"the receiver does not listen: {log.read_text()}")


def test_a_receiver_killed_at_any_moment_never_looks_like_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = source(tmp_path, 40_000_000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = tmp_path / "store"
    codes = []
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        process = start_receiver(port, store, tmp_path / "log")
        killer = threading.Timer(delay, process.send_signal, (signal.SIGKILL,))
        killer.start()
        codes.append(send(root, port, tmp_path / "state", "--part-mib", "2"))
        killer.join()
        process.wait()
        done = list((store / "complete").iterdir())
        if codes[-1] == 0:
            assert same(root, done[0])
            break
        assert done == [] or same(root, done[0])  # whole or absent
    process = start_receiver(port, store, tmp_path / "log")
    try:
        if codes[-1] != 0:
            assert send(root, port, tmp_path / "state", "--part-mib", "2") == 0
    finally:
        process.terminate()
        assert process.wait(timeout=10) == 0
    done = list((store / "complete").iterdir())
    assert len(done) == 1
    assert same(root, done[0])
    capsys.readouterr()


def test_a_file_cut_while_it_is_sent_stops_with_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = source(tmp_path)
    with receiving(Store(tmp_path / "store", lambda *_: 1), ["127.0.0.1"]) as port:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            send(root, unused.getsockname()[1], tmp_path / "state")
        (root / "sub/big").write_bytes(b"short")
        assert send(root, port, tmp_path / "state") == 3
    assert "changed" in capsys.readouterr().err


def test_a_dry_run_lists_and_sends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = source(tmp_path)
    assert send(root, 1, tmp_path / "state", "--dry-run") == 0
    assert "sub/big" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()


POLICY = host_policy("core-1")


def test_the_policy_says_where_to_listen_and_for_whom() -> None:
    plan = plan_of_policy(POLICY.as_bytes(), "policy.json")
    assert plan.host == "core-1"
    assert [(one.address, one.port, dict(one.peers)) for one in plan.listen] == [
        ("10.77.3.2", 7601, {"10.77.3.1": "inbound-1"})
    ]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", *(host_policy(host).as_bytes() for host in ("gate-in", "monitor-1"))],
)
def test_a_policy_without_an_incoming_flow_is_no_reason_to_listen(raw: bytes) -> None:
    with pytest.raises(SekishoError):
        plan_of_policy(raw, "policy.json")


@pytest.mark.parametrize("peers", [[], ["hospital"], ["a=b"], ["10.0.0.0/8"]])
def test_nobody_in_particular_is_no_peer(peers: list[str]) -> None:
    with pytest.raises(SekishoError):
        plan_of_words("127.0.0.1", 7601, peers, None)


def test_the_way_is_found_in_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = source(tmp_path)
    policy = tmp_path / "policy.json"
    policy.write_bytes(POLICY.as_bytes())
    words = ["send", str(root), "--to", "outbound-1", "--policy", str(policy), "--dry-run"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["address"] == "10.77.4.2"
    words[3] = "inbound-1"  # core may not send back
    assert main(words) == 3
    assert "no flow to inbound-1" in capsys.readouterr().err
