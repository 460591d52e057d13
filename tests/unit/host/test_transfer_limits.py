"""What one peer of the receiver may have, and what becomes of deliveries nobody goes on with."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_transfer_store import Fuse, PowerCut

from hostilepeer import (
    HOST,
    PEERS,
    A,
    B,
    Book,
    Clock,
    announce,
    deliver,
    disk,
    entries_of,
    manifest_of,
    part_bytes,
    promise,
    push_bytes,
)
from sekisho.core.errors import SekishoError
from sekisho.host.transfer.deliver import deliver as send_delivery
from sekisho.host.transfer.main import Receiver, plan_of_words
from sekisho.host.transfer.outbox import Job, open_outbox
from sekisho.host.transfer.receive import Pace
from sekisho.host.transfer.room import Limits, Room, Size
from sekisho.host.transfer.send import Outcome, Target
from sekisho.host.transfer.store import Peer, Store
from sekisho.host.transfer.turns import Turns
from sekisho.transfer.manifest import Manifest

MIB = 1024 * 1024
LIMITS = Limits(spare_bytes=MIB, spare_files=10)
FILES = [("one", b"1" * 5000), ("two", b"2"), ("空", b"")]


class World:
    """A store with its clock and journal, on a disk of a size that is said."""

    def __init__(self, root: Path) -> None:
        self.root, self.clock = root, Clock()
        self.book = Book(self.clock)
        self.start()

    def start(self, limits: Limits = LIMITS) -> Store:
        self.store = Store(
            self.root, self.book, name=HOST, limits=limits, peers=PEERS, clock=self.clock
        )
        return self.store

    def partial(self) -> list[str]:
        return sorted(path.name for path in (self.root / "partial").iterdir())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    memory = Path("/dev/shm")
    root = memory / f"sekisho-{os.getpid()}-{secrets.token_hex(4)}" if memory.is_dir() else tmp_path
    yield World(root)
    shutil.rmtree(root)


def ours(number: int = 1, sender: str = "hospital-b") -> Manifest:
    return manifest_of(FILES, secrets.token_hex(16), sender=sender, sequence=number)


# -- slots, bytes, rate --------------------------------------------------------------------------


def test_one_new_delivery_after_another_leaves_no_slot_behind(world: World) -> None:
    """`send --new`, forty times: what was begun before makes way, and each is in the journal."""
    for number in range(1, 41):
        world.clock.now += 2
        last = ours(number)
        announce(world.store, last, B)
    assert len(world.partial()) == LIMITS.partial
    given_up = world.book.of("transfer.given-up")
    assert [entry["sequence"] for entry in given_up] == list(range(1, 41 - LIMITS.partial))
    assert all(entry["why"].startswith("makes room for ") for entry in given_up)
    deliver(world.store, last, FILES, B)


def test_the_delivery_that_makes_way_is_the_one_without_news_for_longest(world: World) -> None:
    held = [ours(number) for number in range(1, LIMITS.partial + 1)]
    for one in held:
        world.clock.now += 1
        announce(world.store, one, B)
    world.clock.now += 1
    push_bytes(world.store, part_bytes(held[0], FILES, 0), B)  # news of the oldest
    world.clock.now += 1
    announce(world.store, ours(LIMITS.partial + 1), B)
    assert [one["delivery"] for one in world.book.of("transfer.given-up")] == [held[1].delivery]


def test_a_delivery_that_is_arriving_does_not_make_way(world: World) -> None:
    world.start(replace(LIMITS, partial=1))
    first = ours(1)
    announce(world.store, first, B)
    header_line = part_bytes(first, FILES, 0).partition(b"\n")[0] + b"\n"
    link, theirs = socket.socketpair()
    from sekisho.host.transfer.receive import serve  # noqa: PLC0415 - one more end

    thread = threading.Thread(target=serve, args=(theirs, B, world.store, Pace()))
    link.sendall(header_line + b"1")
    thread.start()
    deadline = time.monotonic() + 20
    while not world.store._waiting._busy and time.monotonic() < deadline:
        time.sleep(0.01)
    world.clock.now += LIMITS.idle_seconds * 2
    with pytest.raises(SekishoError, match="refused") as caught:
        announce(world.store, ours(2), B)
    assert "send it again later" in caught.value.diagnostics()
    assert world.store.expire(world.clock.now) == []
    link.sendall(b"1" * 4999)
    link.shutdown(socket.SHUT_WR)
    thread.join(20)
    link.close()
    push_bytes(world.store, part_bytes(first, FILES, 1), B)
    assert (world.root / "complete" / first.delivery).exists()


def test_new_deliveries_are_taken_at_a_rate_and_only_the_fast_one_waits(world: World) -> None:
    for number in range(1, LIMITS.burst + 1):
        announce(world.store, ours(number, "hospital-a"), A)
    with pytest.raises(SekishoError) as caught:
        announce(world.store, ours(LIMITS.burst + 1, "hospital-a"), A)
    assert "too fast" in caught.value.diagnostics()
    deliver(world.store, ours(1), FILES, B)
    world.clock.now += 1 / LIMITS.rate
    announce(world.store, ours(LIMITS.burst + 1, "hospital-a"), A)


@pytest.mark.parametrize("what", ["bytes", "files"])
@pytest.mark.parametrize("peers", [1, 2, 3, 8])
def test_what_is_kept_for_the_others_is_there_whatever_one_takes(peers: int, what: str) -> None:
    names = [f"10.0.0.{number}" for number in range(peers)]
    room = Room(LIMITS, frozenset(names))
    total, taken = 1_000_000, dict.fromkeys(names, 0)

    def ask(peer: str, need: int) -> bool:
        free = total - sum(taken.values())
        size = Size(need, 0) if what == "bytes" else Size(0, need)
        left = Size(free, 10**9) if what == "bytes" else Size(10**9, free)
        used = {
            one: Size(count, 0) if what == "bytes" else Size(0, count)
            for one, count in taken.items()
        }
        try:
            room.check(peer, size, left, used)
        except SekishoError:
            return False
        taken[peer] += need
        return True

    hostile, *others = names
    for step in (100_000, 10_000, 1000, 100, 1):
        while ask(hostile, step):
            pass
    share = total // (2 * peers)
    assert taken[hostile] == total - share * len(others)
    for other in others:
        assert ask(other, share - 1), other
    assert sum(taken.values()) <= total


@pytest.mark.parametrize("real", [False, True])
def test_a_peer_that_fills_the_disk_leaves_the_other_its_share(
    world: World, monkeypatch: pytest.MonkeyPatch, *, real: bool
) -> None:
    """By promises alone, and by files that stay in ``complete``."""
    monkeypatch.setattr("os.statvfs", disk(world.root, 40 * MIB))
    number = refused = 0
    for size in (8 * MIB, 4 * MIB, MIB, 100_000):
        for _ in range(12):
            number += 1
            world.clock.now += 1
            name = secrets.token_hex(16)
            try:
                if real:
                    files = [("f", bytes(size))]
                    one = manifest_of(files, name, sender="hospital-a", sequence=number)
                    deliver(world.store, one, files, A)
                else:
                    one = promise(size, name, sender="hospital-a", sequence=number)
                    announce(world.store, one, A)
            except SekishoError:
                refused += 1
                number -= 1
    assert refused > 0
    world.start()  # what was promised and what lies there is known again
    assert world.store.resume() == []
    files = [("big", os.urandom(9 * MIB))]  # a quarter of the disk, less its notes
    one = manifest_of(files, secrets.token_hex(16), sender="hospital-b")
    deliver(world.store, one, files, B)


def test_the_memory_of_a_delivery_on_its_way_is_a_byte_a_part(world: World) -> None:
    files = [(f"folder/{number:050d}", b"x") for number in range(1000)]
    entries = entries_of(files)
    raw = Manifest("0" * 32, 1, "hospital-b", HOST, 1, entries, 1000).to_bytes()
    assert len(raw) > 250_000
    announce(world.store, Manifest("0" * 32, 1, "hospital-b", HOST, 1, entries, 1000), B)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1, 6):
            name = f"{number:032x}"
            announce(
                world.store, Manifest(name, number + 1, "hospital-b", HOST, 1, entries, 1000), B
            )
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < len(raw)  # of five; each is that long


def test_refused_deliveries_leave_nothing_in_memory_or_on_the_disk(world: World) -> None:
    def sizes() -> tuple[int, ...]:
        waiting = world.store._waiting
        return (
            len(waiting._gates), len(waiting._busy), len(waiting._deliveries),
            len(list(world.root.rglob("*"))),
        )  # fmt: skip

    before = sizes()
    too_large = promise(2**43, "0" * 32, sender="hospital-a")
    for _ in range(20):
        world.clock.now += 1
        with pytest.raises(SekishoError):
            announce(world.store, replace(too_large, delivery=secrets.token_hex(16)), A)
        with pytest.raises(SekishoError):
            push_bytes(world.store, part_bytes(ours(), FILES, 0), A)
    assert sizes() == before


# -- impossible paths and numbers ----------------------------------------------------------------


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("letter", ["d", "患"])
def test_a_path_is_taken_to_the_last_byte_the_disk_can_hold(
    tmp_path: Path, letter: str, over: int
) -> None:
    root = tmp_path / ("r" * 200) / ("s" * 200)
    store = Store(root, lambda *_: 1)
    length = store._longest + over
    width = len(letter.encode())
    parts, left = [], length
    while left > 250:
        parts.append(letter * (200 // width) + "x" * (200 % width))
        left -= 201
    parts.append("f" * left)
    path = "/".join(parts)
    assert len(path.encode()) == length
    files = [(path, b"deep")]
    one = manifest_of(files, "1" * 32, sender="hospital-a")
    if over:
        with pytest.raises(SekishoError) as caught:
            announce(store, one, A)
        assert f"{store._longest} and 255 at most" in caught.value.diagnostics()
        assert list((root / "partial").iterdir()) == []
    else:
        deliver(store, one, files, A)


def test_a_leap_of_the_number_is_refused_and_says_what_to_do(world: World) -> None:
    announce(world.store, ours(5), B)
    for leap in (1006, 2**31, 2**53):
        with pytest.raises(SekishoError, match="leaps ahead") as caught:
            announce(world.store, ours(leap), B)
        assert f'{{"highest":{leap - 1},"missing":[]}}' in caught.value.diagnostics()
        assert "hospital-b--inbound-1.json" in caught.value.diagnostics()
    announce(world.store, ours(8), B)
    assert world.book.of("transfer.announced")[-1]["missing"] == [1, 2, 3, 4, 6, 7]
    hint = caught.value.problems[-1].hint
    path = world.root / "sequence/hospital-b--inbound-1.json"
    path.write_text(hint[hint.index("{") : hint.index("}") + 1])
    announce(world.store, ours(2**53), B)


# -- giving up -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "gone"), [(0, False), (LIMITS.idle_seconds - 1, False), (LIMITS.idle_seconds, True)]
)
@pytest.mark.parametrize("again", [False, True])
def test_a_delivery_without_news_is_given_up_with_an_entry(
    world: World, seconds: float, *, gone: bool, again: bool
) -> None:
    one = ours()
    announce(world.store, one, B)
    push_bytes(world.store, part_bytes(one, FILES, 0), B)
    begin = max(path.stat().st_mtime for path in (world.root / "partial").rglob("[mp]a*"))
    if again:
        world.start()
    world.clock.now = max(world.clock.now, begin) + seconds
    assert world.store.expire(world.clock.now) == ([one.delivery] if gone else [])
    entries = world.book.of("transfer.given-up")
    assert len(entries) == gone
    if gone:
        assert (entries[0]["peer"], entries[0]["from"]) == (B.address, "hospital-b")
        assert entries[0]["parts_missing"] == 1
        assert world.partial() == []
    else:
        push_bytes(world.store, part_bytes(one, FILES, 1), B)
        assert (world.root / "complete" / one.delivery).exists()


def test_a_delivery_given_up_stays_so_its_sender_would_leave_out_what_was_held(
    world: World,
) -> None:
    one = ours()
    announce(world.store, one, B)
    push_bytes(world.store, part_bytes(one, FILES, 0), B)
    world.clock.now += 2 * LIMITS.idle_seconds
    world.store.expire(world.clock.now)
    for _ in range(2):
        for attempt in (
            lambda: announce(world.store, one, B),
            lambda: push_bytes(world.store, part_bytes(one, FILES, 1), B),
        ):
            with pytest.raises(SekishoError) as caught:
                attempt()
        assert "--new" in str(caught.value.problems) or "manifest first" in str(
            caught.value.problems
        )
        world.start()
    deliver(world.store, ours(2), FILES, B)


def test_without_the_journal_nothing_is_given_up(world: World) -> None:
    one = ours()
    announce(world.store, one, B)
    world.book._tokens = -1e9
    world.clock.now += 2 * LIMITS.idle_seconds
    with pytest.raises(SekishoError, match="too many events"):
        world.store.expire(world.clock.now)
    assert world.partial() == [one.delivery]
    world.book._tokens = 1000.0
    deliver(world.store, one, FILES, B)


def test_a_clock_that_was_ahead_does_not_keep_a_delivery_for_ever(world: World) -> None:
    world.clock.now += 10 * LIMITS.idle_seconds
    announce(world.store, ours(), B)
    world.clock.now -= 10 * LIMITS.idle_seconds
    assert world.store.expire(world.clock.now) == []
    world.clock.now += LIMITS.idle_seconds
    assert len(world.store.expire(world.clock.now)) == 1


def test_a_power_cut_at_any_step_of_giving_up_leaves_it_on_its_way_or_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = Fuse(monkeypatch)
    step = 0
    while True:
        fuse.left = -1
        one = ours(step + 1)
        world.clock.now += 2
        announce(world.store, one, B)
        push_bytes(world.store, part_bytes(one, FILES, 0), B)
        world.clock.now += 2 * LIMITS.idle_seconds
        fuse.left = step
        try:
            world.store.expire(world.clock.now)
            done = True
        except PowerCut:
            done = False
        fuse.left = -1
        store = world.start()
        assert store.resume() == []
        if one.delivery in world.partial():
            announce(store, one, B)
            push_bytes(store, part_bytes(one, FILES, 1), B)
            assert (world.root / "complete" / one.delivery).exists()
        else:
            assert world.book.of("transfer.given-up")[-1]["delivery"] == one.delivery
            with pytest.raises(SekishoError, match="refused"):
                announce(store, one, B)
        if done:
            break
        step += 1
    assert step > 5


# -- turns ---------------------------------------------------------------------------------------


def test_turns_are_taken_in_order_two_at_a_time_and_one_of_each_peer() -> None:
    turns, order, now, most = Turns(2), [], [0], [0]
    lock, go = threading.Lock(), threading.Event()

    def work(peer: str) -> None:
        with turns.turn(peer):
            with lock:
                order.append(peer)
                now[0] += 1
                most[0] = max(most[0], now[0])
            go.wait(10)
            time.sleep(0.01)
            with lock:
                now[0] -= 1

    threads = []
    for peer in ["a"] * 8 + ["b", "c"]:
        threads.append(threading.Thread(target=work, args=(peer,)))
        threads[-1].start()
        time.sleep(0.02)
    go.set()
    for thread in threads:
        thread.join(20)
    assert most == [2]
    assert sorted(order) == ["a"] * 8 + ["b", "c"]
    assert set(order[:2]) == {"a", "b"}  # the second turn is not a's
    assert "c" in order[:4]


# -- the service ---------------------------------------------------------------------------------


@contextmanager
def receiving(store: Store, journal: Callable[..., Any], peers: list[str]) -> Iterator[int]:
    plan = plan_of_words("127.0.0.1", 0, peers, HOST)
    receiver = Receiver(plan, store, journal)
    receiver.open()
    thread = threading.Thread(target=receiver.run, daemon=True)
    thread.start()
    try:
        yield receiver.ports[0]
    finally:
        receiver.stop()
        thread.join(10)


def send_honestly(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Send a directory from 127.0.0.2 as `sekisho send` does."""
    real = socket.create_connection
    monkeypatch.setattr(
        socket,
        "create_connection",
        lambda place, timeout: real(place, timeout, source_address=("127.0.0.2", 0)),
    )
    root = tmp_path / "src"
    root.mkdir()
    (root / "a").write_bytes(os.urandom(200_000))
    job = Job(root, "hospital-b", HOST, 65536)
    with open_outbox(
        tmp_path / "state", job, now=1, fresh=False, progress=lambda _: None
    ) as outbox:
        return send_delivery(outbox, root, Target("127.0.0.1", port), lambda _: None).outcome


