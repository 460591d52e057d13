"""The writer against every power cut, every failing write, and a stranger's hands."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sekisho.core.errors import SekishoError
from sekisho.host.journal.disk import Disk
from sekisho.host.journal.options import Options
from sekisho.host.journal.store import JournalWriter
from sekisho.journal.records import Origin, encode_data, make_line, parse_line
from sekisho.journal.report import Report
from sekisho.journal.verification import verify
from sekisho.local.journal_files import segments

KEY = ec.generate_private_key(ec.SECP384R1())
STEP = Options(background=False, seal_records=10, segment_bytes=4000)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Give a folder in memory where there is one: these tests sync a lot."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


def open_writer(path: Path, options: Options = STEP, disk: Disk | None = None) -> JournalWriter:
    ticks = iter(range(1_000, 10_000_000))
    return JournalWriter.open(
        path, "core-1", "b0", KEY, lambda: next(ticks), options=options, disk=disk
    )


def check(path: Path, head: bytes | None = None) -> Report:
    return verify(segments(path), KEY.public_key(), head)


def kinds(path: Path) -> list[str]:
    return [parse_line(line).kind for part in segments(path) for line in part.lines]


def test_what_was_appended_verifies_and_the_head_shows_it_complete(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    numbers = [writer.append("e", {"i": i, "pad": "x" * 100}) for i in range(100)]
    assert numbers == sorted(set(numbers))
    writer.close()
    report = check(tmp_path, (tmp_path / "head.json").read_bytes())
    assert (report.findings, report.head, report.exit_code) == ([], "matches", 0)
    assert report.segments > 3
    assert report.seals >= 10
    assert check(tmp_path).exit_code == 2  # no outside head: completeness not shown


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for _ in range(3):
        writer = open_writer(tmp_path)
        last = writer.append("e", {})
        head = writer.seal()
        writer.close()
    report = check(tmp_path, head)
    assert (report.exit_code, report.head) == (0, "inside")
    assert report.last_n > last


def test_two_writers_do_not_share_a_journal(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    with pytest.raises(SekishoError, match="another writer"):
        open_writer(tmp_path)
    writer.close()
    open_writer(tmp_path).close()


def test_the_writers_own_kinds_cannot_be_appended(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    for kind in ("seal", "journal.repaired", "Bad", ""):
        with pytest.raises(SekishoError):
            writer.append(kind, {})
    assert writer.stats.refused == 4
    writer.close()
    with pytest.raises(SekishoError, match="closed"):
        writer.append("e", {})


def test_a_power_cut_at_any_byte_of_the_last_record_is_repaired_and_reported(
    tmp_path: Path,
) -> None:
    first = tmp_path / "first"
    writer = open_writer(first, Options(background=False))
    for i in range(5):
        writer.append("e", {"i": i})
    writer.seal()
    writer.append("last", {"text": "né à Kyōto"})
    writer.flush()
    segment = min(first.glob("*.jsonl"))
    whole = segment.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    last_n = parse_line(whole[start:]).n
    for cut in range(start, len(whole) + 1):
        place = tmp_path / "cut"
        shutil.copytree(first, place)
        with (place / segment.name).open("r+b") as stream:
            stream.truncate(cut)
        again = open_writer(place, Options(background=False))
        stats = again.stats
        again.append("after", {})
        again.close()
        report = check(place, (place / "head.json").read_bytes())
        assert report.exit_code == 0, (cut, report.findings)
        if start < cut < len(whole):
            assert stats.repaired == 1
            assert report.repaired[0]["bytes"] == cut - start
            assert report.repaired[0]["n"] == last_n
            assert (place / report.repaired[0]["kept"]).read_bytes() == whole[start:cut]
        else:
            assert report.repaired == []
        shutil.rmtree(place)
    writer.close()


def test_zeros_where_the_disk_had_not_written_are_a_torn_tail(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    writer.append("e", {})
    writer.flush()
    segment = max(tmp_path.glob("*.jsonl"))
    whole = segment.read_bytes()
    writer.close()
    segment.write_bytes(whole + bytes(5000))
    (tmp_path / "head.json").unlink()
    open_writer(tmp_path).close()
    report = check(tmp_path)
    assert report.integrity == "pass"
    assert report.repaired[0]["bytes"] == 5000


@pytest.mark.parametrize("damage", ["flip", "drop", "shorten", "delete", "head", "swap"])
def test_a_strangers_damage_is_never_repaired_but_named_and_recording_goes_on(  # noqa: C901 - one case per damage
    tmp_path: Path, damage: str
) -> None:
    writer = open_writer(tmp_path, Options(background=False, segment_bytes=3000))
    for i in range(30):
        writer.append("e", {"i": i})
    writer.close()
    paths = sorted(tmp_path.glob("*.jsonl"))
    lines = paths[-1].read_bytes().splitlines(keepends=True)
    evidence = paths[-1].name
    match damage:
        case "flip":
            lines[1] = lines[1].replace(b'"i":', b'"j":')
            paths[-1].write_bytes(b"".join(lines))
        case "drop":
            del lines[1]
            paths[-1].write_bytes(b"".join(lines))
        case "swap":
            lines[0], lines[1] = lines[1], lines[0]
            paths[-1].write_bytes(b"".join(lines))
        case "shorten":
            paths[-1].write_bytes(b"".join(lines[:-1]))
        case "delete":
            for path in paths:
                path.unlink()
        case "head":
            (tmp_path / "head.json").write_bytes(b"{}")
    kept = paths[-1].read_bytes() if damage != "delete" else b""
    again = open_writer(tmp_path)
    assert again.stats.broken == 1
    assert again.stats.repaired == 0
    number = again.append("after", {}, durable=True)
    again.close()
    assert number
    if damage != "delete":
        assert (tmp_path / evidence).read_bytes().startswith(kept[:200])
    report = check(tmp_path)
    assert len(report.broken) == 1
    assert report.broken[0]["reason"]
    if damage == "head":  # the chain itself is whole
        assert report.integrity == "pass"
        assert list(tmp_path.glob("head-*.refused"))
    else:
        assert report.exit_code == 1
    third = open_writer(tmp_path)  # said once, not at every start
    assert third.stats.broken == 0
    third.close()


def test_what_a_killed_writer_left_unsealed_is_sealed_at_the_next_start(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "j")
    for i in range(5):
        writer.append("e", {"i": i})
    writer.flush()
    shutil.copytree(tmp_path / "j", tmp_path / "killed")  # as the disk was when it was killed
    later = iter(range(9_000_000_000, 10_000_000_000))
    again = JournalWriter.open(
        tmp_path / "killed", "core-1", "b1", KEY, lambda: next(later), options=STEP
    )
    report = check(tmp_path / "killed")
    assert (report.integrity, report.unproven, report.broken) == ("pass", 0, [])
    again.close()
    writer.close()


@pytest.mark.parametrize(("forged", "told"), [(900, False), (1100, True), (4000, True)])
def test_a_start_does_not_sign_records_that_no_writer_left(
    tmp_path: Path, forged: int, *, told: bool
) -> None:
    writer = open_writer(tmp_path, Options(background=False))
    writer.append("e", {})
    writer.close()
    path = next(tmp_path.glob("*.jsonl"))
    last = parse_line(path.read_bytes().splitlines(keepends=True)[-1])
    prev, lines = last.hash, []
    for n in range(last.n + 1, last.n + 1 + forged):
        body = encode_data({"forged": True})
        raw, prev = make_line(Origin("core-1", "b0"), n, last.t, "e", body, prev)
        lines.append(raw)
    with path.open("ab") as stream:
        stream.write(b"".join(lines))
    open_writer(tmp_path, Options(background=False)).close()
    report = check(tmp_path)
    assert [entry["reason"] for entry in report.broken] == (
        [f"{forged} records behind the last seal; the writer leaves at most 1000"] if told else []
    )


def test_a_start_says_that_the_last_seal_is_by_another_key(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    JournalWriter.open(tmp_path, "core-1", "b0", other, options=STEP).close()
    (tmp_path / "head.json").unlink()
    open_writer(tmp_path).close()
    assert "its last seal is not by this host's key" in {
        entry["reason"] for entry in check(tmp_path).broken
    }


@pytest.mark.parametrize("wrong", [{"seal_records": 1001}, {"seal_seconds": 61.0}])
def test_the_writer_cannot_promise_less_than_the_verifier_believes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="seal_"):
        Options(**wrong)


def test_a_renamed_host_does_not_stop_the_recording(tmp_path: Path) -> None:
    open_writer(tmp_path).close()
    writer = JournalWriter.open(tmp_path, "core-2", "b1", KEY, lambda: 9, options=STEP)
    writer.append("e", {})
    assert writer.stats.broken == 1
    writer.close()
    assert [finding.what for finding in check(tmp_path).findings] == ["host"]


class FailingDisk(Disk):
    """Fails the N-th operation (and all after it when ``for_good``), as the kernel would."""

    def __init__(self, fail_at: int, number: int, *, for_good: bool) -> None:
        self.count, self.fail_at, self.number, self.for_good = 0, fail_at, number, for_good

    def _step(self) -> bool:
        self.count += 1
        return self.count == self.fail_at or (self.for_good and self.count > self.fail_at > 0)

    def _fail(self) -> None:
        if self._step():
            raise OSError(self.number, os.strerror(self.number))

    def open(self, path: Path, *, create: bool = False) -> int:
        self._fail()
        return super().open(path, create=create)

    def write(self, fd: int, data: bytes, offset: int) -> int:
        if self._step():
            super().write(fd, data[: len(data) // 2], offset)  # half of it gets there
            raise OSError(self.number, os.strerror(self.number))
        return super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._fail()
        super().sync(fd)

    def truncate(self, fd: int, size: int) -> None:
        self._fail()
        super().truncate(fd, size)

    def rename(self, old: Path, new: Path) -> None:
        self._fail()
        super().rename(old, new)

    def sync_dir(self, path: Path) -> None:
        self._fail()
        super().sync_dir(path)


def work(path: Path, disk: Disk) -> tuple[list[int], int]:
    """Append durably what the disk allows; return the confirmed numbers and the losses told."""
    confirmed: list[int] = []
    lost, told = 0, []
    try:
        writer = open_writer(path, disk=disk)
    except SekishoError:
        return confirmed, 0
    for i in range(25):
        before = writer.stats.last_n
        try:
            confirmed.append(writer.append("e", {"i": i, "pad": "x" * 150}, durable=True))
        except SekishoError as error:
            told.append(error)
            lost += writer.stats.last_n == before
    with contextlib.suppress(SekishoError):
        writer.close()
    assert all(error.problems for error in told)  # clear, not silent
    return confirmed, lost


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("for_good", [False, True])
def test_whichever_operation_fails_nothing_confirmed_is_lost(
    tmp_path: Path, number: int, *, for_good: bool
) -> None:
    counting = FailingDisk(0, number, for_good=False)
    work(tmp_path / "count", counting)
    assert counting.count > 60
    for fail_at in range(1, counting.count + 1):
        place = tmp_path / str(fail_at)
        # A torn tail to begin with, so that the repair itself is failed as well.
        writer = open_writer(place)
        writer.append("e", {}, durable=True)
        writer.close()
        with max(place.glob("*.jsonl")).open("ab") as stream:
            stream.write(b'{"boot":"b0","da')
        confirmed, lost = work(place, FailingDisk(fail_at, number, for_good=for_good))
        open_writer(place).close()
        report = check(place, (place / "head.json").read_bytes())
        assert report.exit_code == 0, (fail_at, report.findings)
        held = {parse_line(line).n for part in segments(place) for line in part.lines}
        assert set(confirmed) <= held, fail_at
        assert report.repaired, fail_at
        if not for_good:
            assert report.lost == lost, fail_at


def test_losses_are_told_by_a_record_once_the_disk_takes_records_again(tmp_path: Path) -> None:
    disk = FailingDisk(0, errno.ENOSPC, for_good=True)
    writer = open_writer(tmp_path, disk=disk)
    disk.fail_at = disk.count + 1
    for _ in range(7):
        with pytest.raises(SekishoError, match="not journalled"):
            writer.append("e", {})
    assert (writer.stats.lost, writer.stats.last_error != "") == (7, True)
    disk.fail_at, disk.for_good = 0, False
    writer.append("e", {}, durable=True)
    writer.close()
    report = check(tmp_path)
    assert (report.lost, report.integrity) == (7, "pass")


def test_a_disk_that_never_syncs_is_refused_in_the_end(tmp_path: Path) -> None:
    class NoSync(Disk):
        refusing = False

        def sync(self, fd: int) -> None:
            if self.refusing:
                raise OSError(errno.EIO, "no sync")
            super().sync(fd)

    disk = NoSync()
    options = Options(background=False, unsynced_bytes=2000)
    writer = open_writer(tmp_path, options, disk)
    disk.refusing = True
    with pytest.raises(SekishoError, match="not known to be on the disk"):
        writer.append("e", {}, durable=True)
    while writer.stats.appended < 5:
        writer.append("e", {"pad": "x" * 400})
    with pytest.raises(SekishoError, match="not journalled"):
        writer.append("e", {})
    disk.refusing = False
    writer.append("e", {}, durable=True)
    writer.close()
    assert check(tmp_path).integrity == "pass"


def test_many_threads_write_one_chain(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, Options(window_ms=5, segment_bytes=20_000, seal_records=50))

    def run(name: int) -> None:
        for i in range(100):
            writer.append("e", {"thread": name, "i": i}, durable=i % 25 == 0)

    threads = [threading.Thread(target=run, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.flush()
    assert writer.stats.synced_n >= 600
    writer.close()
    report = check(tmp_path, writer.head)
    assert (report.exit_code, report.head) == (0, "matches")
    seen = [
        (record.data["thread"], record.data["i"])
        for part in segments(tmp_path)
        for record in map(parse_line, part.lines)
        if record.kind == "e"
    ]
    assert sorted(seen) == [(name, i) for name in range(6) for i in range(100)]


def test_a_quiet_journal_is_sealed_by_time_and_its_head_written(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, Options(window_ms=5, seal_seconds=0.05))
    writer.append("e", {})
    waited = threading.Event()
    for _ in range(100):
        if (tmp_path / "head.json").exists():
            break
        waited.wait(0.05)
    assert json.loads((tmp_path / "head.json").read_bytes())["n"] == writer.stats.sealed_n
    sealed = writer.stats.seals
    waited.wait(0.2)
    assert writer.stats.seals == sealed  # no seal upon a seal
    writer.close()


PROGRAM = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sekisho.host.journal.options import Options
from sekisho.host.journal.store import JournalWriter
key = load_pem_private_key(Path(sys.argv[2]).read_bytes(), None)
writer = JournalWriter.open(Path(sys.argv[1]), "core-1", "b0", key,
                            options=Options(window_ms=5, segment_bytes=30000, seal_records=20))
i = 0
while True:
    n = writer.append("e", {"i": i, "pad": "x" * (i % 700)}, durable=i % 10 == 0)
    print(n, flush=True)
    i += 1
"""


@pytest.mark.process
def test_kill_nine_at_any_moment_loses_no_record_it_had_answered_for(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(
        KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    place = tmp_path / "journal"
    agent = Path(__file__).resolve().parents[3] / "agent"
    for kill_after in (1, 40, 173, 400):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(place), str(key)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(agent)},
        ) as process:
            assert process.stdout is not None
            answered = [int(process.stdout.readline()) for _ in range(kill_after)]
            process.send_signal(signal.SIGKILL)
            answered += [int(line) for line in process.stdout if line.endswith(b"\n")]
        open_writer(place, Options(background=False)).close()
        report = check(place, (place / "head.json").read_bytes())
        assert report.exit_code == 0, report.findings
        assert answered[-1] <= report.last_n


def test_a_record_that_comes_late_follows_the_seal_that_was_due(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, Options(background=False, seal_seconds=0.05))
    writer.append("e", {})
    time.sleep(0.1)
    writer.append("late", {})
    assert kinds(tmp_path) == ["journal.opened", "e", "seal", "late"]
    writer.close()
