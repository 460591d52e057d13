"""People's activity reaches the journal at least once, and the cursor never runs ahead of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentworld import Host, MemoryJournal, parsed, policy
from sekisho.core.errors import SekishoError
from sekisho.host.agent.parts import activity as agent_activity
from sekisho.host.agent.parts.activity import STOPPED, ActivityPart
from sekisho.host.kernel.audit_tail import KernelStatus


def event(serial: int, argument: str) -> str:
    """Return the records of one command of uid 2001, as auditd writes them."""
    stamp = f"msg=audit(1732240000.123:{serial}):"
    return (
        f"type=SYSCALL {stamp} arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 "
        "items=2 ppid=10 pid=11 auid=2001 uid=2001 gid=2001 euid=2001 suid=2001 fsuid=2001 "
        'egid=2001 sgid=2001 fsgid=2001 tty=pts0 ses=3 comm="echo" exe="/usr/bin/echo" '
        'subj=unconfined key="sekisho-exec"\n'
        f'type=EXECVE {stamp} argc=2 a0="echo" a1="{argument}"\n'
        f'type=CWD {stamp} cwd="/home/aoki"\n'
        f"type=PROCTITLE {stamp} proctitle=6563686F\n"
        f"type=EOE {stamp} \n"
    )


class Journal(MemoryJournal):
    """A journal whose disk is as far as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.synced = 10**9

    @property
    def stats(self) -> Any:
        return SimpleNamespace(synced_n=self.synced)

    def flush(self) -> None:
        self.synced = 10**9

    def said(self) -> list[str]:
        return [data["argv"][1] for kind, data in self.events if kind == "activity.command"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, journal=Journal())


def part_of(host: Host) -> tuple[ActivityPart, Journal]:
    journal = host.journal
    assert isinstance(journal, Journal)
    part = ActivityPart(host.book, host.paths, journal, lambda: None)  # type: ignore[arg-type]
    part.policy(parsed())
    return part, journal


def test_a_command_is_journalled_under_the_persons_name(host: Host) -> None:
    host.paths.audit_log.write_text(event(1, "hello"))
    part, journal = part_of(host)
    part.poll()
    command = next(data for kind, data in journal.events if kind == "activity.command")
    assert (command["who"], command["argv"]) == ("aoki", ["echo", "hello"])
    assert host.metrics.get("sekisho_activity_commands_total") == 1


def test_a_journal_that_refuses_makes_the_log_be_read_again(host: Host) -> None:
    host.paths.audit_log.write_text(event(1, "first"))
    part, journal = part_of(host)
    journal.full = True
    with pytest.raises(SekishoError):
        part.poll()
    journal.full = False
    part.poll()
    assert journal.said() == ["first"]


def test_the_cursor_waits_until_the_disk_has_the_record(host: Host) -> None:
    host.paths.audit_log.write_text(event(1, "first"))
    part, journal = part_of(host)
    journal.synced = 0
    for _ in range(3):
        part.poll()
        host.now += 10
    again, _ = part_of(host)  # killed before the disk had it
    again.poll()
    assert journal.said() == ["first", "first"]
    journal.synced = 10**9
    host.now += 10
    again.poll()
    third, _ = part_of(host)
    third.poll()
    assert journal.said() == ["first", "first"]


def test_a_new_policy_goes_on_where_the_old_one_was(host: Host) -> None:
    host.paths.audit_log.write_text(event(1, "first"))
    part, journal = part_of(host)
    part.poll()
    part.policy(parsed(accounts={"baba": policy()["accounts"]["aoki"] | {"role": "operator"}}))
    with host.paths.audit_log.open("a") as log:
        log.write(event(2, "second"))
    part.poll()
    assert journal.said() == ["first", "second"]
    assert [d["who"] for k, d in journal.events if k == "activity.command"] == ["aoki", "baba"]


def test_stopping_writes_what_was_still_open(host: Host) -> None:
    host.paths.audit_log.write_text(event(1, "last"))
    part, journal = part_of(host)
    part.close()
    assert journal.said() == ["last"]


def test_a_log_that_is_not_there_is_shown(host: Host) -> None:
    part, _ = part_of(host)
    part.poll()
    assert host.book.parts()["activity"] is False


def test_a_daemon_that_takes_no_records_any_more_is_told_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, journal = part_of(host)
    for pid, enabled in ((700, 1), (0, 1), (0, 1), (701, 1), (701, 0)):
        status = KernelStatus(enabled, 1, pid, 0, 8192, 0, 0)
        monkeypatch.setattr(agent_activity, "kernel_status", lambda status=status: status)
        part.ask_kernel()
    assert journal.detections() == [STOPPED, STOPPED]
    assert host.metrics.get("sekisho_audit_daemon") == 1
    assert host.metrics.get("sekisho_audit_enabled") == 0


def test_records_the_kernel_lost_are_counted_and_told(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, journal = part_of(host)
    status = KernelStatus(1, 1, 700, 0, 8192, 12, 0)
    monkeypatch.setattr(agent_activity, "kernel_status", lambda: status)
    part.ask_kernel()
    assert host.metrics.get("sekisho_audit_lost_total") == 12
    assert journal.kinds()[-1] == "activity.gap"
