"""A device exception on its machine: opened by a proven order, closed without anybody's help."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from probes_raw import held, ran

from agentworld import Host
from orderworld import CONTENT, NOW, SIGNERS, STICK, body, good, write_journal
from sekisho.core.errors import SekishoError
from sekisho.devices.exception import parse_exception
from sekisho.host import boot_clock
from sekisho.host.agent.parts.exceptions import OVERDUE, STATES, UNPROVEN, ExceptionsPart
from sekisho.host.devices import admit as usb_admit
from sekisho.host.devices import exception as service
from sekisho.host.devices import exception_copy, exception_state
from sekisho.host.devices.exception_state import Open
from sekisho.orders.model import write_time
from sekisho.orders.parse import render_order
from sekisho.orders.register import register
from sekisho.probes.exceptions import PROBES
from sekisho.probes.model import ProbeError
from siteworld import host_policy

PEOPLE = {
    name: {
        "role": one.role.value,
        "authority_until": one.authority_until.isoformat(),
        "key": base64.b64encode(one.key).decode(),
    }
    for name, one in SIGNERS.items()
}
POLICY = host_policy("core-1", issued="2026-11-20T00:00:00Z", devices=[], orders={"people": PEOPLE})
END = int((NOW + timedelta(hours=1)).timestamp())


def entry(**change: Any) -> dict[str, Any]:
    """Return what is remembered of the good order while it is open."""
    order = good()
    return {
        "id": order.id,
        "order": order.id,
        "state": "open",
        "file": render_order(order).decode(),
        "boot": "b0",
        "end_at": END,
        "deadline": 5000,
        **CONTENT,
        **change,
    }


# -- the service ---------------------------------------------------------------------------------


class World:
    """The service with a pretended kernel, journal, systemd and clock."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        kept = root / "var/lib/sekisho"
        self.state, self.run, self.journal = kept / "orders", root / "run", kept / "journal"
        self.journal.mkdir(parents=True)
        self.now, self.boot_s, self.boot = NOW, 1000.0, "b0"
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.acts: list[str] = []
        self.journal_answers = self.timer_works = self.may_load = True
        self.loaded = False
        self.stuck = False
        state = exception_state
        for function in (state.alone, state.entries, state.remember, state.update, state.spool):
            plain = getattr(function, "__wrapped__", function)
            monkeypatch.setattr(plain, "__defaults__", (self.state,))
        for function in (state.write_open, state.forget_open, state.read_open):
            monkeypatch.setattr(function, "__defaults__", (self.run,))
        monkeypatch.setattr(state, "RUN", self.run)
        monkeypatch.setattr(state, "STATE", self.state)
        monkeypatch.setattr(boot_clock, "boot_id", lambda: self.boot)
        monkeypatch.setattr(boot_clock, "boottime", lambda: self.boot_s)
        monkeypatch.setattr(service, "ROOT", root)
        monkeypatch.setattr(service, "host_policy", lambda: SimpleNamespace(value=POLICY))
        monkeypatch.setattr(service, "submit", self.submit)
        monkeypatch.setattr(service, "datetime", self.clock())
        monkeypatch.setattr(service, "time", SimpleNamespace(time=self.seconds))
        monkeypatch.setattr(service, "_timer", self.timer)
        monkeypatch.setattr(service, "_stop_timer", lambda: self.acts.append("no timer"))
        wall = service.wall
        monkeypatch.setattr(wall, "loaded", lambda: self.loaded)
        monkeypatch.setattr(wall, "may_load", lambda: self.may_load)
        monkeypatch.setattr(wall, "load", lambda _exception: self.load(loaded=True))
        monkeypatch.setattr(wall, "unload", lambda: self.load(loaded=False))
        monkeypatch.setattr(wall, "shut", lambda path: self.acts.append(f"shut {path}"))
        monkeypatch.setattr(usb_admit, "fitting", lambda _exception: [Path("2-2")] * self.stuck)
        monkeypatch.setattr(usb_admit, "settle_attached", self.settle)

    def seconds(self) -> float:
        return self.now.timestamp()

    def clock(self) -> type:
        world = self

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return world.now.astimezone(tz)

        return Clock

    def submit(self, kind: str, data: dict[str, Any]) -> int:
        if not self.journal_answers:
            raise SekishoError("the journal does not answer")
        self.events.append((kind, data))
        return len(self.events)

    def timer(self, order: Any, remain: int) -> None:
        if not self.timer_works:
            raise SekishoError("the timer that closes it cannot be set")
        assert (self.state / f"{order.id}.json").exists(), "remembered before anything opens"
        assert not self.loaded
        self.acts.append(f"timer {remain}")

    def load(self, *, loaded: bool) -> None:
        self.loaded = loaded
        self.acts.append("load" if loaded else "unload")

    def settle(self) -> tuple[list[str], list[str]]:
        opened = exception_state.read_open(self.run)
        self.acts.append("settle with it" if opened else "settle")
        return (["admitted 2-2"], []) if opened else ([], [])

    def order(self, **change: Any) -> Path:
        path = self.root / "order.json"
        path.write_bytes(render_order(good(**change)))
        return path

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(SekishoError) as no:
        call()
    return no.value.diagnostics()


