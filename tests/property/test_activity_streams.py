"""Hostile and shuffled audit streams: nothing crashes, nothing is lost, losses are counted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.activity.arguments import parse_argv
from sekisho.activity.events import parse_path, parse_syscall
from sekisho.activity.join import Joiner
from sekisho.activity.pipeline import COMMAND, GAP, Activity
from sekisho.activity.quick import ORDINARY
from sekisho.activity.records import Record, RecordError, decode, parse_line, unquote
from sekisho.activity.serials import Serials
from sekisho.host.kernel.audit_tail import ActivityTail, AuditFollower
from sekisho.probes.audit import parse_rule
from sekisho.probes.model import ProbeError

MS = 1_795_315_000_000

_TYPES = st.sampled_from(
    [
        "SYSCALL",
        "EXECVE",
        "CWD",
        "PATH",
        "PROCTITLE",
        "EOE",
        "CONFIG_CHANGE",
        "NETFILTER_CFG",
        "USER_AUTH",
        "USER_LOGIN",
        "SERVICE_STOP",
        "ADD_USER",
        "DAEMON_END",
        "KERN_MODULE",
        "ANOM_PROMISCUOUS",
        "KERNEL",
        "UNKNOWN[1420]",
        "x",
    ]
)
_FIELD = st.tuples(
    st.sampled_from(
        [
            "arch",
            "syscall",
            "success",
            "exit",
            "a0",
            "a1",
            "a2",
            "argc",
            "item",
            "name",
            "inode",
            "mode",
            "nametype",
            "auid",
            "uid",
            "euid",
            "ppid",
            "pid",
            "tty",
            "ses",
            "comm",
            "exe",
            "key",
            "msg",
            "op",
            "acct",
            "res",
            "audit_enabled",
            "old",
            "lost",
            "audit_lost",
            "unit",
        ]
    ),
    st.one_of(
        st.sampled_from(
            ["c000003e", "59", "yes", "no", "-2", "0", "2001", "4294967295", "(null)", "(none)"]
        ),
        st.sampled_from(['"sekisho-files"', '"sekisho-exec"', '"/etc/passwd"', "add_rule", "'"]),
        st.text(max_size=12),
    ),
)
_BODY = st.lists(_FIELD, max_size=24).map(
    lambda fields: " ".join(f"{name}={value}" for name, value in fields)
)


@st.composite
def _lines(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=80)).replace(b"\n", b"") + b"\n"
    seconds, milli = draw(st.integers(0, 10**10)), draw(st.integers(0, 999))
    serial = draw(st.integers(0, 40))
    head = f"type={draw(_TYPES)} msg=audit({seconds}.{milli:03d}:{serial}): "
    return (head + draw(_BODY)).replace("\n", "").encode("utf-8", "replace") + b"\n"


@given(st.binary(max_size=400))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    try:
        record = parse_line(data)
    except RecordError:
        return
    for name in record.fields:
        record.text(name)
        record.number(name)
        record.number(name, 16)
    json.dumps(record.enriched)


@given(st.binary(max_size=200))
def test_any_body_is_read_without_a_crash(body: bytes) -> None:
    parse_syscall(body)
    parse_path(body)
    parse_argv([body, body])
    Record("EXECVE", 0, 0, body).text("a0")


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=12))
def test_arguments_come_back_as_they_were_whatever_bytes_they_hold(words: list[bytes]) -> None:
    def kernel(raw: bytes) -> bytes:  # audit_log_untrustedstring
        if any(byte in b'"' or byte < 0x21 or byte > 0x7E for byte in raw):
            return raw.hex().upper().encode()
        return b'"' + raw + b'"'

    body = b"argc=%d " % len(words)
    body += b" ".join(b"a%d=%s" % (n, kernel(word)) for n, word in enumerate(words))
    argv, whole = parse_argv([body])
    assert whole
    assert argv == tuple(decode(word) for word in words)
    assert all(unquote(kernel(word)) == word for word in words)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(_lines(), max_size=60))
def test_any_stream_gives_plain_entries_and_counts_every_line(lines: list[bytes]) -> None:
    activity = Activity(people={2001: "aoki"}, administrators={"aoki"})
    entries = activity.feed(lines) + activity.flush()
    for entry in entries:
        assert isinstance(entry.data["when"], int)
        json.dumps(entry.data, allow_nan=False).encode("utf-8")
    assert activity.counters["lines"] == len(lines)
    assert activity.checkpoint().lines == len(lines)


def _execve(serial: int) -> list[bytes]:
    head = f"msg=audit({MS // 1000}.{MS % 1000:03d}:{serial}): "
    return [
        f"type=SYSCALL {head}arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 "
        f"items=1 ppid=1 pid={serial} auid=2001 uid=2001 gid=0 euid=2001 tty=pts0 ses=7 "
        f'comm="id" exe="/usr/bin/id" key="sekisho-exec"\n'.encode(),
        f'type=EXECVE {head}argc=2 a0="id" a1="{serial}"\n'.encode(),
        f'type=CWD {head}cwd="/root"\n'.encode(),
        f"type=PROCTITLE {head}proctitle=00\n".encode(),
    ]


def _interleaved(count: int, source: random.Random) -> list[bytes]:
    open_: list[list[bytes]] = []
    todo = [_execve(serial) for serial in range(1, count + 1)]
    lines: list[bytes] = []
    while todo or open_:
        while todo and len(open_) < 6:
            open_.append(todo.pop(0))
        chosen = source.randrange(len(open_))
        lines.append(open_[chosen].pop(0))
        if not open_[chosen]:
            open_.pop(chosen)
    return lines


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_interleaved_records_give_every_command_whole(count: int, source: random.Random) -> None:
    activity = Activity(people={}, administrators=set())
    entries = activity.feed(_interleaved(count, source)) + activity.flush()
    commands = [entry.data for entry in entries if entry.kind == COMMAND]
    assert sorted(int(data["argv"][1]) for data in commands) == list(range(1, count + 1))
    assert all(data["complete"] for data in commands)
    assert not [entry for entry in entries if entry.kind == GAP]


_CHANGES = st.sampled_from(
    [
        (b"success=yes", b"success=no"),
        (b"exit=0", b"exit=-13"),
        (b"arch=c000003e", b"arch=40000003"),
        (b"syscall=59", b"syscall=257"),
        (b'"/usr/bin/id"', b'"/tmp/x"'),
        (b'"/usr/bin/id"', b"2F746D702F612062"),
        (b"tty=pts0", b"tty=(none)"),
        (b"auid=2001", b"auid=4294967295"),
        (b"uid=2001 gid", b"uid=0 gid"),
        (b"mode=0100755", b"mode=0104755"),
        (b"item=1", b"item=2"),
        (b"ld-linux-x86-64.so.2", b"sh"),
        (b'cwd="/root"', b"cwd=2F61"),
        (b"proctitle=00", b"proctitle=00\x1dX=y"),
        (b"type=CWD", b"node=n type=CWD"),
        (b'a1="', b'a1="\xff'),
        (b"argc=2", b"argc=3"),
        (b"\n", b""),
        (b"type=EXECVE", b"type=EXEC?"),
    ]
)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.none() | st.tuples(_CHANGES, st.integers(0, 5)))),
    st.randoms(use_true_random=False),
)
def test_at_one_glance_or_record_by_record_is_the_same(
    events: list[tuple[int, tuple[tuple[bytes, bytes], int] | None]], source: random.Random
) -> None:
    lines: list[bytes] = []
    for serial, change in events:
        records = ordinary(serial)
        if change is not None:
            (old, new), index = change
            records[index] = records[index].replace(old, new)
        if source.random() < 0.2:
            source.shuffle(records)
        if source.random() < 0.2:
            records.pop(source.randrange(6))
        lines += records
    data = b"".join(lines).splitlines(keepends=True)
    quick = Activity(people={2001: "aoki"}, administrators={"aoki"})
    slow = Activity(people={2001: "aoki"}, administrators={"aoki"})
    slow._joiner.ordinary = None
    cut = source.randint(0, len(data))
    assert quick.feed(data[:cut]) == slow.feed(data[:cut])
    assert quick.checkpoint() == slow.checkpoint()
    assert quick.feed(data[cut:]) + quick.flush() == slow.feed(data[cut:]) + slow.flush()
    assert quick.counters == slow.counters


def ordinary(serial: int) -> list[bytes]:
    head = f"msg=audit({MS // 1000}.{MS % 1000:03d}:{serial}): "
    return [
        f"type=SYSCALL {head}arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 "
        f"items=2 ppid=1 pid={serial} auid=2001 uid=2001 gid=0 euid=2001 suid=0 fsuid=0 egid=0 "
        f'sgid=0 fsgid=0 tty=pts0 ses=7 comm="id" exe="/usr/bin/id" subj=unconfined '
        f'key="sekisho-exec"\n'.encode(),
        f'type=EXECVE {head}argc=2 a0="id" a1="{serial}"\n'.encode(),
        f'type=CWD {head}cwd="/root"\n'.encode(),
        f'type=PATH {head}item=0 name="/usr/bin/id" inode=2512 dev=fe:00 mode=0100755 ouid=0 '
        f"ogid=0 rdev=00:00 nametype=NORMAL\n".encode(),
        f'type=PATH {head}item=1 name="/lib64/ld-linux-x86-64.so.2" inode=11186 dev=fe:00 '
        f"mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL\n".encode(),
        f"type=PROCTITLE {head}proctitle=00\n".encode(),
    ]


def test_an_ordinary_command_is_read_at_one_glance() -> None:
    assert ORDINARY.fullmatch(b"".join(ordinary(7)))


@given(
    st.integers(0, 2**32 - 1),
    st.sets(st.integers(1, 198), max_size=60),
    st.randoms(use_true_random=False),
)
def test_every_number_that_never_comes_is_counted(
    base: int, lost: set[int], source: random.Random
) -> None:
    """Numbers come up to five places out of order, and run over at 32 bits."""
    there = [number for number in range(200) if number not in lost]
    for index in range(1, len(there) - 6, 6):
        part = there[index : index + 5]
        source.shuffle(part)
        there[index : index + 5] = part
    serials = Serials()
    for number in there:
        serials.seen((base + number) % 2**32, MS)
    gaps = serials.settle(MS)
    assert sum(gap.count for gap in gaps) == len(lost)
    assert serials.restarts == 0


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.integers(1, 900), max_size=60), st.randoms(use_true_random=False))
def test_however_the_log_grows_and_the_reader_dies_nothing_is_missing(
    cuts: list[int], source: random.Random
) -> None:
    data = b"".join(_interleaved(12, source))
    with TemporaryDirectory() as folder:
        log, cursor = Path(folder, "audit.log"), Path(folder, "cursor.json")
        log.touch()
        seen: list[str] = []
        at = 0

        def reader() -> ActivityTail:
            return ActivityTail(
                AuditFollower(log, cursor, boot_id="b"), Activity(people={}, administrators=set())
            )

        tail = reader()
        for cut in [*cuts, len(data)]:
            with log.open("ab") as out:
                out.write(data[at : at + cut])
            at += cut
            seen += [e.data["argv"][1] for e in tail.poll(MS) if e.kind == COMMAND]
            if source.random() < 0.7:
                tail.commit()
            if source.random() < 0.3:
                tail.follower.close()
                tail = reader()
        tail.follower.close()
        tail = reader()
        seen += [e.data["argv"][1] for e in tail.poll(MS) if e.kind == COMMAND]
        assert set(seen) == {str(number) for number in range(1, 13)}


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_audit_rule_is_read_or_refused(words: list[str]) -> None:
    for start in ("-a", "-w", "-A"):
        try:
            rule = parse_rule([start, "always,exit", *words])
        except ProbeError:
            continue
        assert rule is not None
        assert str(rule)


def test_open_events_never_grow_past_their_bound() -> None:
    joiner = Joiner(max_pending=16)
    lines = (
        b"type=SYSCALL msg=audit(1.000:%d): arch=c000003e syscall=59\n" % serial
        for serial in range(5000)
    )
    given_out = sum(1 for _ in joiner.feed(lines))
    assert joiner.open_events == 16
    assert given_out == 5000 - 16