@pytest.mark.process
def test_peers_that_take_every_connection_do_not_stop_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = ["hospital-b=127.0.0.2", *(f"evil-{n}=127.0.0.{n}" for n in range(3, 12))]
    held: list[socket.socket] = []
    with receiving(Store(tmp_path / "s", lambda *_: 1), lambda *_: 1, peers) as port:
        for number in range(3, 12):
            for _ in range(10):
                with contextlib.suppress(OSError):  # reset at once: it has its share already
                    place = (f"127.0.0.{number}", 0)
                    held.append(socket.create_connection(("127.0.0.1", port), 10, place))
                    held[-1].sendall(b'{"delivery":')
        assert len(held) >= 9 * 2
        assert send_honestly(port, tmp_path, monkeypatch) is Outcome.STORED
    for link in held:
        link.close()


def knock(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as link:
        link.recv(1)


@pytest.mark.process
def test_a_journal_that_stands_still_delays_no_refusal_and_no_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver's loop shows that it lives by its own pace, whatever the journal does."""
    wait = threading.Event()

    def stands(*_: Any) -> int:
        wait.wait(60)
        return 1

    begin = time.monotonic()
    with receiving(Store(tmp_path / "s", lambda *_: 1), stands, ["hospital-b=127.0.0.2"]) as port:
        for _ in range(100):
            with pytest.raises(ConnectionResetError):
                knock(port)
        assert send_honestly(port, tmp_path, monkeypatch) is Outcome.STORED
        assert time.monotonic() - begin < 30
        wait.set()


def test_refusals_are_journalled_for_each_peer_by_itself(tmp_path: Path) -> None:
    told: list[str] = []
    plan = plan_of_words("127.0.0.1", 0, ["a=10.0.0.1", "b=10.0.0.2"], HOST)
    receiver = Receiver(
        plan, Store(tmp_path, lambda *_: 1), lambda _, data: told.append(data["peer"])
    )
    for _ in range(200):
        receiver._tell("10.0.0.1", SekishoError("no"))
        if not receiver._telling.empty():
            data = receiver._telling.get()
            told.append(data["peer"])
    receiver._tell("10.0.0.2", SekishoError("no"))
    assert receiver._telling.get()["peer"] == "10.0.0.2"
    assert told == ["10.0.0.1"] * 30


def test_a_note_that_cannot_be_read_costs_its_own_delivery_only(world: World) -> None:
    broken, sound = ours(1), ours(2)
    for one in (broken, sound):
        announce(world.store, one, B)
    for raw in (b"", b"[]", b'{"entry":{},"bytes":1,"files":1}', b"\xff", b"[" * 100_000):
        (world.root / "partial" / broken.delivery / "about.json").write_bytes(raw)
        store = world.start()
        (trouble,) = store.resume()
        assert broken.delivery in trouble
    deliver(store, sound, FILES, B)
    deliver(store, broken, FILES, B)  # announced again


def test_another_peer_that_says_the_same_delivery_gets_nothing(world: World) -> None:
    one = ours()
    announce(world.store, one, B)
    impostor = replace(one, sender="hospital-a")
    for attempt in (
        lambda: announce(world.store, impostor, A),
        lambda: push_bytes(world.store, part_bytes(one, FILES, 0), A),
        lambda: push_bytes(world.store, part_bytes(one, FILES, 0), Peer("10.0.0.9", None)),
    ):
        with pytest.raises(SekishoError):
            attempt()
    deliver(world.store, one, FILES, B)
    digest = hashlib.sha256(one.to_bytes()).hexdigest()
    assert world.book.of("transfer.received")[0]["manifest_sha256"] == digest