def closed(world: World) -> bool:
    return not world.loaded and not (world.run / "open.json").exists()


def test_it_opens_in_this_order_and_closes_at_its_end(world: World) -> None:
    assert service.apply(world.order())["changes"] == ["admitted 2-2"]
    assert world.acts == ["timer 3600", "load", "settle with it"]
    assert world.kinds() == ["exception.opening", "exception.opened"]
    assert service.due() == 0
    assert not closed(world)  # its window is not over
    world.now += timedelta(hours=1)
    assert service.due() == 0
    assert closed(world)
    assert world.events[-1][1]["why"] == "its window is over"
    assert world.events[-1][1]["approvers"] == ["chiba", "aoki"]


def test_a_clock_set_back_does_not_keep_it_open(world: World) -> None:
    service.apply(world.order())
    world.now -= timedelta(days=3)
    world.boot_s += 3600
    assert service.due() == 0
    assert closed(world)


def test_a_restart_ends_it(world: World) -> None:
    service.apply(world.order())
    world.boot = "b1"
    assert service.due() == 0
    assert closed(world)
    assert "restarted" in world.events[-1][1]["why"]


def test_without_a_journal_it_does_not_open_and_closes_all_the_same(world: World) -> None:
    world.journal_answers = False
    assert "does not answer" in refusal(lambda: service.apply(world.order()))
    assert world.acts == []
    world.journal_answers = True
    service.apply(world.order())
    world.journal_answers = False
    world.now += timedelta(hours=1)
    assert service.due() == 0
    assert closed(world)
    assert [kind for _, kind, _ in exception_state.spooled(world.state)] == ["exception.closed"]


def test_without_a_timer_it_does_not_open_and_its_order_is_spent(world: World) -> None:
    world.timer_works = False
    assert "timer" in refusal(lambda: service.apply(world.order()))
    assert closed(world)
    world.timer_works = True
    assert "used before" in refusal(lambda: service.apply(world.order()))


def test_an_order_opens_once_also_when_it_was_ended_early(world: World) -> None:
    service.apply(world.order())
    assert "one exception at a time" in refusal(lambda: service.apply(world.order()))
    assert service.end("done") == [good().id]
    assert service.end("done") == []
    assert closed(world)
    assert "used before" in refusal(lambda: service.apply(world.order()))
    assert closed(world)


def test_outside_its_window_or_for_another_kind_nothing_opens(world: World) -> None:
    world.now += timedelta(hours=1)
    assert "over it" in refusal(lambda: service.apply(world.order()))
    world.now = NOW
    other = world.order(kind="maintenance", content={"opens": ["modules"]})
    assert "device-exception" in refusal(lambda: service.apply(other))
    assert world.acts == []


@pytest.mark.parametrize("late", [60, 6, -60])
def test_a_clock_before_what_was_written_opens_nothing(world: World, late: int) -> None:
    """The record's own time counts, not the file's, which `touch` sets."""
    write_journal(world.journal, [(NOW + timedelta(seconds=late), "agent.start", {})])
    os.utime(next(world.journal.iterdir()), (0, 0))
    if late > 0:
        assert "clock cannot be right" in refusal(lambda: service.apply(world.order()))
    else:
        service.apply(world.order())


def test_a_clock_before_the_policys_issue_opens_nothing(world: World) -> None:
    world.now = NOW - timedelta(days=6)
    start, end = (write_time(world.now + timedelta(hours=by)) for by in (-1, 1))
    order = world.order(made=start, start=start, end=end)
    assert "clock cannot be right" in refusal(lambda: service.apply(order))


