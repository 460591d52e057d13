"""What the sender remembers: the number of the last delivery, and which parts were confirmed.

    STATE/sequence.json                    {"from>to": last number}
    STATE/<key>/manifest.json              the delivery of this directory to this recipient
    STATE/<key>/files.json                 size, time and inode of each file then
    STATE/<key>/confirmed                  one part index a line

The key is a digest of directory, sender and recipient. A finished delivery's folder is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sekisho.canonical import canonical
from sekisho.edge.transfer_files import Found, digest_files, find_files, write_whole
from sekisho.errors import Problem, SekishoError, printable
from sekisho.transfer.manifest import Manifest, parse_manifest

MODE = 0o600


@dataclass(frozen=True, slots=True)
class Job:
    """A delivery to be sent: the directory, the two parties and the largest part in bytes."""

    root: Path
    sender: str
    recipient: str
    part_size: int

    def key(self) -> str:
        """Return the name of its folder in the state."""
        text = "\0".join([os.path.realpath(self.root), self.sender, self.recipient])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Outbox:
    """The delivery of one job, new or resumed. Use `open_outbox`."""

    def __init__(self, folder: Path, manifest: Manifest, raw: bytes, *, resumed: bool) -> None:
        self.folder, self.manifest, self.raw, self.resumed = folder, manifest, raw, resumed
        path = folder / "confirmed"
        text = path.read_text("ascii") if path.exists() else ""
        self.confirmed = {int(line) for line in text.split("\n")[:-1] if line.isdecimal()}

    def confirm(self, index: int) -> None:
        """Remember that the receiver holds a part; forgetting it costs a short question."""
        with (self.folder / "confirmed").open("a", encoding="ascii") as stream:
            stream.write(f"{index}\n")
        self.confirmed.add(index)

    def done(self) -> None:
        """Forget the delivery: it has arrived."""
        shutil.rmtree(self.folder)


@contextmanager
def open_outbox(
    state: Path, job: Job, *, now: int, fresh: bool, progress: Callable[[int], None]
) -> Iterator[Outbox]:
    """Give the outbox of ``job``; nobody else sends it meanwhile.

    An unfinished delivery of the same directory goes on if the files are still the same.
    ``fresh`` gives it up for a new one. ``now``: Unix milliseconds; ``progress`` gets hashed bytes.

    Raises:
        SekishoError: the directory cannot be sent, changed since, or is being sent already.
        OSError: the state cannot be written.

    """
    state.mkdir(mode=0o770, parents=True, exist_ok=True)
    folder = state / job.key()
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _stop(job, "being sent by another process", "one sender") from error
        found = find_files(job.root)
        if fresh:
            for name in ("manifest.json", "files.json", "confirmed"):
                (folder / name).unlink(missing_ok=True)
        if (folder / "manifest.json").exists():
            yield _resume(folder, job, found)
        else:
            yield _begin(state, folder, job, found, now, progress)
    finally:
        os.close(fd)


def _stop(job: Job, got: str, expected: str, hint: str = "") -> SekishoError:
    problem = Problem(printable(str(job.root)), "", got, expected, hint=hint)
    return SekishoError("the directory cannot be sent", (problem,))


def _prints(found: list[Found]) -> bytes:
    return canonical([[one.path, one.size, one.mtime_ns, one.inode] for one in found])


def _resume(folder: Path, job: Job, found: list[Found]) -> Outbox:
    raw = (folder / "manifest.json").read_bytes()
    manifest = parse_manifest(raw)
    if (folder / "files.json").read_bytes() != _prints(found):
        text = f"files that changed since delivery {manifest.delivery} was begun"
        raise _stop(job, text, "the same files", "--new begins another delivery")
    return Outbox(folder, manifest, raw, resumed=True)


def _begin(  # noqa: PLR0913, PLR0917 - the other half of open_outbox
    state: Path,
    folder: Path,
    job: Job,
    found: list[Found],
    now: int,
    progress: Callable[[int], None],
) -> Outbox:
    entries = digest_files(job.root, found, job.part_size, progress)
    manifest = Manifest(
        delivery=secrets.token_hex(16),
        sequence=_next_number(state, f"{job.sender}>{job.recipient}"),
        sender=job.sender,
        recipient=job.recipient,
        created=now,
        files=entries,
        total=sum(entry.size for entry in entries),
    )
    raw = manifest.to_bytes()
    parse_manifest(raw)  # what the receiver will say
    (folder / "confirmed").unlink(missing_ok=True)
    write_whole(folder / "files.json", _prints(found), MODE)
    write_whole(folder / "manifest.json", raw, MODE)
    return Outbox(folder, manifest, raw, resumed=False)


def _next_number(state: Path, pair: str) -> int:
    """Take the next number between two parties, durably: a number is never used twice."""
    path = state / "sequence.json"
    fd = os.open(state / "sequence.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            numbers = json.loads(path.read_bytes()) if path.exists() else {}
            number = numbers.get(pair, 0) + 1
        except (ValueError, AttributeError, TypeError) as error:
            problem = Problem(str(path), "", printable(str(error)), "numbers by pair")
            raise SekishoError("the count of deliveries cannot be read", (problem,)) from error
        write_whole(path, canonical({**numbers, pair: number}), 0o660)
    finally:
        os.close(fd)
    return int(number)
