"""What is kept of orders on a host, and of open device exceptions.

Standard library only: udev's helper reads it too.

``/run/sekisho-exception/open.json`` is the one exception that stands open now, gone with a restart;
``/var/lib/sekisho/orders/ID.json`` remembers every order of any kind that was used, before anything
was opened;
``…/orders/spool/`` holds events the journal could not take yet; the agent brings them in.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import write_atomic
from sekisho.devices.exception import DeviceException, parse_exception

RUN = Path("/run/sekisho-exception")
#: In ``RUN``: the USB device whose disk the disk wall (agent/helpers/disk-wall) leaves alone.
DISK = "disk"
STATE = Path("/var/lib/sekisho/orders")
LIMIT = 128 * 1024
MAX_SPOOL = 10_000
#: What may wait for the journal.
SPOOLED = ("exception.", "maintenance.")


@dataclass(frozen=True, slots=True)
class Open:
    """The exception that stands open.

    Attributes:
        id: its order.
        exception: device and direction.
        end: Unix seconds at which it is over.
        deadline: the same on the clock that nobody sets (``CLOCK_BOOTTIME``), seconds.

    """

    id: str
    exception: DeviceException
    end: int
    deadline: int

    def over(self, now: float, boottime: float) -> bool:
        """Tell whether it is past its end by either clock."""
        return now >= self.end or boottime >= self.deadline


def read_open(run: Path = RUN) -> Open | None:
    """Return the exception that stands open, None when there is none.

    Raises:
        SekishoError: the file is not root's alone, or garbled. Nothing is excepted then.

    """
    path = run / "open.json"
    try:
        with path.open("rb") as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o22:
                raise SekishoError(f"{path} is not a file that only root can write")
            raw = stream.read(LIMIT)
    except FileNotFoundError:
        return None
    except OSError as bad:
        raise SekishoError(f"{path}: {bad.strerror}") from None
    try:
        value = json.loads(raw)
        found = parse_exception(str(path), value["content"])
        numbers = (value["end"], value["deadline"])
        if not all(type(number) is int for number in numbers) or type(value["id"]) is not str:
            raise ValueError("numbers and a name")  # noqa: TRY301 - one refusal
        return Open(value["id"], found, *numbers)
    except (ValueError, KeyError, TypeError, RecursionError) as bad:
        problem = Problem(str(path), "", printable(str(bad), 80), "what `apply` wrote", "6-iii-c")
        raise SekishoError("which exception is open cannot be told", (problem,)) from None


def write_open(value: Open, run: Path = RUN) -> None:
    """Let udev's helper know of it from now on."""
    run.mkdir(mode=0o700, exist_ok=True)
    content = {
        "id": value.id,
        "content": value.exception.as_json(),
        "end": value.end,
        "deadline": value.deadline,
    }
    write_atomic(run / "open.json", canonical(content) + b"\n")


def forget_open(run: Path = RUN) -> None:
    """Let nothing more in by it."""
    for name in ("open.json", DISK):  # also where the disk was pulled out before its end
        (run / name).unlink(missing_ok=True)


@contextlib.contextmanager
def alone(state: Path = STATE) -> Iterator[None]:
    """Hold the one lock of opening and closing."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(
        state / ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def entries(state: Path = STATE) -> dict[str, dict[str, Any]]:
    """Return id → what is remembered of an order; one that is garbled stands as ``broken``."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(state.glob("*.json")):
        try:
            value = json.loads(path.read_bytes()[:LIMIT])
            if value["state"] not in ("open", "closed") or value["id"] != path.stem:
                raise ValueError("another state or name")  # noqa: TRY301
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as bad:
            value = {"id": path.stem, "state": "broken", "error": printable(str(bad), 80)}
        found[path.stem] = value
    return found


def remember(entry: Mapping[str, Any], state: Path = STATE) -> None:
    """Remember an order as used, durably; SekishoError when it is known already."""
    path = state / f"{entry['id']}.json"
    # The entry is whole before it has its name, and no other may have that name: link, not rename.
    fresh = state / f".{entry['id']}.{os.getpid()}"
    write_atomic(fresh, canonical(dict(entry)) + b"\n")
    try:
        os.link(fresh, path)
    except FileExistsError:
        problem = Problem(str(path), "", "an order that was used", "a new order", "6-iii-c")
        raise SekishoError(
            "the order was used before and opens nothing again", (problem,)
        ) from None
    finally:
        fresh.unlink()
    folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def update(entry: Mapping[str, Any], state: Path = STATE) -> None:
    """Write what is remembered of an order anew."""
    write_atomic(state / f"{entry['id']}.json", canonical(dict(entry)) + b"\n")


def spool(kind: str, data: Mapping[str, Any], state: Path = STATE) -> Path:
    """Keep an event until the journal takes it; returns its file."""
    folder = state / "spool"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{time.time_ns():020d}-{os.getpid()}.json"
    write_atomic(path, canonical({"kind": kind, "data": dict(data)}) + b"\n")
    return path


def spooled(state: Path = STATE) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Yield (file, kind, data) of waiting events, oldest first; a garbled one as such."""
    for path in sorted((state / "spool").glob("*.json"))[:MAX_SPOOL]:
        try:
            value = json.loads(path.read_bytes()[:LIMIT])
            kind, data = value["kind"], value["data"]
            if not str(kind).startswith(SPOOLED) or type(data) is not dict:
                raise ValueError("another kind")  # noqa: TRY301
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            kind, data = "exception.garbled", {"file": path.name}
        yield path, kind, data