def test_an_order_whose_record_was_removed_is_still_used(world: World) -> None:
    service.apply(world.order())
    write_journal(world.journal, [(NOW, kind, data) for kind, data in world.events[:1]])
    assert service.end("done") == [good().id]
    (world.state / f"{good().id}.json").unlink()
    assert "used before" in refusal(lambda: service.apply(world.order()))


def test_where_no_module_can_be_loaded_a_disk_is_refused_unspent(world: World) -> None:
    world.may_load = False
    assert "modules_disabled" in refusal(lambda: service.apply(world.order()))
    world.may_load = True
    service.apply(world.order())


def test_what_cannot_be_shut_stays_known_as_open_and_is_tried_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    service.apply(world.order())
    world.now += timedelta(hours=2)
    world.stuck = True
    assert service.due() == 2
    assert "stays open" in capsys.readouterr().err
    assert exception_state.entries(world.state)[good().id]["state"] == "open"
    world.stuck = False
    assert service.due() == 0
    assert exception_state.entries(world.state)[good().id]["state"] == "closed"


@pytest.mark.parametrize("text", ["", "[]", '{"id":"20260101-00000000000000ff","state":"open"}'])
def test_garbled_records_and_forged_openings_are_closed(world: World, text: str) -> None:
    world.state.mkdir()
    (world.state / "20260101-00000000000000ff.json").write_text(text)
    world.run.mkdir()
    (world.run / "open.json").write_text("forged")
    world.loaded = True
    assert service.due() == 0
    assert closed(world)
    assert exception_state.entries(world.state)["20260101-00000000000000ff"]["state"] == "closed"


# -- the agent -----------------------------------------------------------------------------------


class Agent:
    """The agent's part, over folders of its own."""

    def __init__(self, root: Path) -> None:
        self.host = Host(root)
        self.run, self.kept = root / "exc", root / "orders"
        self.kept.mkdir()
        self.host.book.wall = lambda: self.now
        self.now, self.boot_s = NOW.timestamp(), 1000.0
        self.part = ExceptionsPart(self.host.book, self.run, self.kept, lambda: self.boot_s)
        self.part.policy(POLICY)

    def write(self, **change: Any) -> None:
        told = entry(**change)
        (self.kept / f"{told['id']}.json").write_text(json.dumps(told))

    def let_in(self, content: dict[str, Any] = CONTENT, end: int = END) -> None:
        exception = parse_exception("x", content)
        exception_state.write_open(Open(good().id, exception, end, 5000), self.run)

    def open(self) -> dict[str, float]:
        metrics = self.host.book.metrics
        return {state: metrics.get("sekisho_exception_open", state) for state in STATES}


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def test_a_proven_exception_is_listed_and_no_detection(agent: Agent) -> None:
    agent.write()
    agent.let_in()
    found = agent.part.excepted()
    assert found is not None
    assert found.rule.serial == "STICK-1"
    assert agent.open() == {"proven": 1, "unproven": 0, "overdue": 0}
    assert agent.host.journal.detections() == []
    agent.write(state="closed")
    exception_state.forget_open(agent.run)
    assert agent.part.excepted() is None
    assert agent.open() == {"proven": 0, "unproven": 0, "overdue": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"file": "{}\n"},
        {"file": None},
        {"end_at": END + 1},
        {"direction": "out"},
        {"device": {**STICK, "serial": "OTHER"}},
        {"file": render_order(good(id="20261125-ffffffffffffffff")).decode()},
        {"file": render_order(good(host="core-2")).decode()},
    ],
)
def test_what_no_order_says_is_unproven(agent: Agent, change: dict[str, Any]) -> None:
    agent.write(**change)
    agent.let_in()
    assert agent.part.excepted() is None
    assert agent.open()["unproven"] == 1
    assert agent.host.journal.detections() == [UNPROVEN]


def test_letting_in_something_else_than_the_order_says_is_unproven(agent: Agent) -> None:
    agent.write()
    agent.let_in({"device": STICK, "direction": "out"})
    assert agent.part.excepted() is None
    assert agent.host.journal.detections() == [UNPROVEN]


def test_an_opening_without_any_record_is_unproven(agent: Agent) -> None:
    agent.let_in()
    assert agent.part.excepted() is None
    agent.part.look()
    assert agent.host.journal.detections() == [UNPROVEN]
    assert agent.open()["unproven"] == 1


