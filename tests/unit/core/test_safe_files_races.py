"""Races: an unprivileged process exchanges folders for links all the time, and wins nothing.

The attacker is uid 65534 and does nothing but renameat2(RENAME_EXCHANGE), as fast as it can; root
does its work thousands of times meanwhile. Afterwards everything of root's is as it was. Each test
also sees that the work was done in some rounds and that the attacker was at it: a race nobody ran
proves nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import os
import shutil
import signal
import stat
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playbookmodules import module
from sekisho.core.errors import SekishoError
from sekisho.core.safe_files import set_aside
from sekisho.host.devices import exception_copy, exception_state
from sekisho.host.transfer.files import open_beneath
from sekisho.host.transfer.outbox import Job, open_outbox
from sekisho.local.collect import read
from sekisho.probes.model import Read

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.geteuid() != 0, reason="the attacker needs a user of its own"),
]
NOBODY = 65534
MARK = "the secret of root"
ROUNDS = [pytest.param(2_000, id="2000"), pytest.param(10_000, id="10000", marks=pytest.mark.slow)]
AT_IT = 100  # exchanges before root begins; more must follow
_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _EXCHANGE = -100, 2


class Asked:
    """Stand for AnsibleModule."""

    check_mode = False
    params: dict[str, Any] = {"privileged": []}  # noqa: RUF012 - never changed

    def fail_json(self, **said: Any) -> None:
        raise AssertionError(said)


@pytest.fixture
def world() -> Iterator[Path]:
    """Give a folder of root's that everybody can enter: home/ is the attacker's, root/ is not."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="sekisho-race-"))
    base.chmod(0o755)
    (base / "root").mkdir(mode=0o755)
    (base / "home").mkdir(mode=0o755)
    os.chown(base / "home", NOBODY, NOBODY)
    yield base
    shutil.rmtree(base)


@contextlib.contextmanager
def exchanging(*pairs: tuple[Path, Path]) -> Iterator[Callable[[], int]]:
    """Have the attacker exchange each pair for ever; gives how often it did."""
    words = [(os.fsencode(one), os.fsencode(other)) for one, other in pairs]
    counter = mmap.mmap(-1, 8)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        done = 0
        while True:
            for one, other in words:
                done += _LIBC.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _EXCHANGE) == 0
            struct.pack_into("q", counter, 0, done)

    def count() -> int:
        return int(struct.unpack_from("q", counter, 0)[0])

    try:
        until = time.monotonic() + 60
        while count() <= AT_IT and time.monotonic() < until:  # a busy machine lets it wait
            time.sleep(0.001)
        yield count
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def own(path: Path) -> None:
    for one in [path, *path.rglob("*")]:
        os.chown(one, NOBODY, NOBODY, follow_symlinks=False)


def link(name: Path, target: Path) -> Path:
    name.symlink_to(target)
    os.chown(name, NOBODY, NOBODY, follow_symlinks=False)
    return name


