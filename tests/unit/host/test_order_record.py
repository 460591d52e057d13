"""Orders of every kind: one floor for the clock, one record of what was used."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exceptions_host import World
from test_maintenance import Host

from examples import examples
from orderworld import NOW, good, write_journal
from sekisho.core.errors import SekishoError
from sekisho.host.devices import exception as service
from sekisho.host.devices import exception_state
from sekisho.host.spent_orders import SLACK_S, OrderRecord
from sekisho.orders.kinds import KINDS
from sekisho.orders.model import Order, write_time
from sekisho.orders.parse import render_order
from siteworld import host_policy

ISSUED = "2026-11-20T00:00:00Z"  # both worlds' policies
POLICY = host_policy("core-1", issued=ISSUED)


class Exceptions:
    """A host that is asked to open a device exception."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.world = World(root, patch)
        self.record = OrderRecord(root)

    def set_clock(self, now: datetime) -> None:
        self.world.now = now

    def open(self, order: Order) -> bool:
        path = self.world.root / "order.json"
        path.write_bytes(render_order(order))
        opened = bool(service.apply(path))
        service.end("done")
        return opened

    def use_told(self) -> tuple[str, dict[str, Any]]:
        return self.world.events[0]


class Maintained:
    """A host that is started with a maintenance order."""

    def __init__(self, root: Path, _patch: pytest.MonkeyPatch) -> None:
        self.host = Host(root)
        self.record = OrderRecord(root)
        self.record.journal.mkdir()
        self.boots = 0

    def set_clock(self, now: datetime) -> None:
        self.host.now = now

    def open(self, order: Order) -> bool:
        self.boots += 1
        self.host.start(f"a-boot-{self.boots}")
        self.host.hand.order.write_bytes(render_order(order))  # as root does, past `place`
        return self.host.hand.begin().id == order.id

    def use_told(self) -> tuple[str, dict[str, Any]]:
        [(_, kind, data)] = exception_state.spooled(self.record.store)
        return kind, data


#: Every kind of order → a host that opens it. A new kind has to be held against the same record.
HOSTS: dict[str, Callable[[Path, pytest.MonkeyPatch], Any]] = {
    "device-exception": Exceptions,
    "maintenance": Maintained,
}
CONTENT = {"maintenance": {"content": {"opens": ["modules"]}}}


def order(kind: str, start: datetime, number: int = 1) -> Order:
    times = {"made": start, "start": start, "end": start + timedelta(hours=1)}
    written = {key: write_time(moment) for key, moment in times.items()}
    name = f"{start:%Y%m%d}-{number:016x}"
    return good(kind=kind, id=name, **written, **CONTENT.get(kind, {}))


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return HOSTS[kind](tmp_path, monkeypatch)


def test_every_kind_is_tried() -> None:
    assert set(HOSTS) == set(KINDS)


def test_an_order_opens_once(host: Any, kind: str) -> None:
    assert host.open(order(kind, NOW))
    with pytest.raises(SekishoError, match="used"):
        host.open(order(kind, NOW))


def test_a_clock_before_the_policys_issue_opens_nothing(host: Any, kind: str) -> None:
    """An old order, never used or forgotten, and the clock set back to its window."""
    then = datetime(2025, 1, 1, tzinfo=UTC)
    host.set_clock(then)
    with pytest.raises(SekishoError, match="clock cannot be right"):
        host.open(order(kind, then))


@pytest.mark.parametrize("touched", [True, False])
def test_a_clock_before_the_journals_newest_record_opens_nothing(
    host: Any, kind: str, touched: bool
) -> None:
    path = write_journal(host.record.journal, [(NOW + timedelta(minutes=1), "a", {})])
    if touched:
        os.utime(path, (0, 0))
    with pytest.raises(SekishoError, match="clock cannot be right"):
        host.open(order(kind, NOW))
    host.set_clock(NOW + timedelta(minutes=1))
    assert host.open(order(kind, NOW))


def test_a_clock_that_the_agent_has_followed_back_opens_nothing(host: Any, kind: str) -> None:
    """The agent wrote on by the wrong clock: its last record is not the newest moment."""
    then = NOW - timedelta(days=2)
    write_journal(
        host.record.journal,
        [(NOW, "a", {}), (then, "clock.back", {}), (then + timedelta(seconds=9), "b", {})],
    )
    host.set_clock(then)
    with pytest.raises(SekishoError, match="clock cannot be right"):
        host.open(order(kind, then))


