"""What the sender remembers: the number of the last delivery, and which parts were confirmed.

    STATE/sequence.json                    {"from>to": last number}
    STATE/<key>/manifest.json              the delivery of this directory to this recipient
    STATE/<key>/files.json                 size, time and inode of each file then
    STATE/<key>/confirmed                  one part index a line

The key is a digest of directory, sender and recipient. A finished delivery's folder is removed.
STATE may be a folder in which others write, too (a group's): everything in it is reached by
handles, no link is followed, and a delivery's folder counts only when it is the sender's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.safe_files import Folder, UnsafeError, read_up_to, write_all
from sekisho.host.transfer.files import Found, digest_files, find_files
from sekisho.transfer.manifest import Manifest, parse_manifest

MODE = 0o600
MAX_STATE = 64 * 1024 * 1024
MAX_NUMBERS = 1024 * 1024
LOCK_SECONDS = 10.0
_MANIFEST, _FILES, _CONFIRMED = "manifest.json", "files.json", "confirmed"
_SEQUENCE = "sequence.json"


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

    def __init__(self, folder: Folder, manifest: Manifest, raw: bytes, *, resumed: bool) -> None:
        self.manifest, self.raw, self.resumed = manifest, raw, resumed
        self._folder = folder
        with contextlib.suppress(FileExistsError):
            os.close(folder.create(_CONFIRMED, MODE))
        # Held from here on: what takes the name's place later is not written to.
        with folder.pin(_CONFIRMED) as found:
            self._log = found.open(os.O_RDWR | os.O_APPEND)
        text = read_up_to(self._log, MAX_STATE).decode("ascii", "replace")
        lines = text.split("\n")[:-1]
        self.confirmed = {int(line) for line in lines if re.fullmatch("[0-9]{1,9}", line)}

    def confirm(self, index: int) -> None:
        """Remember that the receiver holds a part; forgetting it costs a short question."""
        write_all(self._log, f"{index}\n".encode())
        self.confirmed.add(index)

    def done(self) -> None:
        """Forget the delivery: it has arrived. The empty folder goes when it is let go."""
        for name in self._folder.names():
            self._folder.unlink(name)

    def close(self) -> None:
        """Let the handle go."""
        os.close(self._log)


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
    with Folder.open(str(state), make=0o770) as shared, _own(shared, job) as folder:
        found = find_files(job.root)
        if fresh:
            for name in (_MANIFEST, _FILES, _CONFIRMED):
                folder.unlink(name, missing_ok=True)
        if folder.stat(_MANIFEST) is not None:
            box = _resume(folder, job, found)
        else:
            box = _begin(shared, folder, job, found, now, progress)
        try:
            yield box
        finally:
            box.close()


@contextmanager
def _own(shared: Folder, job: Job) -> Iterator[Folder]:
    """Give the job's folder, locked. Others may write in ``shared``: it must be our own."""
    key = job.key()
    with shared.make(key, 0o700) as folder, folder.opened() as handle:
        if folder.info.st_uid != os.geteuid() or folder.info.st_mode & 0o022:
            info = folder.info
            got = f"{folder.path} of uid {info.st_uid}, mode {info.st_mode & 0o7777:04o}"
            raise _stop(job, got, "a folder of the sender's alone", "take it away, or --state")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _stop(job, "being sent by another process", "one sender") from error
        yield folder
        if not folder.names():
            with contextlib.suppress(OSError):
                os.rmdir(key, dir_fd=shared.handle)


def _stop(job: Job, got: str, expected: str, hint: str = "") -> SekishoError:
    problem = Problem(printable(str(job.root)), "", got, expected, hint=hint)
    return SekishoError("the directory cannot be sent", (problem,))


def _prints(found: list[Found]) -> bytes:
    return canonical([[one.path, one.size, one.mtime_ns, one.inode] for one in found])


def _resume(folder: Folder, job: Job, found: list[Found]) -> Outbox:
    raw = folder.read(_MANIFEST, MAX_STATE)
    manifest = parse_manifest(raw)
    if folder.read(_FILES, MAX_STATE) != _prints(found):
        text = f"files that changed since delivery {manifest.delivery} was begun"
        raise _stop(job, text, "the same files", "--new begins another delivery")
    return Outbox(folder, manifest, raw, resumed=True)


def _begin(  # noqa: PLR0913, PLR0917 - the other half of open_outbox
    shared: Folder,
    folder: Folder,
    job: Job,
    found: list[Found],
    now: int,
    progress: Callable[[int], None],
) -> Outbox:
    entries = digest_files(job.root, found, job.part_size, progress)
    manifest = Manifest(
        delivery=secrets.token_hex(16),
        sequence=_next_number(shared, f"{job.sender}>{job.recipient}"),
        sender=job.sender,
        recipient=job.recipient,
        created=now,
        files=entries,
        total=sum(entry.size for entry in entries),
    )
    raw = manifest.to_bytes()
    parse_manifest(raw)  # what the receiver will say
    folder.unlink(_CONFIRMED, missing_ok=True)
    folder.write(_FILES, _prints(found), MODE)
    folder.write(_MANIFEST, raw, MODE)
    return Outbox(folder, manifest, raw, resumed=False)


def _next_number(shared: Folder, pair: str) -> int:
    """Take the next number between two parties, durably: a number is never used twice."""
    where = f"{shared.path}/{_SEQUENCE}"
    with shared.opened() as handle:
        _lock(handle, where)
        try:
            there = shared.stat(_SEQUENCE) is not None
            numbers = json.loads(shared.read(_SEQUENCE, MAX_NUMBERS)) if there else {}
            number = numbers.get(pair, 0) + 1
        except (UnsafeError, ValueError, AttributeError, TypeError, RecursionError) as error:
            problem = Problem(where, "", printable(str(error), 200), "numbers by pair")
            raise SekishoError("the count of deliveries cannot be read", (problem,)) from error
        shared.write(_SEQUENCE, canonical({**numbers, pair: number}), 0o660)
    return int(number)


def _lock(handle: int, where: str) -> None:
    """Lock the shared folder; whoever else may write there could hold it for ever."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                problem = Problem(where, "", f"locked for {LOCK_SECONDS:g} s", "a moment's lock")
                raise SekishoError("the next number cannot be taken", (problem,)) from None
            time.sleep(0.02)
        else:
            return