def state_of(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Return what is there: mode, owner, group, content by path."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        info = path.lstat()
        text = path.read_text() if stat.S_ISREG(info.st_mode) else ""
        found[str(path)] = (info.st_mode, info.st_uid, info.st_gid, text)
    return found


def bait(theirs: Path, names: list[str], how: str) -> None:
    """Lay out what root's walk finds to be mended, in the attacker's folder."""
    shutil.rmtree(theirs)
    theirs.mkdir()
    for name in names:
        path = theirs / name
        if how == "folder":
            path.mkdir()
        elif how == "device":
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        else:
            path.touch()
    own(theirs)
    for name in names:
        if how == "nobody's":
            os.chown(theirs / name, 54321, 54321)
        (theirs / name).chmod(0o6777 if how == "folder" else 0o666)


def put(folder: Path, name: str) -> None:
    """Put a file in a folder that may be a link at this moment: then nothing is put."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, dir_fd=handle)
            os.write(file, b"harmless")
            os.close(file)
        finally:
            os.close(handle)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("how", ["writable", "folder", "nobody's", "device"])
def test_mending_files_hits_nothing_of_roots(world: Path, rounds: int, how: str) -> None:
    theirs, names = world / "home/p", [f"prog{number}" for number in range(50)]
    theirs.mkdir()
    for name in names:
        (world / "root" / name).write_text(MARK)
        (world / "root" / name).chmod(0o600 if how == "writable" else 0o4755)
    link(world / "home/q", world / "root")

    before = state_of(world / "root")
    mended = flips = 0
    done = 0
    while done < rounds:
        bait(theirs, names, how)
        run = module("sekisho_packages").Run(Asked())
        with exchanging((theirs, world / "home/q")) as count:
            for name in names * 20:
                path = str(theirs / name)
                with contextlib.suppress(OSError):  # gone: it was mended, or is a link's
                    run.mend(path, os.lstat(path))
                    run.mend(path)
            done += 20 * len(names)
            flips += count()
        mended += len(run.done)
        if theirs.is_symlink():
            _LIBC.renameat2(_AT_FDCWD, bytes(theirs), _AT_FDCWD, bytes(world / "home/q"), _EXCHANGE)
        assert state_of(world / "root") == before
    assert mended > 0
    assert flips > AT_IT


@pytest.mark.parametrize("rounds", ROUNDS)
def test_cleaning_key_files_touches_no_others(world: Path, rounds: int) -> None:
    ssh, keys = world / "home/.ssh", world / "root/authorized_keys"
    keys.write_text("ssh-ed25519 AAAA root\n")
    keys.chmod(0o600)
    link(world / "home/way", world / "root")
    ssh.mkdir()
    own(ssh)
    before = state_of(world / "root")
    run = module("sekisho_accounts").Run(Asked())
    with exchanging((ssh, world / "home/way")) as count:
        for _ in range(rounds):
            put(ssh, "authorized_keys")
            with contextlib.suppress(OSError):
                run.clean(str(ssh / "authorized_keys"), {})
            assert keys.read_text() == "ssh-ed25519 AAAA root\n"
        flips = count()
    assert state_of(world / "root") == before
    assert run.after
    assert flips > AT_IT


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    def make(direction: str) -> Any:
        one = SimpleNamespace(
            id="20261130-0123456789abcdef", over=lambda *_: False,
            exception=SimpleNamespace(direction=direction),
        )  # fmt: skip
        monkeypatch.setattr(exception_state, "read_open", lambda *_: one)
        return one

    return make


@pytest.mark.parametrize("rounds", ROUNDS)
def test_nothing_of_roots_goes_out_under_an_exception(
    world: Path, rounds: int, opened: Callable[[str], Any]
) -> None:
    source, stick = world / "home/report", world / "root/stick"
    (world / "root/only").mkdir(mode=0o700)
    (world / "root/only/data").write_text(MARK)
    for number in range(20):
        (source / f"d{number:02}").mkdir(parents=True)
        (source / f"d{number:02}/data").write_text("harmless")
    own(source)
    way = link(world / "home/way", world / "root/only")
    digest = hashlib.sha256(MARK.encode()).hexdigest()
    told: list[dict[str, Any]] = []
    crossed = done = 0
    flips = 0
    with exchanging(*[(source / f"d{number:02}", way) for number in range(20)]) as count:
        while done < rounds:
            shutil.rmtree(stick, ignore_errors=True)
            stick.mkdir()
            with contextlib.suppress(SekishoError, OSError):
                for _ in exception_copy.copy(
                    opened("out"), source, stick, lambda _kind, data: told.append(data)
                ):
                    crossed += 1
            done += 20
            assert MARK not in [path.read_text() for path in stick.rglob("data")]
        flips = count()
    assert digest not in [data.get("sha256") for data in told]
    assert all(data["inode"] for data in told if "sha256" in data)
    assert crossed > 0
    assert flips > AT_IT


@pytest.mark.parametrize("rounds", ROUNDS)
def test_nothing_comes_into_roots_folders_under_an_exception(
    world: Path, rounds: int, opened: Callable[[str], Any]
) -> None:
    stick, place = world / "root/stick", world / "home/intake"
    (stick / "s").mkdir(parents=True)
    for number in range(20):
        (stick / f"s/evil{number}").write_text("* * * * * root id\n")
    (world / "root/cron.d").mkdir()
    crossed = done = flips = 0
    while done < rounds:
        way = link(world / "home/way", world / "root/cron.d")
        (place / "s").mkdir(parents=True)
        own(place)
        with exchanging((place / "s", way)) as count:
            for _ in range(5):
                with contextlib.suppress(SekishoError, OSError):
                    for _ in exception_copy.copy(opened("in"), stick, place, lambda *_: None):
                        crossed += 1
            flips += count()
        done += 100
        assert list((world / "root/cron.d").iterdir()) == []
        for path in (place, way):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert crossed > 0
    assert flips > AT_IT


@pytest.mark.parametrize("rounds", ROUNDS)
def test_the_senders_state_is_never_written_elsewhere(world: Path, rounds: int) -> None:
    (world / "root/data").mkdir()
    (world / "root/data/f").write_text("x")
    victim = world / "root/victim"
    victim.write_text(MARK)
    shared = world / "home/outgoing"
    shared.mkdir()
    own(shared)
    shared.chmod(0o2770)
    job = Job(world / "root/data", "inbound-1", "core-1", 1024)
    trap = world / "home/trap"
    trap.mkdir()
    for name in ("confirmed", "manifest.json", "files.json", "sequence.json", "sequence.lock"):
        link(trap / name, victim)
    (trap / "sequence.lock").unlink()
    link(trap / "sequence.lock", world / "root/nologin")
    own(trap)
    (shared / "sequence.json").write_text("{}")
    own(shared)
    link(shared / "sequence.lock", world / "root/nologin")
    before = state_of(world / "root")
    sent = flips = 0
    pairs = [(shared / job.key(), trap), (shared / "sequence.json", trap / "sequence.json")]
    with exchanging(*pairs) as count:
        for number in range(rounds // 10):
            with (
                contextlib.suppress(SekishoError, OSError),
                open_outbox(
                    shared, job, now=1, fresh=number % 2 == 0, progress=lambda _: None
                ) as box,
            ):
                for index in range(5):
                    box.confirm(index)
                sent += 1
                box.done()
        flips = count()
    assert state_of(world / "root") == before
    assert sent > 0
    assert flips > AT_IT


@pytest.mark.parametrize("rounds", ROUNDS)
def test_the_collector_gives_nothing_of_roots(world: Path, rounds: int) -> None:
    secret = world / "root/authorized_keys"
    secret.write_text(MARK)
    secret.chmod(0o600)
    home = world / "home/worker"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text("a key of worker's")
    way, file = home / "way", home / "file"
    own(home)
    link(way, world / "root")
    link(file, secret)
    pattern = Read((f"{world}/home/*/.ssh/authorized_keys",))
    given = 0
    pairs = [(home / ".ssh", way), (home / ".ssh/authorized_keys", file)]
    with exchanging(*pairs) as count:
        for _ in range(rounds):
            found = read(pattern, set())["files"]
            text = str(found)
            assert MARK not in text
            given += "a key of worker's" in text
        flips = count()
    assert given > 0
    assert flips > AT_IT


@pytest.mark.parametrize("rounds", ROUNDS)
def test_nothing_of_roots_is_sent_or_set_aside(world: Path, rounds: int) -> None:
    (world / "root/only").mkdir(mode=0o700)
    (world / "root/only/x").write_text(MARK)
    theirs = world / "home/p"
    theirs.mkdir()
    link(world / "home/q", world / "root/only")
    before = state_of(world / "root/only")
    sent = moved = 0
    (theirs / "x").write_text("harmless")
    own(theirs)
    with exchanging((theirs, world / "home/q")) as count:
        for _ in range(rounds):
            with contextlib.suppress(SekishoError, OSError), open_beneath(theirs, "x") as handle:
                text = os.pread(handle, 100, 0).decode()
                assert text == "harmless"
                sent += 1
        for _ in range(rounds // 10):
            with contextlib.suppress(OSError):
                set_aside(str(theirs / "x"), str(world / "root/shelf"))
                moved += 1
            put(theirs, "x")
        flips = count()
    assert state_of(world / "root/only") == before
    assert sent > 0
    assert moved > 0
    assert flips > AT_IT
