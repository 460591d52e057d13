"""A maintenance order on a host: proven, used once, for one boot, shown, and ended by a timer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentworld import policy, signed, signer_pem
from guardfaults import killed_at
from orderworld import NOW, SIGNERS, good, sign, write_journal
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.host.devices import exception_state
from sekisho.host.devices.maintenance import Maintenance, Opened
from sekisho.orders.model import Act, write_time
from sekisho.orders.parse import parse_body, render_order

CONTENT = {"opens": ["modules"]}


def maintenance(**change: Any) -> bytes:
    given = {"kind": "maintenance", "content": CONTENT, **change}
    return render_order(good(**given))


class Host:
    def __init__(self, root: Path) -> None:
        self.root, self.now, self.armed, self.code = root, NOW, [], 0
        for folder in ("etc/sekisho", "var/lib/sekisho", "proc/sys/kernel/random"):
            (root / folder).mkdir(parents=True)
        people = {
            name: {
                "role": one.role.value,
                "authority_until": one.authority_until.isoformat(),
                "key": base64.b64encode(one.key).decode(),
            }
            for name, one in SIGNERS.items()
        }
        self.write(policy(orders={"people": people}))
        (root / "etc/sekisho/policy-signer.pub.pem").write_bytes(signer_pem())
        self.start("boot-1")

    def write(self, value: dict[str, Any]) -> None:
        data = canonical(value)
        (self.root / "etc/sekisho/policy.json").write_bytes(data)
        (self.root / "etc/sekisho/policy.sig").write_bytes(signed(data))

    def start(self, boot: str) -> None:
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"{boot}\n")

    def run(self, argv: Sequence[str]) -> int:
        self.armed.append(list(argv))
        return self.code

    @property
    def hand(self) -> Maintenance:
        return Maintenance(self.root, self.run, host="core-1", clock=lambda: self.now)

    def notice(self) -> str:
        path = self.root / "run/issue.d/60-sekisho-maintenance.issue"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_an_order_opens_one_boot_is_shown_and_ends_by_a_timer(host: Host) -> None:
    order = host.hand.place(maintenance(), "order")
    opened = host.hand.begin()
    assert opened == Opened(order.id, frozenset({"modules"}), write_time(order.end))
    assert "--on-active=3600" in host.armed[0]
    assert host.armed[0][-2:] == ["/usr/lib/sekisho/modules-wall", "end"]
    for word in (order.id, "chiba and aoki", "baba", order.reason, write_time(order.end)):
        assert word in host.notice()
    assert host.hand.current() == opened
    host.hand.take_down()
    assert host.notice() == ""


def test_the_next_boot_finds_it_used(host: Host) -> None:
    host.hand.place(maintenance(), "order")
    host.hand.begin()
    host.start("boot-2")
    assert host.hand.current() == Opened()
    with pytest.raises(SekishoError, match="used"):
        host.hand.begin()
    assert host.notice() == ""
    with pytest.raises(SekishoError, match="used"):
        host.hand.place(maintenance(), "order")


def test_within_its_boot_it_is_over_at_its_end(host: Host) -> None:
    host.hand.place(maintenance(), "order")
    host.hand.begin()
    host.now = NOW + timedelta(hours=1)
    assert host.hand.current() == Opened()


@pytest.mark.parametrize("hours", [-2, 1, 100])
def test_outside_its_window_it_opens_nothing_and_is_not_used_up(host: Host, hours: int) -> None:
    host.hand.place(maintenance(), "order")
    host.now = NOW + timedelta(hours=hours)
    with pytest.raises(SekishoError):
        host.hand.begin()
    assert host.armed == []
    assert not list((host.root / "var/lib/sekisho").glob("orders/*.json"))


def test_without_an_armed_end_it_opens_nothing(host: Host) -> None:
    host.hand.place(maintenance(), "order")
    host.code = 1
    with pytest.raises(SekishoError, match="armed"):
        host.hand.begin()
    assert host.notice() == ""


def test_without_an_order_nothing_opens(host: Host) -> None:
    assert host.hand.begin() == Opened()
    assert host.hand.current() == Opened()


def one_approver() -> bytes:
    asked = parse_body(dict(good(kind="maintenance", content=CONTENT).body), "order")
    return render_order(sign(asked, (Act.REQUEST, "baba", "baba"), (Act.APPROVE, "chiba", "chiba")))


def forged() -> bytes:
    asked = parse_body(dict(good(kind="maintenance", content=CONTENT).body), "order")
    return render_order(
        sign(
            asked,
            (Act.REQUEST, "baba", "baba"),
            (Act.APPROVE, "chiba", "chiba"),
            (Act.APPROVE, "aoki", "baba"),
        )
    )


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(one_approver(), id="one approver"),
        pytest.param(forged(), id="the requester signs for another"),
        pytest.param(maintenance(host="core-2"), id="another host"),
        pytest.param(maintenance(site="other"), id="another site"),
        pytest.param(maintenance(content={"opens": ["everything"]}), id="no wall"),
        pytest.param(render_order(good()), id="another kind"),
        pytest.param(maintenance()[:-40], id="cut"),
        pytest.param(b"", id="empty"),
        pytest.param(maintenance().replace(b"ticket 12", b"ticket 13"), id="changed"),
    ],
)
def test_an_order_that_does_not_hold_opens_nothing(host: Host, raw: bytes) -> None:
    with pytest.raises(SekishoError):
        host.hand.place(raw, "order")
    host.hand.order.write_bytes(raw)
    with pytest.raises(SekishoError):
        host.hand.begin()
    assert host.armed == []
    assert host.hand.current() == Opened()


def test_a_policy_that_root_wrote_by_hand_names_no_approvers(host: Host) -> None:
    host.hand.place(maintenance(), "order")
    path = host.root / "etc/sekisho/policy.json"
    path.write_bytes(path.read_bytes().replace(b'"officer"', b'"auditor"'))
    with pytest.raises(SekishoError):
        host.hand.begin()


def test_a_garbled_record_of_uses_opens_nothing(host: Host) -> None:
    host.hand.place(maintenance(), "order")
    host.hand.record.earlier.write_text("[]")  # as an earlier version kept it
    with pytest.raises(SekishoError, match="garbled"):
        host.hand.begin()
    assert host.armed == []


def test_what_an_earlier_version_kept_as_used_is_used(host: Host) -> None:
    order = host.hand.place(maintenance(), "order")
    host.hand.record.earlier.write_bytes(canonical({order.id: {"boot_id": "boot-1", "at": "x"}}))
    assert host.hand.current().id == order.id, "that boot's maintenance goes on over an upgrade"
    host.start("boot-2")
    with pytest.raises(SekishoError, match="used"):
        host.hand.begin()


@pytest.mark.process  # begins, and dies, in a process of its own
def test_killed_at_every_step_an_order_opens_one_boot_at_most(tmp_path: Path) -> None:
    step, killed = 0, True
    while killed:
        step += 1
        host = Host(tmp_path / str(step))
        armed = tmp_path / f"armed-{step}"

        def run(_argv: Sequence[str], armed: Path = armed) -> int:
            armed.touch()
            return 0

        host.run = run  # type: ignore[method-assign, assignment]
        order = host.hand.place(maintenance(), "order")
        box: Any = SimpleNamespace(watch=None, silent=False)
        killed = killed_at(box, lambda _, host=host: host.hand.begin(), step)
        if armed.exists() or host.notice():
            assert host.hand.record.used(order), f"step {step}: opened before it was used"
        opened = 0 if killed else 1
        for boot in ("boot-2", "boot-3"):
            host.start(boot)
            try:
                opened += host.hand.begin().id == order.id
            except SekishoError as bad:
                assert "used" in bad.diagnostics()  # noqa: PT017 - which of the two is no matter
        assert opened <= 1, f"step {step}"
    assert step > 8, "nothing was tried"


def test_its_use_waits_for_the_journal(host: Host) -> None:
    order = host.hand.place(maintenance(), "order")
    host.hand.begin()
    [(_, kind, data)] = exception_state.spooled(host.hand.record.store)
    assert (kind, data["order"], data["opens"]) == ("maintenance.used", order.id, ["modules"])
    assert data["approvers"] == ["chiba", "aoki"]


def test_a_clock_set_back_within_the_boot_does_not_keep_it_open(host: Host) -> None:
    host.hand.place(maintenance(), "order")
    host.hand.begin()
    (host.root / "var/lib/sekisho/journal").mkdir()
    write_journal(
        host.root / "var/lib/sekisho/journal", [(NOW + timedelta(hours=2), "agent.start", {})]
    )
    assert host.hand.current() == Opened()