@pytest.mark.parametrize("late", ["wall", "boottime"])
def test_past_its_end_by_either_clock_it_is_overdue(agent: Agent, late: str) -> None:
    agent.write()
    agent.let_in()
    if late == "wall":
        agent.now = END + 61.0
    else:
        agent.boot_s = 5061.0
    assert agent.part.excepted() is None
    assert agent.open()["overdue"] == 1
    assert OVERDUE in agent.host.journal.detections()


def test_what_waited_is_brought_into_the_journal_once(agent: Agent) -> None:
    exception_state.spool("exception.closed", {"order": "x"}, agent.kept)
    agent.part.look()
    agent.part.look()
    assert agent.host.journal.kinds().count("exception.closed") == 1
    assert list(exception_state.spooled(agent.kept)) == []


# -- copying -------------------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    value = Open(good().id, parse_exception("x", CONTENT), 2**40, 2**40)
    monkeypatch.setattr(exception_state.read_open, "__defaults__", (tmp_path / "exc",))
    exception_state.write_open(value, tmp_path / "exc")
    return value


def folder(tmp_path: Path) -> tuple[Path, Path]:
    medium, place = tmp_path / "medium", tmp_path / "place"
    (medium / "a").mkdir(parents=True)
    place.mkdir()
    (medium / "a/one.txt").write_text("one")
    (medium / "two.txt").write_text("two")
    return medium, place


@pytest.mark.process
def test_files_arrive_once_the_journal_has_them(tmp_path: Path, opened: Open) -> None:
    medium, place = folder(tmp_path)
    (medium / "link").symlink_to("/etc/passwd")
    told: list[tuple[str, dict[str, Any]]] = []

    def tell(kind: str, data: dict[str, Any]) -> None:
        if kind == "exception.file":
            assert not (place / data["name"]).exists(), "journalled before it is there"
        told.append((kind, data))

    done = list(exception_copy.copy(opened, medium, place, tell))
    assert [(one.name, one.size) for one in done] == [
        (str(place / "a/one.txt"), 3),
        (str(place / "two.txt"), 3),
    ]
    assert (place / "two.txt").read_text() == "two"
    assert not (place / "link").exists()
    assert [kind for kind, _ in told].count("exception.left-out") == 1
    assert told[0][1]["sha256"] == done[0].sha256
    with pytest.raises(SekishoError):  # nothing is written over
        list(exception_copy.copy(opened, medium, place, tell))


@pytest.mark.process
def test_what_the_journal_does_not_take_does_not_cross(tmp_path: Path, opened: Open) -> None:
    medium, place = folder(tmp_path)

    def tell(_kind: str, _data: dict[str, Any]) -> None:
        raise SekishoError("the journal does not answer")

    with pytest.raises(SekishoError):
        list(exception_copy.copy(opened, medium, place, tell))
    assert [path for path in place.rglob("*") if path.is_file()] == []


@pytest.mark.process
def test_a_copy_stops_when_the_exception_is_over(tmp_path: Path, opened: Open) -> None:
    medium, place = folder(tmp_path)
    exception_state.forget_open(tmp_path / "exc")
    told: list[str] = []
    with pytest.raises(SekishoError):
        list(exception_copy.copy(opened, medium, place, lambda kind, _data: told.append(kind)))
    assert told == []
    assert [path for path in place.rglob("*") if path.is_file()] == []