def test_removing_the_record_of_use_makes_no_order_new(host: Any, kind: str) -> None:
    assert host.open(order(kind, NOW))
    told = host.use_told()
    assert told[1]["order"] == order(kind, NOW).id
    write_journal(host.record.journal, [(NOW, *told)])
    for path in host.record.store.glob("*.json"):
        path.unlink()
    with pytest.raises(SekishoError, match="used before"):
        host.open(order(kind, NOW))


def test_an_id_is_used_for_all_kinds(host: Any, kind: str) -> None:
    assert host.open(order(kind, NOW))
    for other in KINDS:
        assert host.record.used(order(other, NOW))
        assert not host.record.used(order(other, NOW, 2))


def test_a_policy_without_its_time_of_issue_opens_nothing() -> None:
    for bad in (None, "soon", "0001-01-01T00:00:00+23:00", "2026-11-22T00:00:00"):
        with pytest.raises(SekishoError, match="refused"):
            host_policy("core-1", issued=bad)
    no_day = host_policy("core-1", issued="2026-02-30T00:00:00Z")
    with pytest.raises(SekishoError, match="earliest time"):
        OrderRecord(Path("/nowhere")).floor(no_day)


def test_a_journal_that_cannot_be_read_opens_nothing(tmp_path: Path) -> None:
    record = OrderRecord(tmp_path)
    (record.journal / f"{1:020d}.jsonl").mkdir(parents=True)
    with pytest.raises(SekishoError, match="earliest time"):
        record.floor(POLICY)
    with pytest.raises(SekishoError, match="cannot determine which orders were used"):
        record.used(order("maintenance", NOW))


def test_what_is_no_sound_record_moves_nothing(tmp_path: Path) -> None:
    """A damaged line must not shut the host's orders for a hundred years."""
    record = OrderRecord(tmp_path)
    record.journal.mkdir(parents=True)
    path = write_journal(record.journal, [(NOW, "a", {})])
    far = write_journal(tmp_path, [(NOW + timedelta(days=30_000), "a", {})]).read_bytes()
    path.write_bytes(
        path.read_bytes()
        + far.replace(b'"kind":"a"', b'"kind":"b"')  # its hash does not hold
        + b'"t":9999999999999}\n'
        + b"x" * 200_000
        + b"\n"
        + far[:-20]
    )
    assert record.floor(POLICY) == NOW
    assert far not in path.read_bytes()


MOMENTS = st.integers(-10_000, 10_000).map(lambda number: NOW + timedelta(minutes=number))


@settings(max_examples=examples(100))
@given(st.lists(st.lists(MOMENTS, min_size=1, max_size=4), max_size=4), MOMENTS)
def test_the_floor_is_no_earlier_than_what_a_reader_would_see(
    tmp_path_factory: pytest.TempPathFactory, written: list[list[datetime]], now: datetime
) -> None:
    record = OrderRecord(tmp_path_factory.mktemp("host"))
    record.journal.mkdir(parents=True)
    first = 1
    for moments in written:
        write_journal(record.journal, [(one, "a", {}) for one in moments], first)
        first += len(moments)
    ends = [moment for moments in written for moment in (moments[0], moments[-1])]
    newest = max([datetime.fromisoformat(ISSUED), *ends, *(written[-1] if written else [])])
    assert record.floor(POLICY) == newest
    if now < newest - timedelta(seconds=SLACK_S):
        with pytest.raises(SekishoError):
            record.check_clock(now, POLICY)
    else:
        record.check_clock(now, POLICY)


def test_a_use_is_found_in_an_old_segment_too(tmp_path: Path) -> None:
    record = OrderRecord(tmp_path)
    record.journal.mkdir(parents=True)
    one = order("maintenance", NOW)
    day = timedelta(days=1)
    write_journal(record.journal, [(NOW - 40 * day, "a", {}), (NOW - 30 * day, "b", {})])
    used = ("maintenance.used", {"order": one.id})
    write_journal(record.journal, [(NOW, "a", {}), (NOW, *used), (NOW, "b", {})], 3)
    write_journal(record.journal, [(NOW + 20 * day, "a", {"order": "x"})], 6)
    assert record.used(one)
    assert not record.used(order("maintenance", NOW, 2))
    mention = {"order": one.id.replace("1", "2"), "text": f"like {order('maintenance', NOW, 3).id}"}
    write_journal(record.journal, [(NOW, "maintenance.used", mention)], 7)
    assert not record.used(order("maintenance", NOW, 3)), "a mention is no use"
