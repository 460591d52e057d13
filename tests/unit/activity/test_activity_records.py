"""Audit lines into records and events, held against what other projects expect of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sekisho.activity.arguments import parse_argv
from sekisho.activity.events import command_of, is_exec, parse_path, parse_syscall
from sekisho.activity.join import Event, Joiner
from sekisho.activity.records import MAX_LINE, UNSET, Record, RecordError, decode, parse_line
from sekisho.activity.serials import Gap, Serials

SYSCALL = (
    b"arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=2 ppid=10 pid=11 "
    b"auid=2001 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=7 "
    b'comm="id" exe="/usr/bin/id" subj=unconfined key="sekisho-exec"'
)


def line(type_: str, serial: int, body: bytes, ms: int = 1_000_000_000_000) -> bytes:
    head = f"type={type_} msg=audit({ms // 1000}.{ms % 1000:03d}:{serial}): "
    return head.encode() + body + b"\n"


def execve(serial: int, *, ms: int = 1_000_000_000_000, end: str = "PROCTITLE") -> list[bytes]:
    return [
        line("SYSCALL", serial, SYSCALL, ms),
        line("EXECVE", serial, b'argc=1 a0="id"', ms),
        line("CWD", serial, b'cwd="/home/aoki"', ms),
        line("PATH", serial, b'item=0 name="/usr/bin/id" inode=1 mode=0100755 nametype=NORMAL', ms),
        line(end, serial, b"proctitle=6964" if end == "PROCTITLE" else b"", ms),
    ]


def join(lines: list[bytes], **options: int) -> tuple[list[Event], Joiner]:
    joiner = Joiner(**options)
    return [*joiner.feed(lines), *joiner.flush()], joiner


def test_a_record_gives_its_type_time_serial_and_fields() -> None:
    record = parse_line(line("SYSCALL", 42, SYSCALL, 1_492_037_291_036))
    assert (record.type, record.ms, record.serial) == ("SYSCALL", 1_492_037_291_036, 42)
    assert record.number("auid") == 2001
    assert record.text("exe") == "/usr/bin/id"
    assert record.number("arch", 16) == 0xC000003E
    assert record.text("nothing") is None


def test_a_value_in_hex_is_decoded_only_where_the_kernel_encodes() -> None:
    record = parse_line(line("SYSCALL", 1, b"a0=6162 exe=2F746D702F6120620A comm=(null)"))
    assert record.text("exe") == "/tmp/a b\n"
    assert record.text("a0") == "6162"  # a register, not text
    assert record.text("comm") is None
    assert parse_line(line("EXECVE", 1, b"argc=1 a0=6162")).text("a0") == "ab"


def test_what_auditd_adds_never_overrules_the_kernel() -> None:
    record = parse_line(line("SYSCALL", 1, b'auid=2001 uid=0\x1dAUID="root" auid=0 UID="root"'))
    assert record.number("auid") == 2001
    assert record.enriched["AUID"] == "root"
    assert "AUID" not in record.fields


def test_what_a_program_says_never_overrules_the_kernel() -> None:
    body = b"pid=5 uid=0 auid=2002 ses=3 msg='op=login acct=\"x\" auid=0 pid=1 res=failed'"
    record = parse_line(line("USER_LOGIN", 1, body))
    assert (record.number("auid"), record.number("pid")) == (2002, 5)
    assert (record.text("acct"), record.text("res")) == ("x", "failed")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\n",
        b"type=SYSCALL",
        b"type=SYSCALL msg=audit(1.000:x): a=b",
        b"type=SYSCALL msg=audit(1.000:4294967296): a=b",
        b"type=SYSCALL msg=audit(99999999999999.000:1): a=b",
        b"\x00\xff" * 40,
        b"type=SYSCALL msg=audit(1.000:1): " + b"a" * MAX_LINE,
    ],
)
def test_a_line_that_is_no_record_is_refused(bad: bytes) -> None:
    with pytest.raises(RecordError):
        parse_line(bad)


def test_bytes_that_are_not_text_stay_visible() -> None:
    assert decode(b"a\xff\x1b") == "a\\xff\x1b"


def test_an_event_ends_with_proctitle_or_with_eoe() -> None:
    for end in ("PROCTITLE", "EOE"):
        joiner = Joiner()
        (event,) = joiner.feed(execve(7, end=end))
        assert event.complete
        assert joiner.open_events == 0


def test_records_of_two_events_may_interleave() -> None:
    one, two = execve(7), execve(8)
    mixed = [each for pair in zip(one, two, strict=True) for each in pair]
    events, joiner = join(mixed)
    assert [(event.serial, len(event.bodies), event.complete) for event in events] == [
        (7, 5, True),
        (8, 5, True),
    ]
    assert joiner.gaps == []


def test_an_event_without_its_end_is_given_out_by_the_clock_of_the_log_and_marked() -> None:
    joiner = Joiner(timeout_ms=2000)
    assert list(joiner.feed(execve(7)[:-1])) == []
    given = []
    for number in range(8, 20):  # no single stamp ends what is open: a call, or the clock, may jump
        given += joiner.feed(execve(number, ms=1_000_000_003_000 + 3_000 * (number - 8)))
    assert [event.serial for event in given if not event.complete] == [7]
    assert [event.serial for event in given if event.complete] == list(range(8, 20))
    assert joiner.incomplete == 1


def test_a_clock_that_steps_back_does_not_keep_an_event_for_ever() -> None:
    joiner = Joiner(timeout_ms=2000)
    assert list(joiner.feed(execve(7, ms=1_000_000_500_000)[:-1])) == []
    given = []
    for number in range(8, 120):
        given += joiner.feed(execve(number, ms=1_000_000_000_000 + 100 * number))
    assert 7 in [event.serial for event in given]
    assert joiner.incomplete == 1


def test_a_record_that_comes_after_its_event_was_given_out_is_counted() -> None:
    joiner = Joiner()
    list(joiner.feed(execve(7)))
    assert list(joiner.feed([line("PATH", 7, b"item=9")])) == []
    assert list(joiner.feed([line("EOE", 7, b"")])) == []  # only the end: nothing is late
    assert joiner.late == 1


def test_open_events_are_bounded_and_the_overflow_is_told() -> None:
    lines = [line("SYSCALL", serial, SYSCALL) for serial in range(1, 12)]
    joiner = Joiner(max_pending=10)
    given = list(joiner.feed(lines))
    assert [event.serial for event in given] == [1]
    assert [gap.reason for gap in joiner.take_gaps()] == ["overflow"]


def test_an_event_is_bounded_and_marked_when_cut() -> None:
    lines = [line("SYSCALL", 1, SYSCALL)]
    lines += [line("PATH", 1, b"item=0 name=" + b"41" * 500) for _ in range(20)]
    lines += [line("PROCTITLE", 1, b"proctitle=6964")]
    events, joiner = join(lines, max_bytes=8192)
    assert len(events) == 1
    assert not events[0].complete
    assert joiner.dropped_records > 0


def test_a_missing_number_is_a_gap_and_a_late_one_is_none() -> None:
    serials = Serials()
    for serial in (10, 13, 12):
        serials.seen(serial, 1000)
    assert serials.settle(999) == []
    (gap,) = serials.settle(1000)
    assert (gap.reason, gap.count, gap.first, gap.last) == ("serial", 1, 11, 11)


def test_numbers_run_over_at_32_bits_without_a_gap() -> None:
    serials = Serials()
    for serial in (UNSET - 1, UNSET, 0, 1):
        serials.seen(serial, 1000)
    assert serials.settle(10_000) == []


def test_a_restart_of_the_kernel_is_no_gap() -> None:
    serials = Serials()
    for serial, ms in ((900, 1000), (901, 1001), (1, 90_000), (2, 90_001)):
        serials.seen(serial, ms)
    assert serials.settle(1_000_000) == []
    assert serials.restarts == 1


def test_a_great_hole_costs_no_memory_and_is_counted() -> None:
    serials = Serials()
    serials.seen(1, 1000)
    serials.seen(1_000_001, 1000)
    assert [gap.count for gap in serials.settle(2000)] == [999_999]


def test_the_daemons_own_numbers_do_not_count() -> None:
    lines = [
        *execve(7),
        line("DAEMON_ROTATE", 991, b"op=rotate-logs auid=0 pid=1 res=success"),
        *execve(8),
    ]
    events, joiner = join(lines)
    assert len(events) == 3
    assert joiner.gaps == []


def test_an_argument_in_pieces_is_put_together() -> None:
    argv, whole = parse_argv(
        [b'argc=3 a0="x" a1_len=6 a1[0]=616263', b" a1[1]=646566", b' a2="last one"']
    )
    assert argv == ("x", "abcdef", "last one")
    assert whole


def test_a_missing_argument_or_piece_is_told() -> None:
    assert parse_argv([b'argc=3 a0="x" a2="y"']) == (("x", "y"), False)
    assert not parse_argv([b'argc=2 a0="x" a1_len=9 a1[1]=646566'])[1]
    assert not parse_argv([])[1]


def test_a_hostile_argument_cannot_pose_as_another_field() -> None:
    value = b'x" a1="forged'.hex().upper().encode()
    argv, whole = parse_argv([b"argc=1 a0=" + value])
    assert argv == ('x" a1="forged',)
    assert whole


def test_a_command_names_the_person_behind_root() -> None:
    (event,), _ = join(execve(7))
    call = parse_syscall(event.body(b"SYSCALL") or b"")
    assert call is not None
    assert is_exec(call)
    command = command_of(event, call, {2001: "aoki"})
    assert (command.who, command.uid, command.argv, command.cwd) == (
        "aoki",
        0,
        ("id",),
        "/home/aoki",
    )
    assert (command.arch, command.session, command.terminal, command.complete) == (
        64,
        7,
        "pts0",
        True,
    )
    json.dumps(command.data())


def test_a_32_bit_call_is_told_from_a_64_bit_call() -> None:
    body = SYSCALL.replace(b"arch=c000003e syscall=59", b"arch=40000003 syscall=11")
    call = parse_syscall(body)
    assert call is not None
    assert is_exec(call)
    assert call.bits == 32
    other = parse_syscall(SYSCALL.replace(b"arch=c000003e", b"arch=40000003"))  # 59 is oldolduname
    assert other is not None
    assert not is_exec(other)


def test_a_script_is_named_beside_its_interpreter() -> None:
    paths = [
        b'item=0 name="./go.sh" inode=5 dev=fe:00 mode=0100755 nametype=NORMAL',
        b'item=1 name="/bin/sh" inode=6 dev=fe:00 mode=0100755 nametype=NORMAL',
        b'item=2 name="/lib64/ld-linux-x86-64.so.2" inode=7 dev=fe:00 nametype=NORMAL',
    ]
    lines = execve(7)
    lines[3:4] = [line("PATH", 7, path) for path in reversed(paths)]
    (event,), _ = join(lines)
    call = parse_syscall(event.body(b"SYSCALL") or b"")
    assert call is not None
    assert command_of(event, call, {}).script == "./go.sh"


def test_a_program_and_its_loader_are_no_script() -> None:
    lines = execve(7)
    lines[4:4] = [
        line("PATH", 7, b'item=1 name="/lib64/ld-linux-x86-64.so.2" inode=9 nametype=NORMAL')
    ]
    (event,), _ = join(lines)
    call = parse_syscall(event.body(b"SYSCALL") or b"")
    assert call is not None
    assert command_of(event, call, {}).script is None


def test_a_path_record_of_any_shape_is_read() -> None:
    path = parse_path(b'item=1 name=(null) inode=3 dev=00:2f mode=0104755 nametype="CREATE"')
    assert (path.item, path.name, path.mode, path.nametype) == (1, "", 0o104755, "CREATE")
    assert parse_path(b"item=x mode=99z").mode == 0


# --- what others expect ----------------------------------------------------------------------

LAUREL = [
    "adjntpval",
    "anom-promiscuous",
    "avc-apparmor",
    "bind-ipv4-bigendian",
    "execve-long",
    "execve",
    "login",
    "nscd",
    "perl-reverse-shell",
    "ptrace",
    "syscall-key",
    "syscall-nullkey",
    "uringop",
    "weblogic",
]


@pytest.mark.parametrize("name", LAUREL)
def test_laurels_records_say_what_laurel_expects(name: str, shared_data: Path) -> None:
    folder = shared_data / "laurel/src/testdata"
    lines = (folder / f"record-{name}.txt").read_bytes().splitlines(keepends=True)
    expected = [
        json.loads(entry) for entry in (folder / f"record-{name}.json").read_text().splitlines()
    ]
    events, joiner = join(lines)
    assert joiner.malformed == 0
    by_id = {event.id.decode(): event for event in events}
    compared = 0
    for wanted in expected:
        event = by_id[wanted["ID"]]
        for type_, values in wanted.items():
            if type_ in ("ID", "NODE", "PROCTITLE", "SOCKADDR"):
                continue
            for index, fields in enumerate(values if isinstance(values, list) else [values]):
                record = event.records(type_)[index]
                for field, value in fields.items():
                    compared += _agrees(event, record, field, value)
    assert compared > 5


def _agrees(event: Event, record: object, field: str, value: object) -> bool:
    assert isinstance(record, Record)
    if field == "ARGV":
        assert isinstance(value, list)
        if record.type == "EXECVE":
            assert list(parse_argv(r.body for r in event.records("EXECVE"))[0]) == [
                text[:16384] for text in value
            ]
        else:
            registers = [f"0x{record.text(f'a{n}')}" for n in range(len(value))]
            assert registers == value
        return True
    if field.isupper() or field.startswith("OLD-A"):
        assert record.enriched[field] == value or record.type == "SOCKADDR"
        return True
    if value is None:
        assert record.text(field) is None
    elif isinstance(value, int):
        assert record.number(field) == value
    else:
        text = record.text(field)
        for prefix, base in (("0x", 16), ("0o", 8)):
            if isinstance(value, str) and value.startswith(prefix):
                assert int(text or "", base) == int(value, base)
                return True
        assert text == value
    return True


@pytest.mark.parametrize(
    "name", ["audit-rhel6", "audit-rhel7", "audit-ubuntu14", "audit-ubuntu16", "audit-ubuntu17"]
)
def test_go_libaudits_records_say_what_it_expects(name: str, shared_data: Path) -> None:
    folder = shared_data / "go-libaudit/auparse/testdata"
    golden = json.loads((folder / f"{name}.log.golden").read_text())
    compared = 0
    for wanted in golden:
        if wanted is None or "raw_msg" not in wanted:  # a line it could not read either
            continue
        raw = wanted["raw_msg"].encode()
        record = parse_line(b"type=" + wanted["record_type"].upper().encode() + b" msg=" + raw)
        assert record.serial == wanted["sequence"]
        for field, value in wanted.get("data", {}).items():
            if record.text(field) is None:
                continue  # Elastic's own names, and values it works out (result, argc …)
            if field in ("arch", "syscall", "saddr", "sig", "audit_enabled") or value == "unset":
                continue
            got = (record.text(field) or "").replace("\x00", " ").strip("'\" ")
            assert got == value or field in _ELASTIC_MEANS_SOMETHING_ELSE, field
            compared += 1
    assert compared > 3


#: Translated by go-libaudit into names, or cut out of a free text.
_ELASTIC_MEANS_SOMETHING_ELSE = {
    "op",
    "ver",
    "acct",
    "mode",
    "a0",
    "a1",
    "a2",
    "a3",
    "path",
    "exit",
}


@pytest.mark.parametrize(
    ("name", "missing"), [("normal", 0), ("out_of_order", 0), ("lost_messages", 9), ("rollover", 0)]
)
def test_losses_are_counted_as_go_libaudit_counts_them(
    name: str, missing: int, shared_data: Path
) -> None:
    lines = (shared_data / f"go-libaudit/testdata/{name}.log").read_bytes().splitlines(True)
    events, joiner = join(lines)
    assert len(events) == 5
    gaps: list[Gap] = joiner.take_gaps()
    assert sum(gap.count for gap in gaps if gap.reason == "serial") == missing


def test_a_reordered_trace_gives_the_same_commands(shared_data: Path) -> None:
    folder = shared_data / "laurel/src/testdata"

    def commands(name: str) -> set[tuple[str, ...]]:
        events, _ = join((folder / name).read_bytes().splitlines(keepends=True))
        found = set()
        for event in events:
            call = parse_syscall(event.body(b"SYSCALL") or b"")
            if call is not None and is_exec(call):
                found.add(command_of(event, call, {}).argv)
        return found

    assert commands("shell-proc-trace.txt") == commands("shell-proc-trace-reordered.txt")