@pytest.mark.process
def test_a_link_on_either_side_leads_nowhere(tmp_path: Path, opened: Open) -> None:
    medium, place = folder(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (place / "a").symlink_to(elsewhere)
    with pytest.raises(SekishoError):
        list(exception_copy.copy(opened, medium, place, lambda _kind, _data: None))
    assert list(elsewhere.iterdir()) == []


@pytest.mark.process
def test_out_is_journalled_before_it_is_written(tmp_path: Path) -> None:
    value = Open(
        good().id, parse_exception("x", {"device": STICK, "direction": "out"}), 2**40, 2**40
    )
    medium, place = folder(tmp_path)
    told: list[str] = []

    def tell(kind: str, data: dict[str, Any]) -> None:
        assert not (place / data["name"]).exists()
        told.append(f"{kind} {data['name']}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exception_state.read_open, "__defaults__", (tmp_path / "exc",))
        exception_state.write_open(value, tmp_path / "exc")
        done = list(exception_copy.copy(value, medium / "two.txt", place, tell))
    assert told == ["exception.file two.txt"]
    assert (place / "two.txt").read_text() == "two"
    assert done[0].size == 3


# -- the register and the audit ------------------------------------------------------------------


def line(kind: str, data: dict[str, Any], t: int = 1_795_000_000_000) -> bytes:
    return json.dumps({"kind": kind, "data": data, "t": t}, separators=(",", ":")).encode()


def test_the_register_is_what_the_journal_says() -> None:
    told = {"order": "x", "requester": "baba", "approvers": ["chiba", "aoki"], "device": STICK}
    file = {"order": "x", "name": "a", "size": 3, "sha256": "00", "by": "aoki"}
    lines = [
        line("exception.opening", told),
        line("exception.opened", told),
        line("exception.file", file),
        line("agent.started", {}),
        line("exception.closed", {**told, "why": "its window is over"}),
        line("exception.opening", {**told, "order": "y"}),
        b'{"kind":"exception.file","data":{}}',
        b'{"kind":"exception.file", cut',
    ]
    found = register(lines)
    assert (found.rows["x"]["state"], found.rows["x"]["why"]) == ("closed", "its window is over")
    assert found.rows["x"]["files"] == [
        {key: file[key] for key in ("name", "size", "sha256", "by")}
    ]
    assert found.rows["y"]["state"] == "asked"
    assert found.unreadable == 2


PROBE = {probe.name: probe for probe in PROBES}


def facts(kept: dict[str, Any] | None = None, let_in: Any = None, **more: Any) -> dict[str, Any]:
    files = {
        f"/var/lib/sekisho/orders/{name}.json": json.dumps(one)
        for name, one in (kept or {}).items()
    }
    opened = {} if let_in is None else {"/run/sekisho-exception/open.json": json.dumps(let_in)}
    raw = {
        "policy": held({"/etc/sekisho/policy.json": POLICY.as_bytes().decode()}),
        "now": ran(f"{int(more.get('now', NOW.timestamp()))}\n"),
        "kept": held(files),
        "open": held(opened),
    }
    found: dict[str, Any] = PROBE["exceptions"].parse(raw)
    return found


LET_IN = {"id": good().id, "content": CONTENT, "end": END, "deadline": 5000}


def test_the_audit_proves_what_is_open_again() -> None:
    assert facts() == {"open": [], "unproven": [], "overdue": []}
    right = facts({good().id: entry()}, LET_IN)
    assert right == {"open": [good().id], "unproven": [], "overdue": []}
    assert facts({good().id: entry(state="closed")}) == facts()
    assert facts({good().id: entry()}, LET_IN, now=END)["overdue"] == [good().id]


@pytest.mark.parametrize(
    ("kept", "let_in"),
    [
        ({}, LET_IN),
        ({}, []),
        ({good().id: entry()}, {**LET_IN, "content": {**CONTENT, "direction": "out"}}),
        ({good().id: entry()}, {**LET_IN, "end": END + 1}),
        ({good().id: entry(direction="out")}, None),
        ({good().id: entry(end_at=END + 1)}, None),
        ({good().id: entry(file="")}, None),
        ({"other": entry()}, None),
        ({good().id: entry(file=render_order(good(host="core-2")).decode())}, None),
        ({good().id: []}, None),
    ],
)
def test_the_audit_finds_what_no_order_says(kept: dict[str, Any], let_in: Any) -> None:
    assert facts(kept, let_in)["unproven"]


def test_a_policy_that_cannot_be_read_is_no_pass() -> None:
    raw = {"policy": held({}), "now": ran("1"), "kept": held({}), "open": held({})}
    with pytest.raises(ProbeError):
        PROBE["exceptions"].parse(raw)
    with pytest.raises(ProbeError):
        PROBE["devices-mode"].parse(raw)
    raw["policy"] = held({"/etc/sekisho/policy.json": "{}"})
    with pytest.raises(ProbeError, match="schema"):
        PROBE["devices-mode"].parse(raw)
    older = POLICY.as_json()
    del older["devices_mode"]
    raw["policy"] = held({"/etc/sekisho/policy.json": json.dumps(older)})
    assert PROBE["devices-mode"].parse(raw) == {"mode": "not said"}


def test_the_body_of_the_tests_is_within_its_window() -> None:
    assert body()["end"] == write_time(datetime.fromtimestamp(END, UTC))


def test_an_end_also_forgets_the_disk_that_was_pulled_out_before(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("open.json", exception_state.DISK):
        (run / name).write_text("1-3 read-only\n", encoding="ascii")
    exception_state.forget_open(run)
    assert list(run.iterdir()) == []
    exception_state.forget_open(run)
